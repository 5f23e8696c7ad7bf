//! Hand-off: authorizes a browser that is signed in on the main host on a private apps host.
//!
//! The two hosts never share an origin or a cookie. The apps host sets a cookie with a nonce and redirects the browser to
//! the main host with the nonce's hash. The main host checks the session and the permission in the project, and redirects
//! back with an encrypted hand-off that is valid for that host, that browser and one minute. The apps host exchanges it,
//! once, for a preview token in a separate cookie.
//!
//! # The other ports of a project
//!
//! A page of port 5173 may send requests to port 8000 of the same project, with credentials or by WebSocket. Such a
//! request cannot be redirected to a sign-in, so the browser needs a preview token for 8000 first. One cookie for all
//! ports would need `Domain=` with the apps domain: pages of every project could overwrite it, no `__Host-` name would
//! protect it, and an ingress controller under the same domain would forward it to applications. So each host has its
//! own cookie, and the first navigation redirects the browser through the hosts of all listening ports (the chain,
//! [`begin_chain`]), each of which sets its cookie. The preview token lists these ports; if another port begins to
//! listen, the next navigation starts a chain for it.
//!
//! A hand-off within a chain is not bound to a browser. It comes from a host that has just authorized the browser, is
//! valid once, for one host and one minute, and grants no more than an access link.
//!
//! On `localhost`, and where the apps domain is a public suffix, two ports are two sites, between which browsers send no
//! Lax cookie. So the same token is also in a `SameSite=None` cookie ([`OurCookie::Ports`]). It is accepted only if
//! `Origin` is a port of the same project, so pages of other sites cannot use it. A browser that blocks third-party
//! cookies does not send it.
//!
//! A preflight carries no credentials by design. For a port that is not public the gateway answers it itself, for pages
//! of the same project only and without a lookup of the project, so a preflight neither reaches the application nor
//! reveals whether the project exists.
//!
//! # Forms of other sites
//!
//! A form that another site posts here (OAuth's `form_post`, SAML, a payment's return) brings no Lax cookie. The gateway does
//! not hold its body and post it again after a sign-in: that request would come from this site, with the application's
//! own Lax cookies, and so undo the protection against forged requests that these give. It explains public paths instead.

use std::time::Duration;

use axum::{
    extract::{FromRef, State},
    response::{IntoResponse as _, Response},
};
use fsa_model::host::parse_host;
use http::{HeaderMap, StatusCode, header, request::Parts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use url::form_urlencoded;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    Gateway, access,
    error_page::{self, ErrorPage},
    preview_token::{self, HandOff, PreviewToken},
};
use crate::{
    auth::{
        Caller, CredentialId,
        cookie::{self, OurCookie},
        permission::Read,
    },
    core::Core,
    extract::Query,
    store::projects,
};

const NONCE_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// The query parameter that holds the secret of a port's access link.
pub(crate) const ACCESS_LINK_PARAM: &str = "fsa_share";

/// The routes on the main host.
pub(crate) fn routes<S>() -> OpenApiRouter<S>
where
    Core: FromRef<S>,
    S: Clone + Send + Sync + 'static,
{
    OpenApiRouter::new().routes(routes!(preview))
}

/// The response of an apps host to an unauthenticated request: a redirect to the main host, or 401.
pub(super) fn challenge(core: &Core, label: &str, request: &Parts) -> Response {
    if !error_page::is_navigation(&request.method, &request.headers) {
        if access::sibling_origin(&core.settings, label, &request.headers).is_some() {
            return ErrorPage::new(
                StatusCode::UNAUTHORIZED,
                "Unauthorized",
                "This port is private, and the request has no credentials for it.",
                "Send credentials with it (fetch: credentials: \"include\"). Reload the page if this port began to \
                 listen after the page was loaded. Or make this port public.",
            )
            .response(&request.headers);
        }
        if error_page::is_form(&request.method, &request.headers) {
            return ErrorPage::new(
                StatusCode::UNAUTHORIZED,
                "Unauthorized",
                "This address is private, and a form of another site leads to it.",
                format!(
                    "Browsers send no cookies with such a form, so you are not signed in for it; nothing was delivered. If \
                     this is the callback of a sign-in or a payment, open its path alone to everyone: \
                     fsa port public PROJECT PORT --path {}, or Port settings beside the preview.",
                    request.uri.path()
                ),
            )
            .response(&request.headers);
        }
        return ErrorPage::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "This address is private.",
            "Open it in a browser in which you are signed in, or send an API token of its owner in the \
             header X-Fsa-Token.",
        )
        .response(&request.headers);
    }
    let existing = OurCookie::HandOff
        .all(&core.settings, &request.headers)
        .find(|nonce| preview_token::is_nonce(nonce));
    let nonce = existing.map_or_else(preview_token::nonce, str::to_owned);
    let path = request
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let query = PreviewQuery {
        host: format!("{label}.{}", core.settings.apps_domain),
        path: preview_token::local_path(path).to_owned(),
        nonce: preview_token::nonce_hash(&nonce),
    };
    let mut response = error_page::redirect(&format!(
        "{}{}",
        core.settings.origin_text(),
        preview_path(&query)
    ));
    let cookie = OurCookie::HandOff.set(&core.settings, &nonce, NONCE_LIFETIME);
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
        (status = 404, description = "There is no such project, or the user has no role in it"),
    ),
)]
async fn preview(
    State(core): State<Core>,
    caller: Option<Caller>,
    headers: HeaderMap,
    Query(query): Query<PreviewQuery>,
) -> Response {
    let Some((caller, session)) = in_session(caller) else {
        return redirect_to_sign_in(&core, &preview_path(&query));
    };
    let name = host_name(&query.host);
    let label = access::label(&core.settings, &name);
    let Some((label, host)) = label.and_then(|label| parse_host(label).map(|host| (label, host))) else {
        return ErrorPage::not_found().response(&headers);
    };
    match projects::by_host(&core.store, &host.target).await {
        Err(error) => error.into_response(),
        Ok(Some(project)) => {
            match projects::find::<Read>(&core.store, &caller, &project.id.to_string()).await {
                Ok(_) => {}
                Err(error) if error.status() == StatusCode::NOT_FOUND => {
                    return ErrorPage::not_found().response(&headers);
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
        Ok(None) => ErrorPage::not_found().response(&headers),
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
pub(super) fn redirect_to_sign_in(core: &Core, next: &str) -> Response {
    let next = utf8_percent_encode(next, NON_ALPHANUMERIC);
    error_page::redirect(&format!("{}/sign-in?next={next}", core.settings.origin_text()))
}

/// The path and query of `/api/auth/preview` for this request.
fn preview_path(query: &PreviewQuery) -> String {
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

/// Handles `/.fsa/hand-off` on an apps host: exchanges the hand-off for a preview token.
pub(super) async fn redeem(gateway: &Gateway, label: &str, host: &str, request: &Parts) -> Response {
    let core = &gateway.core;
    let token = request
        .uri
        .query()
        .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("token=")));
    let hand_off = token.and_then(|token| HandOff::decrypt(&core.key_ring, host, token));
    let refused = |to: &str| {
        let mut response = ErrorPage::new(
            StatusCode::FORBIDDEN,
            "HandOffRefused",
            "This hand-off was used before, has expired, or is for another browser.",
            format!("Open {to} on this host again."),
        )
        .response(&request.headers);
        response.headers_mut().remove(header::RETRY_AFTER);
        response
    };
    let Some(hand_off) = hand_off else {
        return refused("/");
    };
    let is_this_browser = !hand_off.chain.is_empty()
        || OurCookie::HandOff
            .all(&core.settings, &request.headers)
            .any(|nonce| {
                preview_token::is_nonce(nonce) && preview_token::nonce_hash(nonce) == hand_off.nonce
            });
    if !is_this_browser || !gateway.state.used_hand_offs.redeem(&hand_off) {
        return refused(&hand_off.path);
    }
    let token = hand_off.preview_token();
    if !hand_off.chain.is_empty() {
        let next = next_url(core, label, hand_off.clone()).unwrap_or_else(|| hand_off.path.clone());
        let mut response = error_page::redirect(&next);
        set_preview_tokens(core, response.headers_mut(), host, &token, &hand_off.chain);
        return response;
    }
    let others = match gateway.route(label).await {
        Ok(Some(route)) => route.other_ports(),
        // The redirect leads to the same lookup, which reports the error.
        _ => Vec::new(),
    };
    let mut response = begin_chain(core, label, host, &token, &others, &hand_off.path);
    let cleared = OurCookie::HandOff.clear(&core.settings);
    response.headers_mut().append(header::SET_COOKIE, cleared);
    response
}

/// Sets the preview token for this host, and redirects the browser through the hosts of `others` and back to `path`.
pub(super) fn begin_chain(
    core: &Core,
    label: &str,
    host: &str,
    token: &PreviewToken,
    others: &[u16],
    path: &str,
) -> Response {
    let own = parse_host(label).map(|host| host.port);
    let first = match (*token, own) {
        (
            PreviewToken::User {
                project,
                user,
                session,
            },
            Some(own),
        ) if !others.is_empty() => {
            let mut hand_off = HandOff::new(project, user, session, "-", path);
            hand_off.chain = std::iter::once(own).chain(others.iter().copied()).collect();
            next_url(core, label, hand_off)
        }
        _ => None,
    };
    let mut response = error_page::redirect(
        first
            .as_deref()
            .unwrap_or_else(|| preview_token::local_path(path)),
    );
    set_preview_tokens(core, response.headers_mut(), host, token, others);
    response
}

/// The next URL of a chain after the host of `label`: the next port's hand-off, or at the end the path on the first.
fn next_url(core: &Core, label: &str, hand_off: HandOff) -> Option<String> {
    let own = parse_host(label)?.port;
    let at = hand_off.chain.iter().position(|port| *port == own)?;
    let url_of = |port: u16| Some(core.settings.app_url(&access::sibling_label(label, port)?));
    match hand_off.chain.get(at + 1) {
        None => Some(format!("{}{}", url_of(hand_off.chain[0])?, hand_off.path)),
        Some(&port) => {
            let host = format!(
                "{}.{}",
                access::sibling_label(label, port)?,
                core.settings.apps_domain
            );
            let next = hand_off
                .for_next_host()
                .encrypt(&core.key_ring, &host.to_ascii_lowercase());
            Some(format!(
                "{}/.fsa/hand-off?token={}",
                url_of(port)?,
                next.expose_secret()
            ))
        }
    }
}

/// Sets the preview token for this host.
pub(super) fn set_preview_token(core: &Core, headers: &mut HeaderMap, host: &str, token: &PreviewToken) {
    let encrypted = token.encrypt(&core.key_ring, host, &[]);
    set_cookie(core, headers, OurCookie::Preview, &encrypted);
}

/// Sets the preview token for this host, which lists the `ports` whose hosts have one too, and again as the cookie for
/// requests of their pages.
fn set_preview_tokens(core: &Core, headers: &mut HeaderMap, host: &str, token: &PreviewToken, ports: &[u16]) {
    let encrypted = token.encrypt(&core.key_ring, host, ports);
    set_cookie(core, headers, OurCookie::Preview, &encrypted);
    if cookie::keeps_secure(&core.settings) {
        set_cookie(core, headers, OurCookie::Ports, &encrypted);
    }
}

fn set_cookie(core: &Core, headers: &mut HeaderMap, cookie: OurCookie, token: &SecretString) {
    let lifetime = preview_token::PREVIEW_TOKEN_LIFETIME;
    headers.append(
        header::SET_COOKIE,
        cookie.set(&core.settings, token.expose_secret(), lifetime),
    );
}

/// The secret of a port's access link, if the request has one, and the path without it.
pub(super) fn access_link_secret(request: &Parts) -> Option<(String, String)> {
    let uri = &request.uri;
    let query = uri.query().filter(|query| query.contains(ACCESS_LINK_PARAM))?;
    let is_param = |pair: &&str| {
        pair.strip_prefix(ACCESS_LINK_PARAM)
            .is_some_and(|rest| rest.starts_with('='))
    };
    let secret = query.split('&').find(is_param)?[ACCESS_LINK_PARAM.len() + 1..].to_owned();
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_param(pair)).collect();
    let path = if rest.is_empty() {
        uri.path().to_owned()
    } else {
        format!("{}?{}", uri.path(), rest.join("&"))
    };
    Some((secret, path))
}

/// Sets the preview token for an access link, and redirects to the URL without the secret.
pub(super) fn redeem_access_link(core: &Core, host: &str, token: &PreviewToken, path: &str) -> Response {
    let mut response = error_page::redirect(preview_token::local_path(path));
    set_preview_token(core, response.headers_mut(), host, token);
    response
}
