//! `/api/projects/{project}/git-credential`: what git in the sandbox shows to its repository's server.

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

/// For which repository the project has a credential; the password is never shown
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

/// Sets the credential that git in the sandbox is given for one repository
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

/// Forgets the project's credential for git
#[utoipa::path(delete, path = "/api/projects/{project}/git-credential", tag = "git",
    params(("project" = String, Path, description = "id or name")),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = ErrorBody)))]
async fn forget(State(app): State<App>, caller: Caller, Path(project): Path<String>) -> Result<StatusCode> {
    git::forget(&app, &caller, &project).await?;
    Ok(StatusCode::NO_CONTENT)
}
