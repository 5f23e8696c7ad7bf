//! Hand-off: gives a browser that is signed in on the main host access to a private apps host.
//!
//! The two hosts never share an origin or a cookie. The apps host redirects the browser to the main host with
//! the hash of a nonce that it keeps in a cookie. The main host knows the session, checks the permission to the
//! project, and redirects back with an encrypted hand-off that is valid for that host, that browser and one
//! minute. The apps host exchanges it, once, for a preview token in its own cookie.
//!
//! # The other ports of a project
//!
//! A page of port 5173 may send requests to port 8000 of the same project, with credentials or by WebSocket. Such a
//! request cannot be redirected to a sign-in, so the browser must have a preview token for 8000 before it. One cookie
//! for all ports would need `Domain=` with the apps domain: every project's page could then plant or overwrite it, no
//! `__Host-` name protects it, and an ingress controller under the same domain would pass it on to applications. So
//! each host has its own cookie, and a navigation leads the browser once through the hosts of all listening ports (the
//! chain of redirects, [`begin_chain`]), each of which sets it. A port that began to listen later is visited with the next navigation: the
//! preview token lists the ports that were.
//!
//! A hand-off within a chain is bound to no browser; it is made by a host that has just admitted the browser, works
//! once, for one host and one minute, and gives no more than an access link would.
//!
//! On `localhost`, and where the apps domain is a public suffix, two ports are two sites, between which no Lax cookie is
//! sent. There the same token is also in a `SameSite=None` cookie ([`OurCookie::Ports`]), which counts only for a
//! request whose `Origin` is a port of the same project: no page of another site, and no frame in one, gets in by it.
//! A browser that blocks the cookies of third parties does not send it.
//!
//! A preflight carries no credentials by design. For a port that is not public the gateway answers it itself, for pages
//! of the same project alone and without a look at the project, so no stranger reaches the application or learns
//! whether it exists.

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
    error_page::{self, Say},
    preview_token::{self, HandOff, Pass},
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
        if access::sibling_origin(&core.settings, label, &request.headers).is_some() {
            return Say::new(
                StatusCode::UNAUTHORIZED,
                "Unauthorized",
                "This port is private, and the request of the other port's page has no credentials for it.",
                "Send it with credentials (fetch: credentials: \"include\"), and reload the page if this port \
                 began to listen after it. Or make this port public.",
            )
            .answer(&request.headers);
        }
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
pub(super) async fn arrive(gateway: &Gateway, label: &str, host: &str, request: &Parts) -> Response {
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
    let is_this_browser = !hand_off.chain.is_empty()
        || OurCookie::HandOff
            .all(&core.settings, &request.headers)
            .any(|nonce| {
                preview_token::is_nonce(nonce) && preview_token::nonce_hash(nonce) == hand_off.nonce
            });
    if !is_this_browser || !gateway.state.used.take(&hand_off) {
        return refused(&hand_off.path);
    }
    let pass = hand_off.pass();
    if !hand_off.chain.is_empty() {
        let next = next_of(core, label, hand_off.clone()).unwrap_or_else(|| hand_off.path.clone());
        let mut response = error_page::redirect(&next);
        give_with_ports(core, response.headers_mut(), host, &pass, &hand_off.chain);
        return response;
    }
    let others = match gateway.route(label).await {
        Ok(Some(route)) => route.other_ports(),
        // The redirect leads to the same look-up, which says what is wrong.
        _ => Vec::new(),
    };
    let mut response = begin_chain(core, label, host, &pass, &others, &hand_off.path);
    let spent = OurCookie::HandOff.clear(&core.settings);
    response.headers_mut().append(header::SET_COOKIE, spent);
    response
}

/// Gives the browser a preview token for this host, and leads it through the hosts of `others` and back to `path`.
pub(super) fn begin_chain(
    core: &Core,
    label: &str,
    host: &str,
    pass: &Pass,
    others: &[u16],
    path: &str,
) -> Response {
    let own = parse_host(label).map(|host| host.port);
    let first = match (*pass, own) {
        (
            Pass::User {
                project,
                user,
                session,
            },
            Some(own),
        ) if !others.is_empty() => {
            let mut hand_off = HandOff::new(project, user, session, "-", path);
            hand_off.chain = std::iter::once(own).chain(others.iter().copied()).collect();
            next_of(core, label, hand_off)
        }
        _ => None,
    };
    let mut response = error_page::redirect(
        first
            .as_deref()
            .unwrap_or_else(|| preview_token::local_path(path)),
    );
    give_with_ports(core, response.headers_mut(), host, pass, others);
    response
}

/// The next URL of a chain for a browser that is at `label`: the next port's, or the path on the first.
fn next_of(core: &Core, label: &str, hand_off: HandOff) -> Option<String> {
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
                .again()
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
pub(super) fn give(core: &Core, headers: &mut HeaderMap, host: &str, pass: &Pass) {
    let token = pass.encrypt(&core.key_ring, host, &[]);
    set(core, headers, OurCookie::Preview, &token);
}

/// Sets the preview token for this host, which lists the `ports` whose hosts have one too, and again for requests of
/// their pages.
fn give_with_ports(core: &Core, headers: &mut HeaderMap, host: &str, pass: &Pass, ports: &[u16]) {
    let token = pass.encrypt(&core.key_ring, host, ports);
    set(core, headers, OurCookie::Preview, &token);
    if cookie::keeps_secure(&core.settings) {
        set(core, headers, OurCookie::Ports, &token);
    }
}

fn set(core: &Core, headers: &mut HeaderMap, cookie: OurCookie, token: &SecretString) {
    let lasts = preview_token::PASS_LASTS;
    headers.append(
        header::SET_COOKIE,
        cookie.set(&core.settings, token.expose_secret(), lasts),
    );
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
