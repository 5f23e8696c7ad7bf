//! Snapshots: `/api/projects/{project}/snapshots`. `{snapshot}` is an id or a name.

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use fsa_model::{
    ErrorBody,
    api::{Page, Sandbox},
    snapshot::{CreateSnapshot, Snapshot, SnapshotDiff, SnapshotState},
};
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{idempotency_key::IdempotencyKey, in_branch::InBranch, prefer::Wait};
use crate::{
    auth::Caller,
    error::{Error, Result},
    extract::{Json, OptionalJson, Path, Query},
    projects::{snapshots, status},
    state::App,
    store::projects::Overview,
};

/// Snapshots per page.
const PAGE_SIZE: i64 = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, delete))
        .routes(routes!(diff))
        .routes(routes!(restore))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// `nextCursor` of the previous page.
    #[serde(default)]
    cursor: Option<Uuid>,
    /// Name of a branch; main by default.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

/// The project's snapshots, newest first
#[utoipa::path(get, path = "/api/projects/{project}/snapshots", tag = "snapshots",
    params(("project" = String, Path, description = "id or name"), ListQuery),
    responses((status = OK, body = Page<Snapshot>), (status = NOT_FOUND, body = ErrorBody)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    InBranch(branch): InBranch,
    Query(ListQuery { cursor, .. }): Query<ListQuery>,
) -> Result<Json<Page<Snapshot>>> {
    let items = snapshots::list(&app, &caller, &branch, cursor, PAGE_SIZE + 1).await?;
    Ok(Json(super::sse::page(items, PAGE_SIZE as usize, |snapshot| {
        snapshot.id.to_string()
    })))
}

/// Takes a snapshot of the project's files and database, while its processes run
#[utoipa::path(post, path = "/api/projects/{project}/snapshots", tag = "snapshots",
    request_body = Option<CreateSnapshot>,
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default"),
           ("Idempotency-Key" = Option<String>, Header,
            description = "a repeated request with the same key returns the first one's snapshot"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer after N seconds at the latest")),
    responses((status = CREATED, body = Snapshot),
              (status = ACCEPTED, description = "it takes long, and is still being created", body = Snapshot),
              (status = NOT_FOUND, body = ErrorBody), (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    InBranch(branch): InBranch,
    IdempotencyKey(key): IdempotencyKey,
    wait: Wait,
    OptionalJson(request): OptionalJson<CreateSnapshot>,
) -> Result<(StatusCode, Json<Snapshot>)> {
    let snapshot = snapshots::create(&app, &caller, &branch, request, key.as_deref(), wait.limit()).await?;
    let status = match snapshot.state {
        SnapshotState::Creating => StatusCode::ACCEPTED,
        _ => StatusCode::CREATED,
    };
    Ok((status, Json(snapshot)))
}

/// A snapshot
#[utoipa::path(get, path = "/api/projects/{project}/snapshots/{snapshot}", tag = "snapshots",
    params(("project" = String, Path, description = "id or name"),
           ("snapshot" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = Snapshot), (status = NOT_FOUND, body = ErrorBody)))]
async fn show(
    State(app): State<App>,
    caller: Caller,
    InBranch(branch): InBranch,
    Path((_, snapshot)): Path<(String, String)>,
) -> Result<Json<Snapshot>> {
    snapshots::show(&app, &caller, &branch, &snapshot).await.map(Json)
}

/// Deletes a snapshot
#[utoipa::path(delete, path = "/api/projects/{project}/snapshots/{snapshot}", tag = "snapshots",
    params(("project" = String, Path, description = "id or name"),
           ("snapshot" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = ACCEPTED, body = Snapshot), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody)))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    InBranch(branch): InBranch,
    Path((_, snapshot)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Snapshot>)> {
    let snapshot = snapshots::delete(&app, &caller, &branch, &snapshot).await?;
    Ok((StatusCode::ACCEPTED, Json(snapshot)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DiffQuery {
    /// Id or name of a later snapshot; the present files if absent.
    #[serde(default)]
    to: Option<String>,
    /// Name of a branch; main by default.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

/// Files that were added, changed and removed after a snapshot
#[utoipa::path(get, path = "/api/projects/{project}/snapshots/{snapshot}/diff", tag = "snapshots",
    params(("project" = String, Path, description = "id or name"),
           ("snapshot" = String, Path, description = "id or name"), DiffQuery),
    responses((status = OK, body = SnapshotDiff), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody)))]
async fn diff(
    State(app): State<App>,
    caller: Caller,
    InBranch(branch): InBranch,
    Path((_, snapshot)): Path<(String, String)>,
    Query(DiffQuery { to, .. }): Query<DiffQuery>,
) -> Result<Json<SnapshotDiff>> {
    snapshots::diff(&app, &caller, &branch, &snapshot, to.as_deref())
        .await
        .map(Json)
}

/// Restores a snapshot: its files and database replace the present ones, which are kept as a snapshot
#[utoipa::path(post, path = "/api/projects/{project}/snapshots/{snapshot}/restore", tag = "snapshots",
    params(("project" = String, Path, description = "id or name"),
           ("snapshot" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it is restored, or after N seconds")),
    responses((status = OK, description = "it is restored", body = Sandbox), (status = ACCEPTED, body = Sandbox),
              (status = NOT_FOUND, body = ErrorBody), (status = CONFLICT, body = ErrorBody)))]
async fn restore(
    State(app): State<App>,
    caller: Caller,
    InBranch(branch): InBranch,
    Path((_, snapshot)): Path<(String, String)>,
    wait: Wait,
) -> Result<Response> {
    let overview = snapshots::restore(&app, &caller, &branch, &snapshot).await?;
    let body = |overview: &Overview| {
        let sandbox = status::sandbox(&app.settings, overview).ok_or_else(|| Error::not_found("sandbox"))?;
        Ok(Json(sandbox).into_response())
    };
    wait.answer(&app, &caller, overview, body).await
}
