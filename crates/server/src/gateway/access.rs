//! Authorization of requests to a preview: pure decisions over a route and the credentials that a request carries.

use fsa_model::{
    UserId,
    api::Sharing,
    host::{Host, parse_host},
    public_path::is_public_path,
    sharing::ProjectRole,
};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::{preview_token::PreviewToken, routes::Route};
use crate::{
    auth::{cookie::OurCookie, secret::hash},
    encryption::KeyRing,
    settings::Settings,
};

/// Maximum number of preview tokens that are tried: another host under the same domain can set cookies of this name.
const MAX_PREVIEW_TOKENS: usize = 4;

/// Who an authorized request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Principal {
    /// Anyone: the port is public.
    Anonymous,
    /// A browser that opened the port's access link; the hash of the link's secret.
    AccessLink([u8; 32]),
    /// A user with at least this role in the project, and the user's session if there is one.
    User(UserId, ProjectRole, Option<Uuid>),
}

/// Authorizes by the preview tokens in the request's cookies. Returns the ports of the project for which the browser
/// has a preview token too. `host` is the host name without a port, `own` as in [`is_cross_project_request`].
///
/// A page of any site can make the browser send [`OurCookie::Ports`], so this cookie counts only if `Origin` is a port of
/// the same project.
pub(super) fn by_preview_token(
    settings: &Settings,
    key_ring: &KeyRing,
    route: &Route,
    host: &str,
    own: &str,
    headers: &HeaderMap,
) -> Option<(Principal, Vec<u16>)> {
    let sibling = sibling_origin(settings, own, headers).is_some();
    let cross_site = OurCookie::Ports.all(settings, headers).filter(|_| sibling);
    let mut principal = None;
    let mut ports = Vec::new();
    let tokens = OurCookie::Preview
        .all(settings, headers)
        .take(MAX_PREVIEW_TOKENS)
        .chain(cross_site.take(MAX_PREVIEW_TOKENS))
        .filter_map(|cookie| PreviewToken::decrypt(key_ring, host, cookie));
    for (token, listed) in tokens {
        let found = principal_of(&token, route);
        if found.is_some() {
            ports.extend(listed);
        }
        principal = principal.or(found);
    }
    principal.map(|principal| (principal, ports))
}

/// Who a decrypted preview token authorizes; `None` if the route no longer accepts it.
pub(super) fn principal_of(token: &PreviewToken, route: &Route) -> Option<Principal> {
    let (project, principal) = match *token {
        PreviewToken::User {
            project,
            user,
            session,
        } => (
            project,
            Principal::User(user, *route.people.get(&user)?, Some(session)),
        ),
        PreviewToken::Link { project, link } => (project, Principal::AccessLink(link)),
    };
    (project == route.project && is_still_authorized(principal, route)).then_some(principal)
}

/// Whether a principal that was authorized before still is.
pub(super) fn is_still_authorized(principal: Principal, route: &Route) -> bool {
    match principal {
        Principal::Anonymous => route.sharing == Sharing::Public,
        Principal::AccessLink(link) => route.sharing == Sharing::Link && route.link == Some(link),
        Principal::User(user, role, session) => {
            route.people.get(&user).is_some_and(|now| *now >= role)
                && session.is_none_or(|session| route.sessions.contains(&session))
        }
    }
}

/// Whether everyone may send this request to a private port. A connection that is upgraded outlives its request, so it is
/// never one at a public path.
pub(super) fn is_at_public_path(route: &Route, request: &Parts) -> bool {
    !request.headers.contains_key(header::UPGRADE) && is_public_path(&route.public_paths, request.uri.path())
}

/// The preview token for the port's access link, if `secret` is that link's.
pub(super) fn by_access_link(route: &Route, secret: &str) -> Option<PreviewToken> {
    let link = route.link.filter(|_| route.sharing == Sharing::Link)?;
    bool::from(link.ct_eq(&hash(secret))).then_some(PreviewToken::Link {
        project: route.project,
        link,
    })
}

/// Whether a page of another project or site sent the request to `own`: a label below the apps domain, or the origin
/// of a host that an ingress controller serves.
///
/// Hosts under one domain are one site to a browser, so it also sends the preview token with requests of another
/// project's pages. Those pages cannot forge `Origin` and `Sec-Fetch-*`. Pages of the same project and of the main host
/// may send requests, and any page may link here. Every current browser sends these fields; a request without them is
/// allowed.
pub(super) fn is_cross_project_request(
    settings: &Settings,
    own: &str,
    method: &Method,
    headers: &HeaderMap,
) -> bool {
    let read = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site = read("sec-fetch-site");
    if matches!(site, Some("same-origin" | "none")) {
        return false;
    }
    if let Some(origin) = read(header::ORIGIN.as_str()) {
        return !is_same_project_or_main_host(settings, own, origin);
    }
    let link =
        read("sec-fetch-mode") == Some("navigate") && (*method == Method::GET || *method == Method::HEAD);
    match site {
        None => false,
        Some(_) if link => false,
        Some(_) => !read(header::REFERER.as_str())
            .is_some_and(|referer| is_same_project_or_main_host(settings, own, referer)),
    }
}

/// Whether a URL is on the main host or on a port of the same branch.
fn is_same_project_or_main_host(settings: &Settings, own: &str, url: &str) -> bool {
    let Ok(url) = url::Url::parse(url) else {
        return false;
    };
    let origin = url.origin();
    if origin == settings.origin.origin() || origin.ascii_serialization() == own {
        return true;
    }
    let target = |host: Option<Host>| host.map(|host| host.target);
    let theirs = url
        .host_str()
        .and_then(|host| label(settings, host))
        .and_then(parse_host);
    theirs.is_some() && target(theirs) == target(parse_host(own))
}

/// The request's `Origin`, if it is the preview URL of another port of the same branch.
pub(super) fn sibling_origin<'a>(
    settings: &Settings,
    own: &str,
    headers: &'a HeaderMap,
) -> Option<&'a HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let text = origin.to_str().ok()?;
    let port = sibling_port(settings, own, text)?;
    (text == settings.app_url(&sibling_label(own, port)?)).then_some(origin)
}

/// The port of the same branch whose host a URL names.
pub(super) fn sibling_port(settings: &Settings, own: &str, url: &str) -> Option<u16> {
    let url = url::Url::parse(url).ok()?;
    let theirs = parse_host(label(settings, url.host_str()?)?)?;
    let own = parse_host(own)?;
    (theirs.target == own.target).then_some(theirs.port)
}

/// The label of another port of the same branch.
pub(super) fn sibling_label(own: &str, port: u16) -> Option<String> {
    Some(parse_host(own)?.target.port(port).to_string())
}

/// Whether the request is a CORS preflight.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The host name without the apps domain; `None` if it is not under it.
pub(super) fn label<'a>(settings: &Settings, host: &'a str) -> Option<&'a str> {
    let domain = settings.apps_domain.as_str();
    let at = host.len().checked_sub(domain.len() + 1)?;
    let (label, rest) = (host.get(..at)?, host.get(at..)?);
    (rest.starts_with('.') && rest[1..].eq_ignore_ascii_case(domain)).then_some(label)
}
