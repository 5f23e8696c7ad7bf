//! Project resource: `/api/projects` and `/api/projects/{project}`.

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use fsa_model::{
    ErrorBody,
    api::{ChangeProject, CreateProject, Page, Project},
};
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{cursor::AfterProject, in_branch::InBranch, prefer::Wait, sse};
use crate::{
    auth::Caller,
    error::{Error, Result},
    extract::{Json, Path, Query},
    projects::{self, lifecycle::WaitOutcome, status},
    state::App,
    store::{self, projects::Overview},
};

/// Default and maximum number of projects per page.
const MAX_PAGE_SIZE: u16 = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, change, delete))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// `nextCursor` of the previous page.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: AfterProject,
    /// Number of projects per page, 1 to 100.
    #[serde(default)]
    limit: Option<u16>,
}

/// Lists your projects and those shared with you, by name
#[utoipa::path(get, path = "/api/projects", tag = "projects", params(ListQuery),
    responses((status = OK, body = Page<Project>), (status = UNAUTHORIZED, body = ErrorBody)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(ListQuery { cursor, limit }): Query<ListQuery>,
) -> Result<Json<Page<Project>>> {
    let limit = limit.unwrap_or(MAX_PAGE_SIZE);
    if !(1..=MAX_PAGE_SIZE).contains(&limit) {
        return Err(Error::invalid(
            "limit",
            format!("it is a number from 1 to {MAX_PAGE_SIZE}"),
        ));
    }
    let after = (cursor.name.as_str(), cursor.id);
    let found = store::projects::list(&app.store, &caller, after, i64::from(limit) + 1).await?;
    let items = found
        .iter()
        .map(|overview| status::project(&app.settings, overview))
        .collect();
    let page = sse::page(items, limit.into(), |last| AfterProject::of(last).to_string());
    Ok(Json(page))
}

/// Creates a project; its sandbox starts unless `start` is false
#[utoipa::path(post, path = "/api/projects", tag = "projects", request_body = CreateProject,
    params(("Prefer" = Option<String>, Header, description = "wait=N: answer when the sandbox runs, or after N seconds")),
    responses((status = CREATED, body = Project), (status = CONFLICT, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    wait: Wait,
    Json(request): Json<CreateProject>,
) -> Result<Response> {
    let created = projects::create::create(&app, &caller, request).await?;
    let location = format!("/api/projects/{}", created.project.id);
    let overview = match wait.wait(&app, &caller, created.clone()).await? {
        WaitOutcome::Settled(overview) | WaitOutcome::Pending(overview) => overview,
        WaitOutcome::Gone => created,
    };
    let project = Json(status::project(&app.settings, &overview));
    let mut response = (StatusCode::CREATED, [(http::header::LOCATION, location)], project).into_response();
    wait.add_header(response.headers_mut());
    Ok(response)
}

/// A project with the sandbox of one of its branches
#[utoipa::path(get, path = "/api/projects/{project}", tag = "projects",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = Project), (status = NOT_FOUND, body = ErrorBody)))]
async fn show(State(app): State<App>, caller: Caller, InBranch(project): InBranch) -> Result<Json<Project>> {
    let overview = store::projects::overview(&app.store, &caller, &project).await?;
    Ok(Json(status::project(&app.settings, &overview)))
}

/// Changes a project; restarts a running sandbox if a change requires it
#[utoipa::path(patch, path = "/api/projects/{project}", tag = "projects", request_body = ChangeProject,
    params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = Project), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody), (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    Json(request): Json<ChangeProject>,
) -> Result<Json<Project>> {
    let overview = projects::change::change(&app, &caller, &project, request).await?;
    Ok(Json(status::project(&app.settings, &overview)))
}

/// Deletes a project with its sandboxes, files and database
#[utoipa::path(delete, path = "/api/projects/{project}", tag = "projects",
    params(("project" = String, Path, description = "id or name"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it is gone, or after N seconds")),
    responses((status = ACCEPTED, body = Project), (status = NO_CONTENT, description = "it is gone"),
              (status = NOT_FOUND, body = ErrorBody)))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    wait: Wait,
) -> Result<Response> {
    let overview = projects::delete::delete(&app, &caller, &project).await?;
    let body = |overview: &Overview| Ok(Json(status::project(&app.settings, overview)).into_response());
    wait.answer(&app, &caller, overview, body).await
}
