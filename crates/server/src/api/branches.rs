//! Branches of a project: `/api/projects/{project}/branches`.

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use fsa_model::{
    ErrorBody,
    api::Sandbox,
    branch::{Branch, Branches, CreateBranch},
};
use http::{StatusCode, header};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{idempotency_key::IdempotencyKey, prefer::Wait};
use crate::{
    auth::{Caller, permission::Read},
    error::{Error, Result},
    extract::{Json, Path},
    projects::{branches, lifecycle::WaitOutcome, promote, status},
    state::App,
    store::{
        branches::BranchReference,
        projects::{self, Overview},
    },
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, delete))
        .routes(routes!(promote))
}

/// The branches of a project with their sandboxes: main first, then by name
#[utoipa::path(get, path = "/api/projects/{project}/branches", tag = "branches",
    params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = Branches), (status = NOT_FOUND, body = ErrorBody)))]
async fn list(State(app): State<App>, caller: Caller, Path(project): Path<String>) -> Result<Json<Branches>> {
    let project = projects::find::<Read>(&app.store, &caller, &project).await?;
    let all = projects::branches(&app.store, &project).await?;
    let items = all.iter().map(|overview| status::branch(&app.settings, overview));
    Ok(Json(Branches {
        items: items.collect(),
    }))
}

/// Creates a branch: a copy of another one, or of a snapshot, with its files and its database
#[utoipa::path(post, path = "/api/projects/{project}/branches", tag = "branches", request_body = CreateBranch,
    params(("project" = String, Path, description = "id or name"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it runs, or after N seconds")),
    responses((status = CREATED, body = Branch), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the name is taken, the project has as many branches \
               as it may have, or its region cannot copy volumes"),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    wait: Wait,
    Json(request): Json<CreateBranch>,
) -> Result<Response> {
    let created = branches::create(&app, &caller, &project, request).await?;
    let location = format!(
        "/api/projects/{}/branches/{}",
        created.project.id, created.branch.name
    );
    let overview = match wait.wait(&app, &caller, created.clone()).await? {
        WaitOutcome::Settled(overview) | WaitOutcome::Pending(overview) => overview,
        WaitOutcome::Gone => created,
    };
    let branch = Json(status::branch(&app.settings, &overview));
    let mut response = (StatusCode::CREATED, [(header::LOCATION, location)], branch).into_response();
    wait.add_header(response.headers_mut());
    Ok(response)
}

/// A branch with its sandbox
#[utoipa::path(get, path = "/api/projects/{project}/branches/{branch}", tag = "branches",
    params(("project" = String, Path, description = "id or name"), ("branch" = String, Path)),
    responses((status = OK, body = Branch), (status = NOT_FOUND, body = ErrorBody)))]
async fn show(
    State(app): State<App>,
    caller: Caller,
    Path((project, branch)): Path<(String, String)>,
) -> Result<Json<Branch>> {
    let reference = BranchReference::parse(&project, Some(&branch))?;
    let overview = projects::overview(&app.store, &caller, &reference).await?;
    Ok(Json(status::branch(&app.settings, &overview)))
}

/// Deletes a branch with its sandbox, files, database and snapshots
#[utoipa::path(delete, path = "/api/projects/{project}/branches/{branch}", tag = "branches",
    params(("project" = String, Path, description = "id or name"), ("branch" = String, Path),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it is gone, or after N seconds")),
    responses((status = ACCEPTED, body = Branch), (status = NO_CONTENT, description = "it is gone"),
              (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "main is deleted with the project only")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path((project, branch)): Path<(String, String)>,
    wait: Wait,
) -> Result<Response> {
    let reference = BranchReference::parse(&project, Some(&branch))?;
    let overview: Overview = branches::delete(&app, &caller, &reference).await?;
    let gone = match wait.deadline() {
        Some(deadline) => branches::wait_until_gone(&app, &overview.branch, deadline).await?,
        None => false,
    };
    let mut response = match gone {
        true => StatusCode::NO_CONTENT.into_response(),
        false => (
            StatusCode::ACCEPTED,
            Json(status::branch(&app.settings, &overview)),
        )
            .into_response(),
    };
    wait.add_header(response.headers_mut());
    Ok(response)
}

/// Promotes a branch: main gets its files and its database, and keeps its variables, ports and URLs
///
/// The state of main before is kept as a snapshot of the cause `before-promote`; restoring that undoes the promotion.
/// The branch stays as it is.
#[utoipa::path(post, path = "/api/projects/{project}/branches/{branch}/promote", tag = "branches",
    params(("project" = String, Path, description = "id or name"), ("branch" = String, Path),
           ("Idempotency-Key" = Option<String>, Header,
            description = "a repeated request with the same key changes nothing"),
           ("Prefer" = Option<String>, Header, description = "wait=N: answer when it is done, or after N seconds")),
    responses((status = OK, description = "it is done; the sandbox of main", body = Sandbox),
              (status = ACCEPTED, body = Sandbox), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the branch is main, or one of the two is being \
               restored or copied, or has no sandbox"),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn promote(
    State(app): State<App>,
    caller: Caller,
    Path((project, branch)): Path<(String, String)>,
    IdempotencyKey(key): IdempotencyKey,
    wait: Wait,
) -> Result<Response> {
    let reference = BranchReference::parse(&project, Some(&branch))?;
    let overview = promote::promote(&app, &caller, &reference, key.as_deref()).await?;
    let body = |overview: &Overview| {
        let sandbox = status::sandbox(&app.settings, overview).ok_or_else(|| Error::not_found("sandbox"))?;
        Ok(axum::Json(sandbox).into_response())
    };
    wait.answer(&app, &caller, overview, body).await
}
