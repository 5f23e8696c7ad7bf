//! Backups: `/api/projects/{project}/backups` and `/api/backups`.

use axum::extract::State;
use fsa_model::{
    BackupId, ErrorBody,
    api::{Page, Project},
    backup::{Backup, RestoreBackup},
};
use http::{HeaderName, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::in_branch::InBranch;
use crate::{
    auth::Caller,
    error::Result,
    extract::{Json, OptionalJson, Path, Query},
    projects::{backups, status},
    state::App,
    store::backups::Request,
};

/// Backups per page.
const PAGE_SIZE: i64 = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_of_project, create))
        .routes(routes!(list))
        .routes(routes!(show, delete))
        .routes(routes!(restore))
        .routes(routes!(verify))
        .routes(routes!(cancel))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// `nextCursor` of the previous page.
    #[serde(default)]
    cursor: Option<Uuid>,
    /// Name of a branch; main by default. The list has the backups of all branches.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

/// The project's backups, newest first
#[utoipa::path(get, path = "/api/projects/{project}/backups", tag = "backups",
    params(("project" = String, Path, description = "id or name"), ListQuery),
    responses((status = OK, body = Page<Backup>), (status = NOT_FOUND, body = ErrorBody)))]
async fn list_of_project(
    State(app): State<App>,
    caller: Caller,
    InBranch(branch): InBranch,
    Query(ListQuery { cursor, .. }): Query<ListQuery>,
) -> Result<Json<Page<Backup>>> {
    let items = backups::list_of_project(&app, &caller, &branch, cursor, PAGE_SIZE + 1).await?;
    Ok(page(items))
}

/// Backs up the project as it is now, in the background
#[utoipa::path(post, path = "/api/projects/{project}/backups", tag = "backups",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = ACCEPTED, body = Backup), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, description = "the server has no repository, or the region no backups",
               body = ErrorBody)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    InBranch(branch): InBranch,
) -> Result<(StatusCode, Json<Backup>)> {
    let backup = backups::create(&app, &caller, &branch).await?;
    Ok((StatusCode::ACCEPTED, Json(backup)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct AllQuery {
    /// `nextCursor` of the previous page.
    #[serde(default)]
    cursor: Option<Uuid>,
    /// Instead, the backups in the repository that other servers stored; for owners of the system.
    #[serde(default)]
    foreign: bool,
}

/// The caller's backups, also those of deleted projects, newest first
#[utoipa::path(get, path = "/api/backups", tag = "backups", params(AllQuery),
    responses((status = OK, body = Page<Backup>), (status = FORBIDDEN, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<AllQuery>,
) -> Result<Json<Page<Backup>>> {
    if query.foreign {
        let items = backups::list_of_repository(&app, &caller).await?;
        return Ok(Json(Page {
            items,
            next_cursor: None,
        }));
    }
    let items = backups::list(&app, &caller, query.cursor, PAGE_SIZE + 1).await?;
    Ok(page(items))
}

/// A backup
#[utoipa::path(get, path = "/api/backups/{backup}", tag = "backups",
    params(("backup" = BackupId, Path)),
    responses((status = OK, body = Backup), (status = NOT_FOUND, body = ErrorBody)))]
async fn show(State(app): State<App>, caller: Caller, Path(id): Path<BackupId>) -> Result<Json<Backup>> {
    backups::show(&app, &caller, id).await.map(Json)
}

/// Deletes a backup
#[utoipa::path(delete, path = "/api/backups/{backup}", tag = "backups",
    params(("backup" = BackupId, Path)),
    responses((status = ACCEPTED, body = Backup), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody)))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BackupId>,
) -> Result<(StatusCode, Json<Backup>)> {
    requested(&app, &caller, id, Request::Delete).await
}

/// Restores a backup as a new project of the caller
#[utoipa::path(post, path = "/api/backups/{backup}/restore", tag = "backups",
    request_body = Option<RestoreBackup>, params(("backup" = BackupId, Path)),
    responses((status = CREATED, body = Project), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody), (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn restore(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BackupId>,
    OptionalJson(request): OptionalJson<RestoreBackup>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Project>)> {
    let overview = backups::restore(&app, &caller, id, request).await?;
    let location = format!("/api/projects/{}", overview.project.id);
    let project = Json(status::project(&app.settings, &overview));
    Ok((StatusCode::CREATED, [(http::header::LOCATION, location)], project))
}

/// Reads all of a backup and compares it with its checksums, in the background
#[utoipa::path(post, path = "/api/backups/{backup}/verify", tag = "backups",
    params(("backup" = BackupId, Path)),
    responses((status = ACCEPTED, body = Backup), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody)))]
async fn verify(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BackupId>,
) -> Result<(StatusCode, Json<Backup>)> {
    requested(&app, &caller, id, Request::Verify).await
}

/// Ends a backup that is not stored yet
#[utoipa::path(post, path = "/api/backups/{backup}/cancel", tag = "backups",
    params(("backup" = BackupId, Path)),
    responses((status = ACCEPTED, body = Backup), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody)))]
async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<BackupId>,
) -> Result<(StatusCode, Json<Backup>)> {
    requested(&app, &caller, id, Request::Cancel).await
}

async fn requested(
    app: &App,
    caller: &Caller,
    id: BackupId,
    request: Request,
) -> Result<(StatusCode, Json<Backup>)> {
    let backup = backups::request(app, caller, id, request).await?;
    Ok((StatusCode::ACCEPTED, Json(backup)))
}

fn page(items: Vec<Backup>) -> Json<Page<Backup>> {
    Json(super::sse::page(items, PAGE_SIZE as usize, |backup| {
        backup.id.to_string()
    }))
}
