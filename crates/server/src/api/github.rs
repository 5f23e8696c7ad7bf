//! GitHub routes: sign-in with GitHub (`/api/auth/github`), the linked account (`/api/me/github`), and the
//! repositories that can be imported (`/api/repositories`).

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use fsa_model::{
    ErrorBody,
    auth::{BeginGithub, GithubLink, GithubRedirect, SignInMethods},
    github::Repositories,
};
use http::{HeaderMap, StatusCode, header};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{auth::SignIn, page};
use crate::{
    auth::{Address, Caller, cookie::OurCookie, sign_in::ClientInfo},
    error::{Error, Result},
    extract::{Json, Query},
    github::{
        repositories,
        sign_in::{self, CallbackParams, SignInOutcome},
    },
    state::App,
    store::github,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(methods))
        .routes(routes!(begin))
        .routes(routes!(callback))
        .routes(routes!(linked, unlink))
        .routes(routes!(importable))
}

/// The sign-in methods of this server
#[utoipa::path(get, path = "/api/auth/methods", tag = "auth", security(()),
    responses((status = OK, body = SignInMethods)))]
async fn methods(State(app): State<App>) -> Json<SignInMethods> {
    Json(SignInMethods {
        password: true,
        github: app.settings.github.is_some(),
    })
}

/// Starts to sign in with GitHub, or to link a GitHub account to yours
#[utoipa::path(post, path = "/api/auth/github", tag = "auth", security(()), request_body = BeginGithub,
    responses((status = OK, description = "with a cookie that the browser must bring back", body = GithubRedirect),
              (status = FORBIDDEN, description = "to link an account, sign in again", body = ErrorBody),
              (status = CONFLICT, description = "GitHub is not set up here", body = ErrorBody),
              (status = TOO_MANY_REQUESTS, body = ErrorBody)))]
async fn begin(
    State(app): State<App>,
    address: Address,
    caller: Option<Caller>,
    SignIn { request, is_form }: SignIn<BeginGithub>,
) -> Result<Response> {
    let link_to = match (request.link, &caller) {
        (true, None) => return Err(Error::unauthorized("Sign in first.")),
        (true, Some(caller)) => {
            caller.must_have_signed_in_recently()?;
            Some(caller)
        }
        (false, _) => None,
    };
    let started = sign_in::begin(&app, link_to, address).await?;
    let mut response = if is_form {
        page::redirect(&started.url)
    } else {
        let url = started.url.into();
        Json(GithubRedirect { url }).into_response()
    };
    let cookie = OurCookie::Github.set(&app.settings, started.browser.expose_secret(), sign_in::LIFETIME);
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct CallbackQuery {
    #[serde(default)]
    code: String,
    #[serde(default)]
    state: String,
    /// GitHub's error code, if it returned no authorization code.
    error: Option<String>,
}

/// Callback to which GitHub redirects the browser
#[utoipa::path(get, path = "/api/auth/github/callback", tag = "auth", security(()), params(CallbackQuery),
    responses((status = SEE_OTHER, description = "with a session cookie"),
              (status = BAD_REQUEST, body = String, content_type = "text/html"),
              (status = FORBIDDEN, body = String, content_type = "text/html"),
              (status = CONFLICT, body = String, content_type = "text/html"),
              (status = TOO_MANY_REQUESTS, body = String, content_type = "text/html"),
              (status = BAD_GATEWAY, body = String, content_type = "text/html")))]
async fn callback(
    State(app): State<App>,
    address: Address,
    headers: HeaderMap,
    caller: Option<Caller>,
    Query(CallbackQuery { code, state, error }): Query<CallbackQuery>,
) -> Response {
    let browser = OurCookie::Github.get(&app.settings, &headers).map(str::to_owned);
    let params = CallbackParams { code, state, browser };
    let done = if error.is_some() || params.code.is_empty() {
        Err(Error::bad_request("GitHub did not authorize the sign-in."))
    } else {
        sign_in::finish(&app, params, caller.as_ref(), &ClientInfo::new(address, &headers)).await
    };
    let mut response = match &done {
        Ok(_) => Redirect::to("/").into_response(),
        Err(error) => {
            tracing::info!(error = error.name(), causes = ?error.causes(), "a sign-in with GitHub was refused");
            page::error(error)
        }
    };
    let cookies = response.headers_mut();
    if let Ok(SignInOutcome::SignedIn(signed_in)) = &done {
        for cookie in signed_in.cookies(&app) {
            cookies.append(header::SET_COOKIE, cookie);
        }
    }
    cookies.append(header::SET_COOKIE, OurCookie::Github.clear(&app.settings));
    response
}

/// Your linked GitHub account
#[utoipa::path(get, path = "/api/me/github", tag = "users",
    responses((status = OK, body = GithubLink), (status = UNAUTHORIZED, body = ErrorBody)))]
async fn linked(State(app): State<App>, caller: Caller) -> Result<Json<GithubLink>> {
    let mut connection = app.store.pool().acquire().await?;
    Ok(Json(GithubLink {
        available: app.settings.github.is_some(),
        account: github::account_of(&mut connection, caller.user()).await?,
    }))
}

/// Unlinks your GitHub account
#[utoipa::path(delete, path = "/api/me/github", tag = "users",
    responses((status = NO_CONTENT), (status = CONFLICT, description = "it is your only way to sign in", body = ErrorBody)))]
async fn unlink(State(app): State<App>, caller: Caller) -> Result<StatusCode> {
    sign_in::unlink(&app, &caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Search {
    /// Part of the name or the description.
    #[serde(default)]
    search: String,
}

/// Your repositories at GitHub that you can import as a project
#[utoipa::path(get, path = "/api/repositories", tag = "projects", params(Search),
    responses((status = OK, body = Repositories),
              (status = CONFLICT, description = "sign in with GitHub first, or again", body = ErrorBody),
              (status = BAD_GATEWAY, body = ErrorBody)))]
async fn importable(
    State(app): State<App>,
    caller: Caller,
    Query(Search { search }): Query<Search>,
) -> Result<Json<Repositories>> {
    repositories::list(&app, &caller, &search).await.map(Json)
}
