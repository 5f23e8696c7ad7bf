//! Authentication routes, `/api/auth`: sign-in, sign-out, sessions, and one-time links.

use axum::{
    body::Body,
    extract::{FromRequest, State},
    response::{IntoResponse, Redirect, Response},
};
use fsa_model::{
    ErrorBody,
    api::{Page, User},
    auth::{SessionInfo, SetPassword, SignInByLink, SignInByPassword, SignInLink},
};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::page;
use crate::{
    auth::{
        Address, Caller, CredentialId, OneTimeLink,
        cookie::OurCookie,
        csrf,
        sign_in::{self, ClientInfo, SignedIn},
    },
    error::{Error, Result},
    extract::{Json, Path, Query, parse, read},
    state::App,
    store::{audit, sessions, users},
};

/// Body limit of a sign-in form, in bytes.
const MAX_FORM_BYTES: usize = 16 * 1024;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(link_page, by_link))
        .routes(routes!(by_password, set_password))
        .routes(routes!(sign_out))
        .routes(routes!(list_sessions))
        .routes(routes!(end_session))
        .routes(routes!(new_link))
}

/// The sign-in link as it is shown, once.
pub(super) fn link_view(link: &OneTimeLink) -> SignInLink {
    SignInLink {
        url: link.url.expose_secret().to_owned(),
        expires_at: link.expires_at,
    }
}

/// JSON from a program or a script, or a form from a page without a script.
pub(super) struct SignIn<T> {
    pub(super) request: T,
    pub(super) is_form: bool,
}

impl<T: DeserializeOwned> FromRequest<App> for SignIn<T> {
    type Rejection = Error;

    async fn from_request(request: Request<Body>, app: &App) -> Result<Self> {
        if !csrf::is_same_origin_or_absent(&app.settings, request.headers()) {
            return Err(Error::forbidden(
                "This request was made by another site and was refused.",
            ));
        }
        let kind = request.headers().get(header::CONTENT_TYPE);
        let is_form = kind.is_some_and(|kind| {
            kind.as_bytes()
                .to_ascii_lowercase()
                .starts_with(b"application/x-www-form-urlencoded")
        });
        if !is_form {
            let Json(request) = Json::from_request(request, app).await?;
            return Ok(Self { request, is_form });
        }
        let bytes = read(request, MAX_FORM_BYTES).await?;
        let fields: serde_json::Map<_, _> = url::form_urlencoded::parse(&bytes)
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
            .collect();
        let request = parse(&serde_json::to_vec(&fields)?)?;
        Ok(Self { request, is_form })
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Token {
    /// The token of a one-time link.
    #[serde(default)]
    token: String,
}

/// A form that signs in with a one-time link; viewing it does not use the link up
#[utoipa::path(get, path = "/api/auth/link", tag = "auth", security(()), params(Token),
    responses((status = OK, body = String, content_type = "text/html")))]
async fn link_page(Query(Token { token }): Query<Token>) -> Response {
    page::link_form(&token)
}

/// Signs in with a one-time link, or accepts an invitation
#[utoipa::path(post, path = "/api/auth/link", tag = "auth", security(()), request_body = SignInByLink,
    responses((status = OK, description = "with a session cookie", body = User),
              (status = FORBIDDEN, description = "the link was used or is too old", body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, description = "an invitation needs a login", body = ErrorBody),
              (status = TOO_MANY_REQUESTS, body = ErrorBody)))]
async fn by_link(
    State(app): State<App>,
    address: Address,
    headers: HeaderMap,
    SignIn { request, is_form }: SignIn<SignInByLink>,
) -> Result<Response> {
    let signed_in = sign_in::by_link(&app, request, &ClientInfo::new(address, &headers)).await?;
    sign_in_response(&app, &signed_in, is_form).await
}

/// Signs in with login and password
#[utoipa::path(post, path = "/api/auth/password", tag = "auth", security(()), request_body = SignInByPassword,
    responses((status = OK, description = "with a session cookie", body = User),
              (status = UNAUTHORIZED, body = ErrorBody), (status = TOO_MANY_REQUESTS, body = ErrorBody)))]
async fn by_password(
    State(app): State<App>,
    address: Address,
    headers: HeaderMap,
    SignIn { request, is_form }: SignIn<SignInByPassword>,
) -> Result<Response> {
    let signed_in = sign_in::by_password(&app, request, &ClientInfo::new(address, &headers)).await?;
    sign_in_response(&app, &signed_in, is_form).await
}

/// Sets your password and ends your other sessions
#[utoipa::path(put, path = "/api/auth/password", tag = "auth", request_body = SetPassword,
    responses((status = NO_CONTENT), (status = FORBIDDEN, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn set_password(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<SetPassword>,
) -> Result<StatusCode> {
    let current = request.current.map(Into::into);
    sign_in::set_password(&app, &caller, current, request.password.into()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends this session
#[utoipa::path(post, path = "/api/auth/sign-out", tag = "auth",
    responses((status = NO_CONTENT), (status = CONFLICT, body = ErrorBody)))]
async fn sign_out(State(app): State<App>, caller: Caller) -> Result<Response> {
    let CredentialId::Session(id) = caller.credential() else {
        return Err(Error::conflict("An API token is not signed out; revoke it."));
    };
    end(&app, &caller, id).await?;
    Ok(without_cookie(&app, StatusCode::NO_CONTENT))
}

/// Your active sessions
#[utoipa::path(get, path = "/api/auth/sessions", tag = "auth",
    responses((status = OK, body = Page<SessionInfo>), (status = UNAUTHORIZED, body = ErrorBody)))]
async fn list_sessions(State(app): State<App>, caller: Caller) -> Result<Json<Page<SessionInfo>>> {
    let items = sessions::list(&app.store, &caller).await?;
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}

/// Ends one of your sessions immediately
#[utoipa::path(delete, path = "/api/auth/sessions/{session}", tag = "auth", params(("session" = Uuid, Path)),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = ErrorBody)))]
async fn end_session(
    State(app): State<App>,
    caller: Caller,
    Path(session): Path<Uuid>,
) -> Result<StatusCode> {
    end(&app, &caller, session).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Creates a one-time sign-in link for yourself
#[utoipa::path(post, path = "/api/auth/links", tag = "auth",
    responses((status = CREATED, body = SignInLink), (status = UNAUTHORIZED, body = ErrorBody),
              (status = FORBIDDEN, body = ErrorBody, description = "sign in again")))]
async fn new_link(State(app): State<App>, caller: Caller) -> Result<(StatusCode, Json<SignInLink>)> {
    let link = sign_in::sign_in_link(&app, &caller, caller.user()).await?;
    Ok((StatusCode::CREATED, Json(link_view(&link))))
}

async fn sign_in_response(app: &App, signed_in: &SignedIn, is_form: bool) -> Result<Response> {
    let mut response = if is_form {
        Redirect::to("/").into_response()
    } else {
        let mut connection = app.store.pool().acquire().await?;
        Json(users::get(&mut connection, signed_in.user).await?).into_response()
    };
    for cookie in signed_in.cookies(app) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

async fn end(app: &App, caller: &Caller, session: Uuid) -> Result<()> {
    let mut tx = app.store.begin().await?;
    sessions::end(&mut tx, caller, session).await?;
    audit::record(&mut tx, caller, "session.end", format!("session {session}")).await?;
    tx.commit().await?;
    sign_in::invalidate(app, caller.user());
    Ok(())
}

fn without_cookie(app: &App, status: StatusCode) -> Response {
    let mut response = status.into_response();
    let headers = response.headers_mut();
    headers.insert(header::SET_COOKIE, OurCookie::Session.clear(&app.settings));
    headers.insert("clear-site-data", HeaderValue::from_static("\"cache\""));
    response
}
