//! Snapshot schedule of a project: `/api/projects/{project}/snapshot-schedule`.

use axum::extract::State;
use fsa_model::{
    ErrorBody,
    snapshot_schedule::{SnapshotSchedule, SnapshotScheduleView},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::Caller,
    error::Result,
    extract::{Json, Path},
    projects::snapshot_schedule,
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show_schedule, replace_schedule, reset_schedule))
}

/// How many scheduled snapshots are kept of each branch of a project
#[utoipa::path(get, path = "/api/projects/{project}/snapshot-schedule", tag = "snapshots",
    params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = SnapshotScheduleView), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the region has no snapshots")))]
async fn show_schedule(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Json<SnapshotScheduleView>> {
    snapshot_schedule::show(&app, &caller, &project).await.map(Json)
}

/// Sets how many scheduled snapshots are kept; with 0 and 0 none are taken, and those that exist stay
#[utoipa::path(put, path = "/api/projects/{project}/snapshot-schedule", tag = "snapshots",
    request_body = SnapshotSchedule,
    params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = SnapshotScheduleView), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the region has no snapshots"),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn replace_schedule(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    Json(schedule): Json<SnapshotSchedule>,
) -> Result<Json<SnapshotScheduleView>> {
    let shown = snapshot_schedule::set(&app, &caller, &project, Some(schedule));
    shown.await.map(Json)
}

/// Resets the schedule to the default of the project's region
#[utoipa::path(delete, path = "/api/projects/{project}/snapshot-schedule", tag = "snapshots",
    params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = SnapshotScheduleView), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the region has no snapshots")))]
async fn reset_schedule(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Json<SnapshotScheduleView>> {
    snapshot_schedule::set(&app, &caller, &project, None)
        .await
        .map(Json)
}
