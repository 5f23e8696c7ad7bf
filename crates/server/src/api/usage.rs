//! Resource usage of a sandbox: `/api/projects/{project}/usage`, as its data plane measures it from outside.

use std::time::Duration;

use axum::extract::State;
use fsa_model::{ErrorBody, sandboxd::Usage};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::in_branch::InBranch;
use crate::{
    auth::{Caller, permission::Read},
    error::{Error, Result},
    extract::Json,
    sandbox_client::RunningSandbox,
    state::App,
    store::branches,
};

/// Timeout for the measurement by the data plane.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(usage))
}

/// Current resource usage of the sandbox
#[utoipa::path(get, path = "/api/projects/{project}/usage", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = Usage), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run")))]
async fn usage(State(app): State<App>, caller: Caller, InBranch(project): InBranch) -> Result<Json<Usage>> {
    let project = branches::find::<Read>(&app.store, &caller, &project).await?;
    let sandbox = RunningSandbox::of(&app, &project).await?;
    let usage = tokio::time::timeout(MEASURE_TIMEOUT, sandbox.usage())
        .await
        .map_err(|_| Error::unavailable("The region does not answer."))??;
    Ok(Json(usage))
}
