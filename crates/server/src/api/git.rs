//! Git operations in the project's folder: `/api/projects/{project}/git/…`.

use axum::extract::State;
use fsa_model::{
    ErrorBody,
    git::{GitCommit, GitDiff, GitPaths, GitPublish, GitStatus},
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::in_branch::InBranch;
use crate::{
    auth::Caller,
    error::Result,
    extract::{Json, Query},
    git,
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(diff))
        .routes(routes!(stage))
        .routes(routes!(unstage))
        .routes(routes!(commit))
        .routes(routes!(push))
        .routes(routes!(pull))
        .routes(routes!(abort))
        .routes(routes!(publish))
}

/// Changes in the project's repository
#[utoipa::path(get, path = "/api/projects/{project}/git/status", tag = "git",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = GitStatus), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run")))]
async fn status(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
) -> Result<Json<GitStatus>> {
    git::view(&app, &caller, &project).await.map(Json)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DiffQuery {
    /// One file; if absent, all files except untracked ones.
    path: Option<String>,
    /// Staged changes, compared with the last commit.
    #[serde(default)]
    staged: bool,
    /// Name of a branch; `main` by default.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

/// Differences of files in the project's repository
#[utoipa::path(get, path = "/api/projects/{project}/git/diff", tag = "git",
    params(("project" = String, Path, description = "id or name"), DiffQuery),
    responses((status = OK, body = GitDiff), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody), (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn diff(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Query(query): Query<DiffQuery>,
) -> Result<Json<GitDiff>> {
    git::diff(&app, &caller, &project, query.path.as_deref(), query.staged)
        .await
        .map(Json)
}

/// Stages files for the next commit
#[utoipa::path(post, path = "/api/projects/{project}/git/stage", tag = "git", request_body = GitPaths,
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = GitStatus), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody), (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn stage(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Json(request): Json<GitPaths>,
) -> Result<Json<GitStatus>> {
    git::stage(&app, &caller, &project, &request).await.map(Json)
}

/// Unstages files
#[utoipa::path(post, path = "/api/projects/{project}/git/unstage", tag = "git", request_body = GitPaths,
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = GitStatus), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody), (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn unstage(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Json(request): Json<GitPaths>,
) -> Result<Json<GitStatus>> {
    git::unstage(&app, &caller, &project, &request).await.map(Json)
}

/// Commits the staged changes
#[utoipa::path(post, path = "/api/projects/{project}/git/commit", tag = "git", request_body = GitCommit,
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = GitStatus), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "there is nothing to commit"),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn commit(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Json(request): Json<GitCommit>,
) -> Result<Json<GitStatus>> {
    git::commit(&app, &caller, &project, &request).await.map(Json)
}

/// Pushes the branch
#[utoipa::path(post, path = "/api/projects/{project}/git/push", tag = "git",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = GitStatus), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "it was refused; the message says what to do")))]
async fn push(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
) -> Result<Json<GitStatus>> {
    git::push(&app, &caller, &project).await.map(Json)
}

/// Fetches and merges the upstream branch
#[utoipa::path(post, path = "/api/projects/{project}/git/pull", tag = "git",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = GitStatus), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "with the files that both sides changed, where the merge conflicts")))]
async fn pull(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
) -> Result<Json<GitStatus>> {
    git::pull(&app, &caller, &project).await.map(Json)
}

/// Aborts a merge that has conflicts
#[utoipa::path(post, path = "/api/projects/{project}/git/abort", tag = "git",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = GitStatus), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "there is none")))]
async fn abort(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
) -> Result<Json<GitStatus>> {
    git::abort(&app, &caller, &project).await.map(Json)
}

/// Creates a repository at GitHub from the project, and pushes to it
#[utoipa::path(post, path = "/api/projects/{project}/git/publish", tag = "git", request_body = GitPublish,
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = GitStatus), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "it has an origin, no account is linked, or GitHub refuses"),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody), (status = BAD_GATEWAY, body = ErrorBody)))]
async fn publish(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Json(request): Json<GitPublish>,
) -> Result<Json<GitStatus>> {
    git::publish::publish(&app, &caller, &project, &request)
        .await
        .map(Json)
}
