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

use super::prefer::Wait;
use crate::{
    auth::Caller,
    error::{Error, Result},
    extract::{Json, JsonOrNothing, Path},
    projects::{
        lifecycle::{self, Ask},
        status, validate,
    },
    state::App,
    store::projects::{self, Overview},
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
    params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = Sandbox), (status = NOT_FOUND, body = ErrorBody)))]
async fn show(State(app): State<App>, caller: Caller, Path(project): Path<String>) -> Result<Json<Sandbox>> {
    let overview = projects::overview(&app.store, &caller, &project).await?;
    sandbox(&app, &overview).map(Json)
}

/// Creates, starts or restarts the sandbox
#[utoipa::path(post, path = "/api/sandbox/{project}", tag = "sandbox", request_body = Option<StartSandbox>,
    params(("project" = String, Path, description = "id or name"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it runs, or after N seconds")),
    responses((status = OK, description = "it runs", body = Sandbox), (status = ACCEPTED, body = Sandbox),
              (status = NOT_FOUND, body = ErrorBody), (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn start_or_restart(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    wait: Wait,
    JsonOrNothing(request): JsonOrNothing<StartSandbox>,
) -> Result<Response> {
    validate::plain_variables(&request.env_vars)?;
    let variables = request
        .env_vars
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    asked(&app, &caller, &project, wait, Ask::StartOrRestart(variables)).await
}

/// Terminates the sandbox; files and database are kept
#[utoipa::path(delete, path = "/api/sandbox/{project}", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it is gone, or after N seconds")),
    responses((status = OK, description = "it is gone", body = Sandbox), (status = ACCEPTED, body = Sandbox),
              (status = NOT_FOUND, body = ErrorBody), (status = CONFLICT, body = ErrorBody)))]
async fn terminate(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    wait: Wait,
) -> Result<Response> {
    asked(&app, &caller, &project, wait, Ask::Terminate).await
}

/// Starts the sandbox
#[utoipa::path(post, path = "/api/projects/{project}/start", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it runs, or after N seconds")),
    responses((status = OK, description = "it runs", body = Sandbox), (status = ACCEPTED, body = Sandbox),
              (status = NOT_FOUND, body = ErrorBody)))]
async fn start(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    wait: Wait,
) -> Result<Response> {
    asked(&app, &caller, &project, wait, Ask::Start).await
}

/// Stops the sandbox; its files are kept
#[utoipa::path(post, path = "/api/projects/{project}/stop", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it is stopped, or after N seconds")),
    responses((status = OK, description = "it is stopped", body = Sandbox), (status = ACCEPTED, body = Sandbox),
              (status = NOT_FOUND, body = ErrorBody), (status = CONFLICT, body = ErrorBody)))]
async fn stop(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    wait: Wait,
) -> Result<Response> {
    asked(&app, &caller, &project, wait, Ask::Stop).await
}

/// Restarts the sandbox
#[utoipa::path(post, path = "/api/projects/{project}/restart", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it runs, or after N seconds")),
    responses((status = OK, description = "it runs", body = Sandbox), (status = ACCEPTED, body = Sandbox),
              (status = NOT_FOUND, body = ErrorBody)))]
async fn restart(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    wait: Wait,
) -> Result<Response> {
    asked(&app, &caller, &project, wait, Ask::Restart).await
}

async fn asked(app: &App, caller: &Caller, project: &str, wait: Wait, ask: Ask) -> Result<Response> {
    let wished = lifecycle::ask(app, caller, project, ask).await?;
    let body = |overview: &Overview| Ok(Json(sandbox(app, overview)?).into_response());
    wait.answer(app, caller, wished, body).await
}

fn sandbox(app: &App, overview: &Overview) -> Result<Sandbox> {
    status::sandbox(&app.settings, overview).ok_or_else(|| {
        Error::not_found("sandbox")
            .saying("This project has no sandbox: it was terminated. A POST to this path makes a new one.")
            .of(overview.project.id)
    })
}
