//! Git credential of a project: `/api/projects/{project}/git-credential`, for git in the sandbox.

use axum::extract::State;
use fsa_model::{
    ErrorBody,
    agent_api::{GitCredential, SetGitCredential},
};
use http::StatusCode;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::Caller,
    error::Result,
    extract::{Json, Path},
    projects::git,
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show, set, forget))
}

/// The repository that the project has a credential for; the password is never returned
#[utoipa::path(get, path = "/api/projects/{project}/git-credential", tag = "git",
    params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = GitCredential), (status = NOT_FOUND, body = ErrorBody)))]
async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Json<GitCredential>> {
    git::view(&app, &caller, &project).await.map(Json)
}

/// Sets the credential that git in the sandbox uses for one repository
#[utoipa::path(put, path = "/api/projects/{project}/git-credential", tag = "git",
    request_body = SetGitCredential, params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = GitCredential), (status = NOT_FOUND, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn set(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    Json(request): Json<SetGitCredential>,
) -> Result<Json<GitCredential>> {
    git::set(&app, &caller, &project, request).await.map(Json)
}

/// Deletes the project's git credential
#[utoipa::path(delete, path = "/api/projects/{project}/git-credential", tag = "git",
    params(("project" = String, Path, description = "id or name")),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = ErrorBody)))]
async fn forget(State(app): State<App>, caller: Caller, Path(project): Path<String>) -> Result<StatusCode> {
    git::delete(&app, &caller, &project).await?;
    Ok(StatusCode::NO_CONTENT)
}
