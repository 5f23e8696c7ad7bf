//! Current user and their API tokens: `/api/me` and `/api/tokens`.

use axum::extract::State;
use fsa_model::{
    ErrorBody, TokenId,
    api::{ApiToken, CreateToken, Page, User},
};
use http::StatusCode;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    auth::{Caller, sign_in},
    error::Result,
    extract::{Json, Path},
    state::App,
    store::{audit, tokens, users},
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(me))
        .routes(routes!(list, create))
        .routes(routes!(revoke))
}

/// Who you are
#[utoipa::path(get, path = "/api/me", tag = "users",
    responses((status = OK, body = User), (status = UNAUTHORIZED, body = ErrorBody)))]
async fn me(State(app): State<App>, caller: Caller) -> Result<Json<User>> {
    let mut connection = app.store.pool().acquire().await?;
    let mut user = users::get(&mut connection, caller.user()).await?;
    drop(connection);
    users::add_usage_and_limits(&app.store, &app.settings.limits, std::slice::from_mut(&mut user)).await?;
    Ok(Json(user))
}

/// Your API tokens, without their secrets
#[utoipa::path(get, path = "/api/tokens", tag = "tokens",
    responses((status = OK, body = Page<ApiToken>), (status = UNAUTHORIZED, body = ErrorBody)))]
async fn list(State(app): State<App>, caller: Caller) -> Result<Json<Page<ApiToken>>> {
    let items = tokens::list(&app.store, &caller).await?;
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}

/// Creates an API token; its secret is in this response only
#[utoipa::path(post, path = "/api/tokens", tag = "tokens", request_body = CreateToken,
    responses((status = CREATED, body = ApiToken),
              (status = FORBIDDEN, body = ErrorBody, description = "sign in again"),
              (status = NOT_FOUND, body = ErrorBody, description = "there is no such project"),
              (status = CONFLICT, body = ErrorBody, description = "several projects have the name, or you have too many tokens"),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<CreateToken>,
) -> Result<(StatusCode, Json<ApiToken>)> {
    let token = sign_in::create_token(&app, &caller, request).await?;
    Ok((StatusCode::CREATED, Json(token)))
}

/// Revokes one of your API tokens immediately
#[utoipa::path(delete, path = "/api/tokens/{token}", tag = "tokens",
    params(("token" = Uuid, Path, description = "the id of the token, not its secret")),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = ErrorBody)))]
async fn revoke(State(app): State<App>, caller: Caller, Path(token): Path<Uuid>) -> Result<StatusCode> {
    let mut tx = app.store.begin().await?;
    tokens::revoke(&mut tx, &caller, TokenId(token)).await?;
    audit::record(&mut tx, &caller, "token.revoke", format!("token {token}")).await?;
    tx.commit().await?;
    sign_in::invalidate(&app, caller.user());
    Ok(StatusCode::NO_CONTENT)
}
