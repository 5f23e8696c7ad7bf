//! Suggestion of a start command: `/api/projects/{project}/start-suggestion`.

use axum::extract::State;
use fsa_model::{ErrorBody, project_files::StartSuggestion};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::in_branch::InBranch;
use crate::{auth::Caller, error::Result, extract::Json, projects::start_suggestion, state::App};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(suggest))
}

/// A start command that fits the files of a project, for a person to accept
#[utoipa::path(get, path = "/api/projects/{project}/start-suggestion", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = StartSuggestion), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run")))]
async fn suggest(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
) -> Result<Json<StartSuggestion>> {
    start_suggestion::find(&app, &caller, &project).await.map(Json)
}
