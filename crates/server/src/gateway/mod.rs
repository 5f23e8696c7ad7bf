//! Gateway to the ports of sandboxes: `{project}--{port}[--{owner}].{apps domain}`.
//!
//! [`handle`] takes every request whose host is under the apps domain, and only those ([`is_for`]): an apps
//! host never reaches the API, and the main host never reaches an application. A request passes these stages:
//! routing by host name ([`routes`]), authorization ([`access`], [`handoff`]), header rules ([`headers`]), the
//! connection into the sandbox ([`upstream`], [`http1_connection`]), and the copy of the bodies ([`proxy`]) or
//! of all bytes after an upgrade ([`crate::tunnel`]).

mod access;
mod error_page;
mod failure_pages;
mod framing;
pub(crate) mod handoff;
mod headers;
mod host_header;
mod http1_connection;
pub(crate) mod ingress;
mod preview_token;
mod proxy;
mod request_host;
mod routes;
mod terminal;
mod tls;
mod tunnel_access;
mod upstream;

use std::sync::Arc;

use axum::{body::Body, response::Response};
use fsa_model::{
    api::{HostHeader, Sharing},
    sandboxd::TERMINAL_PORT,
    sharing::ProjectRole,
};
use http::{HeaderValue, Request, StatusCode, Version, header, request::Parts};
use hyper_util::rt::TokioIo;

pub(crate) use self::handoff::ACCESS_LINK_PARAM;
use self::{
    access::Principal,
    error_page::ErrorPage,
    headers::{TOKEN_HEADER, Upgrade},
    host_header::HostNames,
    preview_token::{PreviewToken, UsedHandOffs},
    proxy::{Outcome, ProxyError},
    request_host::{authority_of, checked_host, without_port},
    routes::{Route, Routes, Target},
    tunnel_access::TunnelAccess,
};
use crate::{
    auth::{Address, Caller},
    core::Core,
    error::Error,
    settings::Settings,
    tunnel::{self, TunnelProtocol},
};

/// The gateway with its state between requests. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    core: Core,
    state: Arc<State>,
}

/// State that outlives a request.
#[derive(Default)]
struct State {
    routes: Routes,
    used_hand_offs: UsedHandOffs,
}

impl Gateway {
    #[must_use]
    pub fn new(core: Core) -> Self {
        Self {
            core,
            state: Arc::default(),
        }
    }

    /// The route for a label; see [`Routes::find`].
    async fn route(&self, label: &str) -> Result<Option<Arc<Route>>, Error> {
        self.state.routes.find(&self.core, label).await
    }
}

/// Whether a request is for the gateway: its host is under the apps domain and not the main host.
#[must_use]
pub fn is_for<B>(settings: &Settings, request: &Request<B>) -> bool {
    authority_of(request).is_some_and(|authority| {
        let name = without_port(authority);
        access::label(settings, name).is_some()
            && !settings
                .origin
                .host_str()
                .is_some_and(|main| main.eq_ignore_ascii_case(name))
    })
}

/// Handles a request to an apps host.
pub async fn handle(gateway: &Gateway, request: Request<Body>) -> Response {
    let label = checked_host(&request)
        .and_then(|(_, name)| Some(access::label(&gateway.core.settings, &name)?.to_owned()));
    let sibling = label
        .and_then(|label| access::sibling_origin(&gateway.core.settings, &label, request.headers()).cloned());
    let mut response = respond(gateway, request).await;
    if let Some(origin) = sibling {
        error_page::allow_cross_origin_read(&origin, &mut response);
    }
    error_page::allow_framing(&gateway.core.settings.origin_text(), &mut response);
    response
}

async fn respond(gateway: &Gateway, request: Request<Body>) -> Response {
    let core = &gateway.core;
    let checked = checked_host(&request);
    let (parts, body) = request.into_parts();
    let Some((host, name)) = checked else {
        return failure_pages::ambiguous_host().response(&parts.headers);
    };
    let Some(label) = access::label(&core.settings, &name) else {
        return ErrorPage::not_found().response(&parts.headers);
    };
    if fsa_model::host::parse_host(label).is_none() {
        return ErrorPage::not_found().response(&parts.headers);
    }
    if parts.uri.path().starts_with("/.fsa/") || parts.uri.path() == "/.fsa" {
        return match parts.uri.path() {
            "/.fsa/hand-off" if parts.method == http::Method::GET => {
                handoff::redeem(gateway, label, &name, &parts).await
            }
            _ => ErrorPage::not_found().response(&parts.headers),
        };
    }
    let route = match gateway.route(label).await {
        Ok(route) => route,
        Err(error) => return failure_pages::lookup_failed(&error).response(&parts.headers),
    };
    let is_public = route
        .as_ref()
        .is_some_and(|route| route.sharing == Sharing::Public || access::is_at_public_path(route, &parts));
    if !is_public
        && access::is_preflight(&parts.method, &parts.headers)
        && let Some(origin) = access::sibling_origin(&core.settings, label, &parts.headers)
    {
        return error_page::preflight(origin, &parts.headers);
    }
    // A host without a project gets the same response as a private one, which does not reveal which projects exist.
    let Some(route) = route else {
        return handoff::challenge(core, label, &parts);
    };
    if let Some((secret, path)) = handoff::access_link_secret(&parts)
        && let Some(token) = access::by_access_link(&route, &secret)
    {
        return handoff::redeem_access_link(core, &name, &token, &path);
    }
    match authorize(core, &route, &name, label, &parts).await {
        Authorization::Granted(principal, caller, ports) => {
            if let Some(response) =
                redirect_to_new_ports(core, &route, &name, label, principal, &ports, &parts)
            {
                return response;
            }
            let access = TunnelAccess {
                gateway: gateway.clone(),
                label: label.to_ascii_lowercase(),
                project: route.project,
                principal,
                caller,
            };
            if route.port == TERMINAL_PORT {
                let request = Request::from_parts(parts, body);
                terminal::handle(core, &route, principal, request, access.ended()).await
            } else {
                let request = Request::from_parts(parts, body);
                forward(core, &route, (label, &name), &host, request, access).await
            }
        }
        Authorization::CrossProject => failure_pages::cross_project().response(&parts.headers),
        Authorization::Unauthenticated => handoff::challenge(core, label, &parts),
        Authorization::Failed(error) => failure_pages::lookup_failed(&error).response(&parts.headers),
    }
}

enum Authorization {
    /// With the caller, if the request has an API token, and the other ports for which the browser has a preview token.
    Granted(Principal, Option<Caller>, Vec<u16>),
    Unauthenticated,
    /// A page of another project sent the request, with the browser's preview token.
    CrossProject,
    Failed(Error),
}

async fn authorize(core: &Core, route: &Route, name: &str, label: &str, parts: &Parts) -> Authorization {
    let headers = &parts.headers;
    if route.sharing == Sharing::Public || access::is_at_public_path(route, parts) {
        return Authorization::Granted(Principal::Anonymous, None, Vec::new());
    }
    if let Some(token) = headers.get(&TOKEN_HEADER) {
        return match by_api_token(core, token, parts).await {
            Ok(caller) if caller.sees(route.project) => match route.people.get(&caller.user()) {
                Some(role) => {
                    // A read-only token has the role of a viewer.
                    let max_role = match caller.must_write() {
                        Ok(()) => ProjectRole::Owner,
                        Err(_) => ProjectRole::Viewer,
                    };
                    let principal = Principal::User(caller.user(), max_role.min(*role), None);
                    Authorization::Granted(principal, Some(caller), Vec::new())
                }
                None => Authorization::Unauthenticated,
            },
            Err(error) if error.status() != StatusCode::UNAUTHORIZED => Authorization::Failed(error),
            _ => Authorization::Unauthenticated,
        };
    }
    match access::by_preview_token(&core.settings, &core.key_ring, route, name, label, headers) {
        Some(_) if access::is_cross_project_request(&core.settings, label, &parts.method, headers) => {
            Authorization::CrossProject
        }
        Some((principal, ports)) => Authorization::Granted(principal, None, ports),
        None => Authorization::Unauthenticated,
    }
}

/// For a navigation: redirects the browser through the hosts of ports that it has no preview token for, because they
/// began to listen after its hand-off ([`handoff::begin_chain`]).
fn redirect_to_new_ports(
    core: &Core,
    route: &Route,
    name: &str,
    label: &str,
    principal: Principal,
    known: &[u16],
    request: &Parts,
) -> Option<Response> {
    let Principal::User(user, _, Some(session)) = principal else {
        return None;
    };
    if route.port == TERMINAL_PORT || !error_page::is_navigation(&request.method, &request.headers) {
        return None;
    }
    let others = route.other_ports();
    if others.iter().all(|port| known.contains(port)) {
        return None;
    }
    let path = request
        .uri
        .path_and_query()
        .map(http::uri::PathAndQuery::as_str)?;
    // The chain would lose a path that a hand-off cannot contain.
    if preview_token::local_path(path) != path {
        return None;
    }
    let token = PreviewToken::User {
        project: route.project,
        user,
        session,
    };
    Some(handoff::begin_chain(core, label, name, &token, &others, path))
}

/// Authenticates an API token as the API does.
async fn by_api_token(core: &Core, token: &HeaderValue, request: &Parts) -> Result<Caller, Error> {
    let bearer = [b"Bearer ", token.as_bytes()].concat();
    let value = HeaderValue::from_bytes(&bearer)
        .map_err(|_| Error::unauthorized("The value of X-Fsa-Token is not a token."))?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.headers.insert(header::AUTHORIZATION, value);
    if let Some(address) = request.extensions.get::<Address>() {
        parts.extensions.insert(*address);
    }
    Caller::authenticate(core, &parts).await
}

async fn forward(
    core: &Core,
    route: &Route,
    (label, name): (&str, &str),
    host: &HeaderValue,
    mut request: Request<Body>,
    access: TunnelAccess,
) -> Response {
    let Target::Open { upstream, .. } = &route.target else {
        return failure_pages::not_running(&route.target).response(request.headers());
    };
    let accept = request.headers().get(header::ACCEPT).cloned();
    let embedder = framing::embedder(&core.settings.origin, request.method(), request.headers());
    let path = request.uri().path_and_query().cloned();
    let upgrade = match request.version() {
        Version::HTTP_11 => headers::requested_upgrade(request.headers()),
        _ => None,
    };
    let client = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    if let Err(malformed) = headers::prepare_request(request.headers_mut(), upgrade.as_ref()) {
        return failure_pages::malformed_request(malformed).response(request.headers());
    }
    let address = request
        .extensions()
        .get::<Address>()
        .and_then(|address| address.0);
    let names = HostNames {
        settings: &core.settings,
        label,
        host,
        port: route.port,
        host_header: route.host_header,
    };
    let shown = (route.host_header == HostHeader::Public).then_some(host);
    headers::set_forwarded_fields(request.headers_mut(), address, shown, core.settings.is_https());
    names.rewrite_request(request.headers_mut());
    if let Some(path) = path.clone() {
        *request.uri_mut() = http::Uri::from(path);
    }
    request.extensions_mut().clear();
    match proxy::forward(upstream, request, upgrade.is_some()).await {
        Ok(Outcome::Response(mut response)) => {
            headers::prepare_response(response.headers_mut(), None, name);
            names.rewrite_response(response.headers_mut());
            let origin = &core.settings.origin;
            let forbidding = embedder
                .filter(|_| !response.status().is_redirection())
                .and_then(|by| framing::forbidden_by(response.headers(), by, origin, origin.scheme()));
            match forbidding {
                Some(rule) => {
                    let path = path.as_ref().map_or("/", http::uri::PathAndQuery::as_str);
                    framing::explanation(&rule, &format!("{}{path}", names.public_origin()))
                        .response(&accept_header(accept))
                }
                None => response,
            }
        }
        Ok(Outcome::Switched {
            headers: mut fields,
            connection,
            read,
            permit,
        }) => {
            let agreed = upgrade.filter(|Upgrade(requested)| {
                fields
                    .get(header::UPGRADE)
                    .is_some_and(|agreed| agreed.as_bytes().eq_ignore_ascii_case(requested.as_bytes()))
            });
            let (Some(client), Some(upgrade)) = (client, agreed) else {
                return failure_pages::proxy_failed(&ProxyError::UnrequestedUpgrade, route.port)
                    .response(&accept_header(accept));
            };
            let speech = if upgrade.0.as_bytes().eq_ignore_ascii_case(b"websocket") {
                TunnelProtocol::WebSocket
            } else {
                TunnelProtocol::Other
            };
            headers::prepare_response(&mut fields, Some(&upgrade), name);
            names.rewrite_response(&mut fields);
            core.tunnels.spawn(async move {
                if let Ok(client) = client.await {
                    tunnel::relay(TokioIo::new(client), connection, read, speech, access.ended()).await;
                }
                drop(permit);
            });
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = fields;
            response
        }
        Err(failure) => {
            tracing::debug!(?failure, "a request could not be forwarded");
            failure_pages::proxy_failed(&failure, route.port).response(&accept_header(accept))
        }
    }
}

fn accept_header(accept: Option<HeaderValue>) -> http::HeaderMap {
    accept
        .map(|accept| (header::ACCEPT, accept))
        .into_iter()
        .collect()
}
