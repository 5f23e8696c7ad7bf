//! Agent budgets and credentials: `/api/projects/{project}/agent` and `/api/me/agent-credentials`.

use axum::extract::State;
use fsa_model::{
    ErrorBody,
    agent_api::{AgentAccount, ChangeAgentAccount},
    api::{ChangeEnvironment, EnvironmentView},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::Caller,
    error::Result,
    extract::{Json, Path},
    llm_proxy::account,
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(show, change))
        .routes(routes!(credentials, change_credentials))
}

/// The monthly budget of the project's agents, and what they have spent
#[utoipa::path(get, path = "/api/projects/{project}/agent", tag = "agents",
    params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = AgentAccount), (status = NOT_FOUND, body = ErrorBody)))]
async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Json<AgentAccount>> {
    account::view(&app, &caller, &project).await.map(Json)
}

/// Changes the monthly budget of the project's agents
#[utoipa::path(patch, path = "/api/projects/{project}/agent", tag = "agents",
    request_body = ChangeAgentAccount, params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = AgentAccount), (status = NOT_FOUND, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    Json(request): Json<ChangeAgentAccount>,
) -> Result<Json<AgentAccount>> {
    account::change(&app, &caller, &project, request).await.map(Json)
}

/// Names of your own variables for agents; values are never returned
#[utoipa::path(get, path = "/api/me/agent-credentials", tag = "agents",
    responses((status = OK, body = EnvironmentView), (status = UNAUTHORIZED, body = ErrorBody)))]
async fn credentials(State(app): State<App>, caller: Caller) -> Result<Json<EnvironmentView>> {
    account::credentials(&app, &caller).await.map(Json)
}

/// Sets your own variables for agents in all your projects; null removes one
#[utoipa::path(patch, path = "/api/me/agent-credentials", tag = "agents", request_body = ChangeEnvironment,
    responses((status = OK, body = EnvironmentView), (status = UNAUTHORIZED, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn change_credentials(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<ChangeEnvironment>,
) -> Result<Json<EnvironmentView>> {
    account::change_credentials(&app, &caller, request)
        .await
        .map(Json)
}
