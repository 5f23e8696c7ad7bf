//! Hand-off: gives a browser that is signed in on the main host access to a private apps host.
//!
//! The two hosts never share an origin or a cookie. The apps host redirects the browser to the main host with
//! the hash of a nonce that it keeps in a cookie. The main host knows the session, checks the permission to the
//! project, and redirects back with an encrypted hand-off that is valid for that host, that browser and one
//! minute. The apps host exchanges it, once, for a preview token in its own cookie.

use std::time::Duration;

use axum::{
    extract::{FromRef, State},
    response::{IntoResponse as _, Response},
};
use fsa_model::host::parse_host;
use http::{HeaderMap, StatusCode, header, request::Parts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use url::form_urlencoded;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    Gateway, access,
    error_page::{self, Say},
    preview_token::{self, HandOff, Pass},
};
use crate::{
    auth::{Caller, CredentialId, cookie::OurCookie, permission::Read},
    core::Core,
    extract::Query,
    store::projects,
};

const NONCE_LASTS: Duration = Duration::from_secs(10 * 60);
/// The query parameter that holds the secret of a port's access link.
pub(crate) const SHARE: &str = "fsa_share";

/// The routes on the main host.
pub(crate) fn routes<S>() -> OpenApiRouter<S>
where
    Core: FromRef<S>,
    S: Clone + Send + Sync + 'static,
{
    OpenApiRouter::new().routes(routes!(preview))
}

/// The response of an apps host to an unauthenticated visitor.
pub(super) fn challenge(core: &Core, label: &str, request: &Parts) -> Response {
    if !error_page::is_navigation(&request.method, &request.headers) {
        return Say::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "This address is private.",
            "Open it in a browser where you are signed in, or send an API token of its owner in the \
             header X-Fsa-Token.",
        )
        .answer(&request.headers);
    }
    let kept = OurCookie::HandOff
        .all(&core.settings, &request.headers)
        .find(|nonce| preview_token::is_nonce(nonce));
    let nonce = kept.map_or_else(preview_token::nonce, str::to_owned);
    let path = request
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let query = PreviewQuery {
        host: format!("{label}.{}", core.settings.apps_domain),
        path: preview_token::local_path(path).to_owned(),
        nonce: preview_token::nonce_hash(&nonce),
    };
    let mut response = error_page::redirect(&format!("{}{}", core.settings.origin_text(), address(&query)));
    let cookie = OurCookie::HandOff.set(&core.settings, &nonce, NONCE_LASTS);
    response.headers_mut().append(header::SET_COOKIE, cookie);
    response
}

/// Query of `/api/auth/preview`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct PreviewQuery {
    /// The apps host to open.
    host: String,
    /// The path on that host.
    #[serde(default)]
    path: String,
    /// Hash of the nonce that binds the hand-off to the browser.
    #[serde(default)]
    nonce: String,
}

/// Redirects a browser that is signed in to a private apps host
#[utoipa::path(
    get, path = "/api/auth/preview", tag = "auth", params(PreviewQuery), security(()),
    responses(
        (status = 302, description = "To the apps host, or to the sign-in page"),
        (status = 404, description = "There is no such project, or it is somebody else's"),
    ),
)]
async fn preview(
    State(core): State<Core>,
    caller: Option<Caller>,
    headers: HeaderMap,
    Query(query): Query<PreviewQuery>,
) -> Response {
    let Some((caller, session)) = in_session(caller) else {
        return sign_in_first(&core, &address(&query));
    };
    let name = host_name(&query.host);
    let label = access::label(&core.settings, &name);
    let Some((label, host)) = label.and_then(|label| parse_host(label).map(|host| (label, host))) else {
        return Say::nothing_here().answer(&headers);
    };
    match projects::by_host(&core.store, &host).await {
        Err(error) => error.into_response(),
        Ok(Some(project)) => {
            // A user who may see the project may see what its ports serve.
            match projects::find::<Read>(&core.store, &caller, &project.id.to_string()).await {
                Ok(_) => {}
                Err(error) if error.status() == StatusCode::NOT_FOUND => {
                    return Say::nothing_here().answer(&headers);
                }
                Err(error) => return error.into_response(),
            }
            let hand_off = HandOff::new(project.id, caller.user(), session, &query.nonce, &query.path);
            let token = hand_off.encrypt(&core.key_ring, &name);
            error_page::redirect(&format!(
                "{}/.fsa/hand-off?token={}",
                core.settings.app_url(label),
                token.expose_secret()
            ))
        }
        Ok(None) => Say::nothing_here().answer(&headers),
    }
}

/// The caller and their session, if they are signed in with a browser.
pub(super) fn in_session(caller: Option<Caller>) -> Option<(Caller, Uuid)> {
    caller.and_then(|caller| match caller.credential() {
        CredentialId::Session(session) => Some((caller, session)),
        CredentialId::Token(_) => None,
    })
}

/// Redirects to the sign-in page, which leads back to `next`, a path of the main host.
pub(super) fn sign_in_first(core: &Core, next: &str) -> Response {
    let next = utf8_percent_encode(next, NON_ALPHANUMERIC);
    error_page::redirect(&format!("{}/sign-in?next={next}", core.settings.origin_text()))
}

/// The path of this request on the main host.
fn address(query: &PreviewQuery) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("host", &query.host),
            ("nonce", &query.nonce),
            ("path", &query.path),
        ])
        .finish();
    format!("/api/auth/preview?{query}")
}

/// The host name without a port, in lower case.
fn host_name(authority: &str) -> String {
    authority
        .split(':')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
}

/// Handles `/.fsa/hand-off` on an apps host.
pub(super) fn arrive(gateway: &Gateway, host: &str, request: &Parts) -> Response {
    let core = &gateway.core;
    let token = request
        .uri
        .query()
        .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("token=")));
    let hand_off = token.and_then(|token| HandOff::open(&core.key_ring, host, token));
    let refused = |to: &str| {
        let mut response = Say::new(
            StatusCode::FORBIDDEN,
            "HandOffRefused",
            "This way in was used before or has expired.",
            format!("Open {to} at this address again."),
        )
        .answer(&request.headers);
        response.headers_mut().remove(header::RETRY_AFTER);
        response
    };
    let Some(hand_off) = hand_off else {
        return refused("/");
    };
    let is_this_browser = OurCookie::HandOff
        .all(&core.settings, &request.headers)
        .any(|nonce| preview_token::is_nonce(nonce) && preview_token::nonce_hash(nonce) == hand_off.nonce);
    if !is_this_browser || !gateway.state.used.take(&hand_off) {
        return refused(&hand_off.path);
    }
    let mut response = error_page::redirect(&hand_off.path);
    give(core, response.headers_mut(), host, &hand_off.pass());
    let spent = OurCookie::HandOff.clear(&core.settings);
    response.headers_mut().append(header::SET_COOKIE, spent);
    response
}

/// Sets the preview token cookie for this host.
pub(super) fn give(core: &Core, headers: &mut HeaderMap, host: &str, pass: &Pass) {
    let encrypted = pass.encrypt(&core.key_ring, host);
    let cookie = OurCookie::Preview.set(
        &core.settings,
        encrypted.expose_secret(),
        preview_token::PASS_LASTS,
    );
    headers.append(header::SET_COOKIE, cookie);
}

/// The secret of a port's access link, if the request carries one, and the path without it.
pub(super) fn share(request: &Parts) -> Option<(String, String)> {
    let uri = &request.uri;
    let query = uri.query().filter(|query| query.contains(SHARE))?;
    let is_share = |pair: &&str| pair.strip_prefix(SHARE).is_some_and(|rest| rest.starts_with('='));
    let secret = query.split('&').find(is_share)?[SHARE.len() + 1..].to_owned();
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_share(pair)).collect();
    let path = if rest.is_empty() {
        uri.path().to_owned()
    } else {
        format!("{}?{}", uri.path(), rest.join("&"))
    };
    Some((secret, path))
}

/// Admits a browser that came by the port's access link, and removes the secret from its URL.
pub(super) fn admit_guest(core: &Core, host: &str, pass: &Pass, path: &str) -> Response {
    let mut response = error_page::redirect(preview_token::local_path(path));
    give(core, response.headers_mut(), host, pass);
    response
}
