//! Project members and their roles: `/api/projects/{project}/members`.

use axum::extract::State;
use fsa_model::{
    ErrorBody,
    api::Page,
    sharing::{Member, ShareProject},
};
use http::StatusCode;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::{
        Caller,
        permission::{Manage, Read},
    },
    error::Result,
    extract::{Json, Path},
    projects::share,
    state::App,
    store::projects,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_members))
        .routes(routes!(share_project, unshare_project))
}

/// The members of the project: its owner, and the users it is shared with
#[utoipa::path(get, path = "/api/projects/{project}/members", tag = "sharing",
    params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = Page<Member>), (status = NOT_FOUND, body = ErrorBody)))]
async fn list_members(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Json<Page<Member>>> {
    let project = projects::find::<Read>(&app.store, &caller, &project).await?;
    Ok(Json(page(share::list(&app, &project).await?)))
}

/// Shares the project with a user, or changes their role
#[utoipa::path(put, path = "/api/projects/{project}/members/{user}", tag = "sharing",
    request_body = ShareProject,
    params(("project" = String, Path, description = "id or name"),
           ("user" = String, Path, description = "id or login")),
    responses((status = OK, body = Page<Member>), (status = FORBIDDEN, body = ErrorBody),
              (status = NOT_FOUND, body = ErrorBody), (status = CONFLICT, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn share_project(
    State(app): State<App>,
    caller: Caller,
    Path((project, user)): Path<(String, String)>,
    Json(request): Json<ShareProject>,
) -> Result<Json<Page<Member>>> {
    let project = projects::find::<Manage>(&app.store, &caller, &project).await?;
    Ok(Json(page(
        share::share(&app, &project, &user, request.role).await?,
    )))
}

/// Stops sharing the project with a user; members may remove themselves
#[utoipa::path(delete, path = "/api/projects/{project}/members/{user}", tag = "sharing",
    params(("project" = String, Path, description = "id or name"),
           ("user" = String, Path, description = "id or login")),
    responses((status = NO_CONTENT), (status = FORBIDDEN, body = ErrorBody),
              (status = NOT_FOUND, body = ErrorBody)))]
async fn unshare_project(
    State(app): State<App>,
    caller: Caller,
    Path((project, user)): Path<(String, String)>,
) -> Result<StatusCode> {
    let project = projects::find::<Read>(&app.store, &caller, &project).await?;
    share::unshare(&app, &project, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn page(items: Vec<Member>) -> Page<Member> {
    Page {
        items,
        next_cursor: None,
    }
}
