//! Environment variables and database of a project: `/api/projects/{project}/environment` and
//! `/api/projects/{project}/database`. Values that may be secret are shown only with `reveal`.

use axum::extract::State;
use fsa_model::{
    ErrorBody,
    api::{ChangeEnvironment, Database, EnvironmentView},
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::in_branch::InBranch;
use crate::{
    auth::Caller,
    error::Result,
    extract::{Json, Query},
    projects::{self, environment},
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(show, replace, change))
        .routes(routes!(database))
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
