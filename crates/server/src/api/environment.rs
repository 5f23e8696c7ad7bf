//! Environment variables and database of a project: `/api/projects/{project}/environment` and
//! `/api/projects/{project}/database`. Values that may be secret are shown only with `reveal`.

use axum::{body::Body, extract::State, response::Response};
use fsa_model::{
    ErrorBody,
    api::{ChangeEnvironment, Database, EnvironmentView},
};
use http::Request;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::in_branch::InBranch;
use crate::{
    auth::{Caller, permission::Write},
    error::Result,
    extract::{Json, Query},
    projects::{self, environment},
    sandbox_client::{Handshake, stream_end},
    state::App,
    store::branches,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(show, replace, change))
        .routes(routes!(database))
        .routes(routes!(connect_database))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Reveal {
    /// Show secret values; this is recorded in the audit log.
    #[serde(default)]
    reveal: bool,
    /// Name of a branch; `main` by default.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

/// Names of the variables, and with `reveal` their values
#[utoipa::path(get, path = "/api/projects/{project}/environment", tag = "environment",
    params(("project" = String, Path, description = "id or name"), Reveal),
    responses((status = OK, body = EnvironmentView), (status = NOT_FOUND, body = ErrorBody)))]
async fn show(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Query(Reveal { reveal, .. }): Query<Reveal>,
) -> Result<Json<EnvironmentView>> {
    environment::view(&app, &caller, &project, reveal).await.map(Json)
}

/// Replaces all variables; a running sandbox restarts if this changes any
#[utoipa::path(put, path = "/api/projects/{project}/environment", tag = "environment",
    request_body = ChangeEnvironment, params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = EnvironmentView), (status = NOT_FOUND, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn replace(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Json(request): Json<ChangeEnvironment>,
) -> Result<Json<EnvironmentView>> {
    environment::replace(&app, &caller, &project, request)
        .await
        .map(Json)
}

/// Sets variables; null removes one; a running sandbox restarts if this changes any
#[utoipa::path(patch, path = "/api/projects/{project}/environment", tag = "environment",
    request_body = ChangeEnvironment, params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = EnvironmentView), (status = NOT_FOUND, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn change(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Json(request): Json<ChangeEnvironment>,
) -> Result<Json<EnvironmentView>> {
    environment::change(&app, &caller, &project, request)
        .await
        .map(Json)
}

/// The project's database, and with `reveal` its connection details
#[utoipa::path(get, path = "/api/projects/{project}/database", tag = "environment",
    params(("project" = String, Path, description = "id or name"), Reveal),
    responses((status = OK, body = Database), (status = NOT_FOUND, body = ErrorBody)))]
async fn database(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Query(Reveal { reveal, .. }): Query<Reveal>,
) -> Result<Json<Database>> {
    projects::database::view(&app, &caller, &project, reveal)
        .await
        .map(Json)
}

/// Opens a connection to the project's database server: a WebSocket with PostgreSQL's protocol in binary messages
#[utoipa::path(get, path = "/api/projects/{project}/database/connection", tag = "environment",
    description = "The bytes of a connection to the database server in binary messages, both ways, whose boundaries \
                   mean nothing. `fsa db url --tunnel` offers it as a port on the client's machine.",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = SWITCHING_PROTOCOLS), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the database is not ready, or the sandbox does not run"),
              (status = UPGRADE_REQUIRED, body = ErrorBody),
              (status = BAD_GATEWAY, body = ErrorBody, description = "the database server cannot be reached")))]
async fn connect_database(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    request: Request<Body>,
) -> Result<Response> {
    let project = branches::find::<Write>(&app.store, &caller, &project).await?;
    let handshake = Handshake::check(request, None)?;
    let permit = app.streams.acquire(&app, &caller)?;
    let connection = projects::database::connect(&app, &project).await?;
    let end = stream_end(app.core().clone(), project.into_project());
    Ok(handshake.carry(&app, connection, end, permit))
}
