//! Differences since a snapshot that are read on request: `/api/projects/{project}/snapshots/{snapshot}/diff/…`.

use axum::extract::State;
use fsa_model::{ErrorBody, database_diff::DatabaseDiff, file_diff::FileDiff, percent};
use http::Uri;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::in_branch::InBranch;
use crate::{
    auth::Caller,
    error::{Error, Result},
    extract::{Json, Path, Query},
    projects::snapshot_diff,
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(diff_file))
        .routes(routes!(diff_database))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct FileQuery {
    /// Absolute path in the sandbox, as the list of changes has it; its bytes may be percent-encoded.
    #[serde(rename = "path", default)]
    #[param(required = true)]
    _path: String,
    /// Id or name of a later snapshot; the present files if absent.
    #[serde(default)]
    to: Option<String>,
    /// Name of a branch; main by default.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

/// How the text of a file changed after a snapshot, in the unified format
#[utoipa::path(get, path = "/api/projects/{project}/snapshots/{snapshot}/diff/file", tag = "snapshots",
    params(("project" = String, Path, description = "id or name"),
           ("snapshot" = String, Path, description = "id or name"), FileQuery),
    responses((status = OK, body = FileDiff), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody), (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn diff_file(
    State(app): State<App>,
    caller: Caller,
    InBranch(branch): InBranch,
    Path((_, snapshot)): Path<(String, String)>,
    Query(FileQuery { to, .. }): Query<FileQuery>,
    uri: Uri,
) -> Result<Json<FileDiff>> {
    let path = percent::parameter(uri.query().unwrap_or_default(), "path").unwrap_or_default();
    snapshot_diff::file(&app, &caller, &branch, &snapshot, to.as_deref(), path)
        .await
        .map(Json)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DatabaseQuery {
    /// Id or name of a later snapshot; the present database if absent, of which a snapshot is taken for it.
    #[serde(default)]
    to: Option<String>,
    /// Name of a branch; main by default.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

/// Tables, columns and numbers of rows that changed after a snapshot. It takes from seconds to some minutes
#[utoipa::path(get, path = "/api/projects/{project}/snapshots/{snapshot}/diff/database", tag = "snapshots",
    params(("project" = String, Path, description = "id or name"),
           ("snapshot" = String, Path, description = "id or name"), DatabaseQuery),
    responses((status = OK, body = DatabaseDiff), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "a snapshot is not ready or has no database"),
              (status = SERVICE_UNAVAILABLE, body = ErrorBody, description = "it takes too long, or others compare")))]
async fn diff_database(
    State(app): State<App>,
    caller: Caller,
    InBranch(branch): InBranch,
    Path((_, snapshot)): Path<(String, String)>,
    Query(DatabaseQuery { to, .. }): Query<DatabaseQuery>,
) -> Result<Json<DatabaseDiff>> {
    // A comparison removes what it has made, also when the client has gone.
    let compared = tokio::spawn(async move {
        snapshot_diff::database(&app, &caller, &branch, &snapshot, to.as_deref()).await
    });
    compared
        .await
        .map_err(|error| Error::internal("The comparison failed.").with_cause(error))?
        .map(Json)
}
