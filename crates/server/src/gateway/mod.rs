//! Gateway to the ports of sandboxes: `{project}--{port}[--{owner}].{apps domain}`.
//!
//! [`handle`] takes every request whose host is under the apps domain, and only those ([`is_for`]): an apps
//! host never reaches the API, and the main host never reaches an application. A request passes these stages:
//! routing by host name ([`routes`]), authorization ([`access`], [`handoff`]), header rules ([`headers`]), the
//! connection into the sandbox ([`upstream`], [`http1_connection`]), and the copy of the bodies ([`proxy`]) or
//! of all bytes after an upgrade ([`crate::tunnel`]).

mod access;
mod error_page;
pub(crate) mod handoff;
mod headers;
mod host_header;
mod http1_connection;
pub(crate) mod ingress;
mod preview_token;
mod proxy;
mod routes;
mod terminal;
mod tls;
mod upstream;

use std::{sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use fsa_model::{
    Phase, ProjectId,
    api::{HostHeader, Sharing},
    sandboxd::TERMINAL_PORT,
    sharing::ProjectRole,
};
use http::{HeaderValue, Request, StatusCode, Version, header, request::Parts};
use hyper_util::rt::TokioIo;

pub(crate) use self::handoff::SHARE;
use self::{
    access::Visitor,
    error_page::Say,
    headers::{Malformed, TOKEN_HEADER, Upgrade},
    host_header::Names,
    preview_token::{Pass, Used},
    proxy::{Outcome, ProxyError},
    routes::{Route, Routes, Target},
    upstream::Unreachable,
};
use crate::{
    auth::{Address, Caller},
    core::Core,
    error::Error,
    settings::Settings,
    store::notify::Topic,
    tunnel::{self, Farewell, Speech},
};

/// How often a tunnel checks, without a notification, whether its visitor is still authorized.
const RECHECK: Duration = Duration::from_secs(30);

/// The gateway with its state between requests. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    core: Core,
    state: Arc<State>,
}

/// What the gateway keeps between requests.
#[derive(Default)]
struct State {
    routes: Routes,
    used: Used,
}

impl Gateway {
    #[must_use]
    pub fn new(core: Core) -> Self {
        Self {
            core,
            state: Arc::default(),
        }
    }

    /// Where a label leads; see [`Routes::find`].
    async fn route(&self, label: &str) -> Result<Option<Arc<Route>>, Error> {
        self.state.routes.find(&self.core, label).await
    }
}

/// Whether a request is the gateway's: its host is under the apps domain and not the main host.
#[must_use]
pub fn is_for<B>(settings: &Settings, request: &Request<B>) -> bool {
    host_of(request).is_some_and(|authority| {
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
    let mut response = answer(gateway, request).await;
    if let Some(origin) = sibling {
        error_page::readable_by(&origin, &mut response);
    }
    error_page::shown_by(&gateway.core.settings.origin_text(), &mut response);
    response
}

async fn answer(gateway: &Gateway, request: Request<Body>) -> Response {
    let core = &gateway.core;
    let checked = checked_host(&request);
    let (parts, body) = request.into_parts();
    let Some((host, name)) = checked else {
        return Say::new(
            StatusCode::BAD_REQUEST,
            "BadRequest",
            "The request does not say clearly which host it is for.",
            "Send one Host field.",
        )
        .answer(&parts.headers);
    };
    let Some(label) = access::label(&core.settings, &name) else {
        return Say::nothing_here().answer(&parts.headers);
    };
    if fsa_model::host::parse_host(label).is_none() {
        return Say::nothing_here().answer(&parts.headers);
    }
    if parts.uri.path().starts_with("/.fsa/") || parts.uri.path() == "/.fsa" {
        return match parts.uri.path() {
            "/.fsa/hand-off" if parts.method == http::Method::GET => {
                handoff::arrive(gateway, label, &name, &parts).await
            }
            _ => Say::nothing_here().answer(&parts.headers),
        };
    }
    let route = match gateway.route(label).await {
        Ok(route) => route,
        Err(error) => return unavailable(&error).answer(&parts.headers),
    };
    let is_public = route
        .as_ref()
        .is_some_and(|route| route.sharing == Sharing::Public);
    if !is_public
        && access::is_preflight(&parts.method, &parts.headers)
        && let Some(origin) = access::sibling_origin(&core.settings, label, &parts.headers)
    {
        return error_page::preflight(origin, &parts.headers);
    }
    // A host that leads nowhere gets the same response as a private one, so that no visitor learns which
    // projects exist.
    let Some(route) = route else {
        return handoff::challenge(core, label, &parts);
    };
    if let Some((secret, path)) = handoff::share(&parts)
        && let Some(pass) = access::is_the_link(&route, &secret)
    {
        return handoff::admit_guest(core, &name, &pass, &path);
    }
    match admit(core, &route, &name, label, &parts).await {
        Admission::Comes(visitor, token, ports) => {
            if let Some(response) = missing_ports(core, &route, &name, label, visitor, &ports, &parts) {
                return response;
            }
            let ticket = Ticket {
                gateway: gateway.clone(),
                label: label.to_ascii_lowercase(),
                project: route.project,
                visitor,
                token,
            };
            if route.port == TERMINAL_PORT {
                let request = Request::from_parts(parts, body);
                terminal::handle(core, &route, visitor, request, ticket.over()).await
            } else {
                let request = Request::from_parts(parts, body);
                pass_on(core, &route, (label, &name), &host, request, ticket).await
            }
        }
        Admission::Foreign => foreign().answer(&parts.headers),
        Admission::Unknown => handoff::challenge(core, label, &parts),
        Admission::Failed(error) => unavailable(&error).answer(&parts.headers),
    }
}

enum Admission {
    /// Admitted; with the caller, if a token was used, and the other ports that the browser has preview tokens for.
    Comes(Visitor, Option<Caller>, Vec<u16>),
    Unknown,
    /// A page of another project uses the browser's preview token.
    Foreign,
    Failed(Error),
}

async fn admit(core: &Core, route: &Route, name: &str, label: &str, parts: &Parts) -> Admission {
    let headers = &parts.headers;
    if route.sharing == Sharing::Public {
        return Admission::Comes(Visitor::Anybody, None, Vec::new());
    }
    if let Some(token) = headers.get(&TOKEN_HEADER) {
        return match by_token(core, token, parts).await {
            Ok(caller) if caller.sees(route.project) => match route.people.get(&caller.user()) {
                Some(role) => {
                    // A token that may only read has the access of a viewer.
                    let most = match caller.must_write() {
                        Ok(()) => ProjectRole::Owner,
                        Err(_) => ProjectRole::Viewer,
                    };
                    let visitor = Visitor::Person(caller.user(), most.min(*role), None);
                    Admission::Comes(visitor, Some(caller), Vec::new())
                }
                None => Admission::Unknown,
            },
            Err(error) if error.status() != StatusCode::UNAUTHORIZED => Admission::Failed(error),
            _ => Admission::Unknown,
        };
    }
    match access::by_pass(&core.settings, &core.key_ring, route, name, label, headers) {
        Some(_) if access::is_foreign(&core.settings, label, &parts.method, headers) => Admission::Foreign,
        Some((visitor, ports)) => Admission::Comes(visitor, None, ports),
        None => Admission::Unknown,
    }
}

/// Leads a browser that loads a page through the ports that have begun to listen since it was admitted
/// ([`handoff::begin_chain`]).
fn missing_ports(
    core: &Core,
    route: &Route,
    name: &str,
    label: &str,
    visitor: Visitor,
    known: &[u16],
    request: &Parts,
) -> Option<Response> {
    let Visitor::Person(user, _, Some(session)) = visitor else {
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
    // A path that cannot be carried would be lost.
    if preview_token::local_path(path) != path {
        return None;
    }
    let pass = Pass::User {
        project: route.project,
        user,
        session,
    };
    Some(handoff::begin_chain(core, label, name, &pass, &others, path))
}

/// Authenticates as the API would, with the token in the header field that the API expects.
async fn by_token(core: &Core, token: &HeaderValue, request: &Parts) -> Result<Caller, Error> {
    let bearer = [b"Bearer ", token.as_bytes()].concat();
    let value = HeaderValue::from_bytes(&bearer).map_err(|_| Error::unauthorized("That is no token."))?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.headers.insert(header::AUTHORIZATION, value);
    if let Some(address) = request.extensions.get::<Address>() {
        parts.extensions.insert(*address);
    }
    Caller::authenticate(core, &parts).await
}

async fn pass_on(
    core: &Core,
    route: &Route,
    (label, name): (&str, &str),
    host: &HeaderValue,
    mut request: Request<Body>,
    ticket: Ticket,
) -> Response {
    // A request could also be held here while the sandbox starts.
    let Target::Open { upstream, .. } = &route.target else {
        return closed(&route.target).answer(request.headers());
    };
    let accept = request.headers().get(header::ACCEPT).cloned();
    let upgrade = match request.version() {
        Version::HTTP_11 => headers::wanted_upgrade(request.headers()),
        _ => None,
    };
    let client = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    if let Err(malformed) = headers::prepare_request(request.headers_mut(), upgrade.as_ref()) {
        return refused(malformed).answer(request.headers());
    }
    let address = request
        .extensions()
        .get::<Address>()
        .and_then(|address| address.0);
    let names = Names {
        settings: &core.settings,
        label,
        host,
        port: route.port,
        host_header: route.host_header,
    };
    let shown = (route.host_header == HostHeader::Public).then_some(host);
    headers::say_where_from(request.headers_mut(), address, shown, core.settings.is_https());
    names.present(request.headers_mut());
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = http::Uri::from(path);
    }
    request.extensions_mut().clear();
    match proxy::pass_on(upstream, request, upgrade.is_some()).await {
        Ok(Outcome::Answer(mut response)) => {
            headers::prepare_response(response.headers_mut(), None, name);
            names.translate(response.headers_mut());
            response
        }
        Ok(Outcome::Switched {
            headers: mut fields,
            connection,
            read,
            place,
        }) => {
            let agreed = upgrade.filter(|Upgrade(asked)| {
                fields
                    .get(header::UPGRADE)
                    .is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(asked.as_bytes()))
            });
            let (Some(client), Some(upgrade)) = (client, agreed) else {
                return proxy_error_page(&ProxyError::Unasked, route.port).answer(&accepting(accept));
            };
            let speech = if upgrade.0.as_bytes().eq_ignore_ascii_case(b"websocket") {
                Speech::WebSocket
            } else {
                Speech::Other
            };
            headers::prepare_response(&mut fields, Some(&upgrade), name);
            names.translate(&mut fields);
            core.tunnels.spawn(async move {
                if let Ok(client) = client.await {
                    tunnel::relay(TokioIo::new(client), connection, read, speech, ticket.over()).await;
                }
                drop(place);
            });
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = fields;
            response
        }
        Err(failure) => {
            tracing::debug!(?failure, "a request could not be passed on");
            proxy_error_page(&failure, route.port).answer(&accepting(accept))
        }
    }
}

/// What admitted a visitor, for connections that outlive the first check.
struct Ticket {
    gateway: Gateway,
    label: String,
    project: ProjectId,
    visitor: Visitor,
    token: Option<Caller>,
}

impl Ticket {
    /// Waits until the authorization no longer holds, or the server drains.
    async fn over(self) -> Farewell {
        let refused = async {
            let mut interest = self.gateway.core.hub.interest(Topic::Project(self.project));
            loop {
                tokio::select! {
                    () = interest.changed() => {}
                    () = tokio::time::sleep(RECHECK) => {}
                }
                match self.gateway.route(&self.label).await {
                    Ok(Some(route)) if self.holds(&route) => {}
                    Ok(_) => return,
                    Err(error) => tracing::warn!(%error, "cannot tell whether a tunnel may go on"),
                }
            }
        };
        let revoked = async {
            match &self.token {
                Some(caller) => caller.ended(&self.gateway.core).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.gateway.core.shutdown.cancelled() => Farewell::Restarting,
            () = refused => Farewell::Refused,
            () = revoked => Farewell::Refused,
        }
    }

    fn holds(&self, route: &Route) -> bool {
        route.project == self.project && access::still_admits(self.visitor, route)
    }
}

fn accepting(accept: Option<HeaderValue>) -> http::HeaderMap {
    accept
        .map(|accept| (header::ACCEPT, accept))
        .into_iter()
        .collect()
}

/// The Host field, and its host name in lower case; `None` if the request is ambiguous between two hosts.
fn checked_host<B>(request: &Request<B>) -> Option<(HeaderValue, String)> {
    let authority = host_of(request)?;
    let name = without_port(authority);
    let port = authority[name.len()..].strip_prefix(':');
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    let numeric = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let ends = authority.len() == name.len() || port.is_some();
    if !plain || !numeric || !ends || authority.len() > 300 {
        return None;
    }
    Some((HeaderValue::from_str(authority).ok()?, name.to_ascii_lowercase()))
}

/// The one authority that a request names: in HTTP/1.1 its only Host field, which an absolute request target
/// must not contradict; in HTTP/2 `:authority`.
fn host_of<B>(request: &Request<B>) -> Option<&str> {
    let target = request.uri().authority().map(http::uri::Authority::as_str);
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match hosts.next() {
        Some(host) => Some(host.to_str().ok()?),
        None => None,
    };
    if hosts.next().is_some() {
        return None;
    }
    match (target, host) {
        (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => None,
        (Some(target), None) if request.version() == Version::HTTP_2 => Some(target),
        (_, host) => host,
    }
}

fn without_port(authority: &str) -> &str {
    authority.split(':').next().unwrap_or_default()
}

fn foreign() -> Say {
    Say::new(
        StatusCode::FORBIDDEN,
        "Foreign",
        "A page of another site asked for this.",
        "It was refused, because this address is private. Open the address itself, or share the port.",
    )
}

fn unavailable(error: &Error) -> Say {
    tracing::warn!(%error, "a host name could not be looked up");
    Say::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "Unavailable",
        "This server cannot tell at the moment where that address leads.",
        "Its database does not answer. Try again in a moment.",
    )
    .again_after(2)
}

fn refused(malformed: Malformed) -> Say {
    match malformed {
        Malformed::TransferCoding => Say::new(
            StatusCode::NOT_IMPLEMENTED,
            "TransferCoding",
            "The request's transfer coding is not one that can be passed on.",
            "Use chunked, or a Content-Length.",
        ),
        Malformed::UpgradeWithBody => Say::new(
            StatusCode::BAD_REQUEST,
            "BadRequest",
            "A request for an upgrade cannot have a body.",
            "Send it without one.",
        ),
    }
}

/// The error page of a sandbox that does not run, for an authorized visitor.
fn closed(target: &Target) -> Say {
    let say = |sentence: &str, advice: &str| {
        Say::new(StatusCode::SERVICE_UNAVAILABLE, "NotRunning", sentence, advice)
    };
    let Target::Closed { phase, failure } = target else {
        return say("This project has no sandbox.", "Start it, and then come back.");
    };
    match phase {
        Phase::Creating | Phase::Starting | Phase::Updating | Phase::Running => {
            say("The sandbox is starting.", "This page looks again by itself.").again_after(1)
        }
        Phase::Stopping | Phase::Stopped => say(
            "The sandbox is stopped.",
            "Start its project, and then come back.",
        ),
        Phase::Terminating | Phase::Terminated => say(
            "The sandbox was terminated.",
            "Start its project to get a new one, and then come back.",
        ),
        Phase::Error => {
            let why = failure.as_deref().unwrap_or("Its project's page says why.");
            say(
                "The sandbox could not be started yet.",
                &format!("{why} It is tried again."),
            )
            .again_after(5)
        }
    }
}

/// The error page of a failure between the gateway and the application.
fn proxy_error_page(failure: &ProxyError, port: u16) -> Say {
    let bad =
        |name, sentence: String, advice: &str| Say::new(StatusCode::BAD_GATEWAY, name, sentence, advice);
    match failure {
        ProxyError::Unreachable(Unreachable::Driver(error)) => {
            tracing::debug!(%error, "no connection into a sandbox");
            bad(
                "NothingListens",
                format!("Nothing listens on port {port} of this sandbox yet."),
                "Start your application there. It may listen on any address of the sandbox, 127.0.0.1 among \
                 them. If it is starting, wait a moment and try again.",
            )
            .again_after(2)
        }
        ProxyError::Unreachable(Unreachable::Silent) => bad(
            "Unreachable",
            "The sandbox does not answer.".into(),
            "If this lasts, restart it.",
        ),
        ProxyError::Unreachable(Unreachable::Protocol(error)) | ProxyError::Broken(error) => {
            tracing::debug!(%error, "an application's answer is none");
            bad(
                "BrokenAnswer",
                format!("What listens on port {port} ended the connection without an HTTP answer."),
                "It may have crashed, or not speak HTTP/1.1 there. Its logs may say more.",
            )
        }
        ProxyError::NowKnownToSpeakTls => bad(
            "SpeaksHttps",
            format!("What listens on port {port} speaks HTTPS, which was not known before this request."),
            "Send it again: from now on it is passed on by HTTPS.",
        )
        .again_after(1),
        ProxyError::Unasked => bad(
            "BrokenAnswer",
            format!("What listens on port {port} switched to a protocol that nobody asked for."),
            "Its logs may say more.",
        ),
        ProxyError::Silent => Say::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Silent",
            format!("What listens on port {port} took too long to answer."),
            "Its logs may say more.",
        ),
        ProxyError::Busy => Say::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Busy",
            format!("Too many requests to port {port} are under way at once."),
            "Try again in a moment.",
        )
        .again_after(1),
    }
}
