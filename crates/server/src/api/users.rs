//! User administration: `/api/users`, for the owners of the system.

use axum::extract::State;
use fsa_model::{
    ErrorBody, UserId,
    api::{Page, Role, User},
    auth::{ChangeUser, Invite, SignInLink},
};
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::auth::link_view;
use crate::{
    auth::{Caller, sign_in},
    error::{Error, Result},
    extract::{Json, OptionalJson, Path, Query},
    state::App,
    store::{audit, notify::Topic, quotas, sessions, tokens, users},
};

const PAGE_SIZE: i64 = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(invite))
        .routes(routes!(change, remove))
        .routes(routes!(link))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// `nextCursor` of the previous page.
    #[serde(default)]
    cursor: String,
}

/// All users
#[utoipa::path(get, path = "/api/users", tag = "users", params(ListQuery),
    responses((status = OK, body = Page<User>), (status = FORBIDDEN, body = ErrorBody)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(ListQuery { cursor }): Query<ListQuery>,
) -> Result<Json<Page<User>>> {
    caller.must_be_owner()?;
    let mut items = users::list(&app.store, &cursor, PAGE_SIZE + 1).await?;
    let more = items.len() > PAGE_SIZE as usize;
    items.truncate(PAGE_SIZE as usize);
    users::add_usage_and_limits(&app.store, &app.settings.limits, &mut items).await?;
    let next_cursor = items.last().filter(|_| more).map(|last| last.login.clone());
    Ok(Json(Page { items, next_cursor }))
}

/// Creates a one-time link with which a new user signs up
#[utoipa::path(post, path = "/api/users/invites", tag = "users", request_body = Option<Invite>,
    responses((status = CREATED, body = SignInLink),
              (status = FORBIDDEN, body = ErrorBody, description = "you are no owner, or must sign in again")))]
async fn invite(
    State(app): State<App>,
    caller: Caller,
    OptionalJson(request): OptionalJson<Invite>,
) -> Result<(StatusCode, Json<SignInLink>)> {
    let role = request.role.unwrap_or(Role::Member);
    let link = sign_in::invite_link(&app, &caller, role).await?;
    Ok((StatusCode::CREATED, Json(link_view(&link))))
}

/// Disables or enables a user, or changes their role or limits
#[utoipa::path(patch, path = "/api/users/{user}", tag = "users", request_body = ChangeUser,
    params(("user" = Uuid, Path)),
    responses((status = OK, body = User), (status = FORBIDDEN, body = ErrorBody),
              (status = NOT_FOUND, body = ErrorBody), (status = CONFLICT, body = ErrorBody)))]
async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(user): Path<Uuid>,
    Json(request): Json<ChangeUser>,
) -> Result<Json<User>> {
    caller.must_be_owner()?;
    if request.role.is_some() || request.disabled.is_some() {
        caller.must_have_signed_in_recently()?;
    }
    let own = request.limits.flatten().unwrap_or_default();
    if own.requests_per_minute == Some(0) {
        return Err(Error::invalid(
            "limits.requestsPerMinute",
            "it must be at least 1; use `disabled` to lock a user out",
        ));
    }
    let user = UserId(user);
    let mut tx = app.store.begin().await?;
    let others = users::other_owners(&mut tx, user).await?;
    let before = users::get(&mut tx, user).await?;
    let loses_ownership = request.disabled == Some(true) || request.role == Some(Role::Member);
    if before.role == Role::Owner && loses_ownership && others == 0 {
        return Err(last_owner());
    }
    users::change(&mut tx, user, request.disabled, request.role).await?;
    if let Some(own) = request.limits {
        quotas::set(&mut tx, user, own).await?;
    }
    if request.disabled == Some(true) {
        sessions::end_all(&mut tx, user, None).await?;
    }
    audit::record(
        &mut tx,
        &caller,
        "user.change",
        format!("user {} ({request:?})", before.login),
    )
    .await?;
    let mut after = users::get(&mut tx, user).await?;
    tx.commit().await?;
    users::add_usage_and_limits(&app.store, &app.settings.limits, std::slice::from_mut(&mut after)).await?;
    sign_in::invalidate(&app, user);
    Ok(Json(after))
}

/// Removes a user with all of their projects
#[utoipa::path(delete, path = "/api/users/{user}", tag = "users", params(("user" = Uuid, Path)),
    responses((status = ACCEPTED, description = "their projects are being deleted"),
              (status = FORBIDDEN, body = ErrorBody), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody)))]
async fn remove(State(app): State<App>, caller: Caller, Path(user): Path<Uuid>) -> Result<StatusCode> {
    caller.must_be_owner()?;
    caller.must_have_signed_in_recently()?;
    let user = UserId(user);
    let mut tx = app.store.begin().await?;
    let others = users::other_owners(&mut tx, user).await?;
    let before = users::get(&mut tx, user).await?;
    if before.role == Role::Owner && others == 0 {
        return Err(last_owner());
    }
    sessions::end_all(&mut tx, user, None).await?;
    tokens::revoke_all(&mut tx, user).await?;
    users::remove(&mut tx, user).await?;
    audit::record(&mut tx, &caller, "user.remove", format!("user {}", before.login)).await?;
    tx.commit().await?;
    sign_in::invalidate(&app, user);
    app.hub.wake(Topic::DesiredState);
    Ok(StatusCode::ACCEPTED)
}

/// Creates a one-time sign-in link for a user who lost theirs; in a session, not with an API token
#[utoipa::path(post, path = "/api/users/{user}/link", tag = "users", params(("user" = Uuid, Path)),
    responses((status = CREATED, body = SignInLink), (status = FORBIDDEN, body = ErrorBody),
              (status = NOT_FOUND, body = ErrorBody)))]
async fn link(
    State(app): State<App>,
    caller: Caller,
    Path(user): Path<Uuid>,
) -> Result<(StatusCode, Json<SignInLink>)> {
    caller.must_be_owner()?;
    caller.must_be_in_session()?;
    let mut connection = app.store.pool().acquire().await?;
    let user = users::get(&mut connection, UserId(user)).await?;
    drop(connection);
    let link = sign_in::sign_in_link(&app, &caller, user.id).await?;
    Ok((StatusCode::CREATED, Json(link_view(&link))))
}

fn last_owner() -> Error {
    Error::conflict("This is the only owner who can sign in; make another user an owner first.")
}
