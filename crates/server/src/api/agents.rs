//! List of agents that can run tasks: `/api/agents`.

use fsa_model::{
    ErrorBody,
    agent::{Agent, AgentInfo},
    api::Page,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{auth::Caller, extract::Json, state::App};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The agents that can run tasks, the default first
#[utoipa::path(get, path = "/api/agents", tag = "agents",
    responses((status = OK, body = Page<AgentInfo>), (status = UNAUTHORIZED, body = ErrorBody)))]
async fn list(_: Caller) -> Json<Page<AgentInfo>> {
    Json(Page {
        items: Agent::ALL.iter().map(|&agent| agent.into()).collect(),
        next_cursor: None,
    })
}
