//! Sandbox of a project: `/api/sandbox/{projectId}`, and the lifecycle actions
//! `/api/projects/{project}/{start,stop,restart}`.

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use fsa_model::{
    ErrorBody,
    api::{Sandbox, StartSandbox},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{in_branch::InBranch, prefer::Wait};
use crate::{
    auth::Caller,
    error::{Error, Result},
    extract::{Json, OptionalJson},
    projects::{
        lifecycle::{self, LifecycleAction},
        status, validate,
    },
    state::App,
    store::{
        branches::BranchReference,
        projects::{self, Overview},
    },
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(show, start_or_restart, terminate))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(restart))
}

/// Status and URLs of a project's sandbox
#[utoipa::path(get, path = "/api/sandbox/{project}", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = Sandbox), (status = NOT_FOUND, body = ErrorBody)))]
async fn show(State(app): State<App>, caller: Caller, InBranch(project): InBranch) -> Result<Json<Sandbox>> {
    let overview = projects::overview(&app.store, &caller, &project).await?;
    sandbox(&app, &overview).map(Json)
}

/// Creates, starts or restarts the sandbox
#[utoipa::path(post, path = "/api/sandbox/{project}", tag = "sandbox", request_body = Option<StartSandbox>,
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it runs, or after N seconds")),
    responses((status = OK, description = "it runs", body = Sandbox), (status = ACCEPTED, body = Sandbox),
              (status = NOT_FOUND, body = ErrorBody), (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn start_or_restart(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    wait: Wait,
    OptionalJson(start): OptionalJson<StartSandbox>,
) -> Result<Response> {
    validate::plain_variables(&start.env_vars)?;
    let variables = start
        .env_vars
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    request(
        &app,
        &caller,
        &project,
        wait,
        LifecycleAction::StartOrRestart(variables),
    )
    .await
}

/// Terminates the sandbox; files and database are kept
#[utoipa::path(delete, path = "/api/sandbox/{project}", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it is gone, or after N seconds")),
    responses((status = OK, description = "it is gone", body = Sandbox), (status = ACCEPTED, body = Sandbox),
              (status = NOT_FOUND, body = ErrorBody), (status = CONFLICT, body = ErrorBody)))]
async fn terminate(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    wait: Wait,
) -> Result<Response> {
    request(&app, &caller, &project, wait, LifecycleAction::Terminate).await
}

/// Starts the sandbox
#[utoipa::path(post, path = "/api/projects/{project}/start", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it runs, or after N seconds")),
    responses((status = OK, description = "it runs", body = Sandbox), (status = ACCEPTED, body = Sandbox),
              (status = NOT_FOUND, body = ErrorBody)))]
async fn start(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    wait: Wait,
) -> Result<Response> {
    request(&app, &caller, &project, wait, LifecycleAction::Start).await
}

/// Stops the sandbox; its files are kept
#[utoipa::path(post, path = "/api/projects/{project}/stop", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it is stopped, or after N seconds")),
    responses((status = OK, description = "it is stopped", body = Sandbox), (status = ACCEPTED, body = Sandbox),
              (status = NOT_FOUND, body = ErrorBody), (status = CONFLICT, body = ErrorBody)))]
async fn stop(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    wait: Wait,
) -> Result<Response> {
    request(&app, &caller, &project, wait, LifecycleAction::Stop).await
}

/// Restarts the sandbox
#[utoipa::path(post, path = "/api/projects/{project}/restart", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it runs, or after N seconds")),
    responses((status = OK, description = "it runs", body = Sandbox), (status = ACCEPTED, body = Sandbox),
              (status = NOT_FOUND, body = ErrorBody)))]
async fn restart(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    wait: Wait,
) -> Result<Response> {
    request(&app, &caller, &project, wait, LifecycleAction::Restart).await
}

async fn request(
    app: &App,
    caller: &Caller,
    project: &BranchReference,
    wait: Wait,
    action: LifecycleAction,
) -> Result<Response> {
    let overview = lifecycle::request(app, caller, project, action).await?;
    let body = |overview: &Overview| Ok(Json(sandbox(app, overview)?).into_response());
    wait.answer(app, caller, overview, body).await
}

fn sandbox(app: &App, overview: &Overview) -> Result<Sandbox> {
    status::sandbox(&app.settings, overview).ok_or_else(|| {
        Error::not_found("sandbox")
            .with_message(
                "This branch has no sandbox: it was terminated. A POST to this path creates a new one.",
            )
            .with_project(overview.project.id)
    })
}
