//! Authorization of visitors: pure decisions over a route and the credentials that a request carries.

use fsa_model::{
    UserId,
    api::Sharing,
    host::{Host, host_name, parse_host},
    sharing::ProjectRole,
};
use http::{HeaderMap, HeaderValue, Method, header};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::{preview_token::Pass, routes::Route};
use crate::{
    auth::{cookie::OurCookie, secret},
    encryption::KeyRing,
    settings::Settings,
};

/// Upper bound on the preview tokens that are tried: another host under the same domain can plant cookies of
/// this name.
const PASSES_MOST: usize = 4;

/// A visitor who may use the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visitor {
    /// The port is public.
    Anybody,
    /// The visitor has the port's access link.
    Guest([u8; 32]),
    /// A user with at least this role in the project; the session, if the user came with one.
    Person(UserId, ProjectRole, Option<Uuid>),
}

/// Authorizes by the cookies of the request, and returns the other ports of the project whose hosts have a preview
/// token as well. `host` is the host name without a port, `own` as in [`is_foreign`].
///
/// [`OurCookie::Ports`] is sent by any site's page, so it counts only where the browser names a page of the same project.
pub(super) fn by_pass(
    settings: &Settings,
    key_ring: &KeyRing,
    route: &Route,
    host: &str,
    own: &str,
    headers: &HeaderMap,
) -> Option<(Visitor, Vec<u16>)> {
    let sibling = sibling_origin(settings, own, headers).is_some();
    let more = OurCookie::Ports.all(settings, headers).filter(|_| sibling);
    let mut visitor = None;
    let mut ports = Vec::new();
    let passes = OurCookie::Preview
        .all(settings, headers)
        .take(PASSES_MOST)
        .chain(more.take(PASSES_MOST))
        .filter_map(|cookie| Pass::open(key_ring, host, cookie));
    for (pass, theirs) in passes {
        let admitted = admits(&pass, route);
        if admitted.is_some() {
            ports.extend(theirs);
        }
        visitor = visitor.or(admitted);
    }
    visitor.map(|visitor| (visitor, ports))
}

/// The visitor that a decrypted preview token admits.
pub(super) fn admits(pass: &Pass, route: &Route) -> Option<Visitor> {
    let (project, visitor) = match *pass {
        Pass::User {
            project,
            user,
            session,
        } => (
            project,
            Visitor::Person(user, *route.people.get(&user)?, Some(session)),
        ),
        Pass::Link { project, link } => (project, Visitor::Guest(link)),
    };
    (project == route.project && still_admits(visitor, route)).then_some(visitor)
}

/// Whether the route still admits a visitor who was admitted before.
pub(super) fn still_admits(visitor: Visitor, route: &Route) -> bool {
    match visitor {
        Visitor::Anybody => route.sharing == Sharing::Public,
        Visitor::Guest(link) => route.sharing == Sharing::Link && route.link == Some(link),
        Visitor::Person(user, role, session) => {
            route.people.get(&user).is_some_and(|now| *now >= role)
                && session.is_none_or(|session| route.sessions.contains(&session))
        }
    }
}

/// The preview token for the port's access link, if `given` is that link's secret.
pub(super) fn is_the_link(route: &Route, given: &str) -> Option<Pass> {
    let link = route.link.filter(|_| route.sharing == Sharing::Link)?;
    bool::from(link.ct_eq(&secret::hash(given))).then_some(Pass::Link {
        project: route.project,
        link,
    })
}

/// Whether a page of another project makes the request to `own`: a label below the apps domain, or the origin
/// of a host that an ingress controller serves. To a browser, hosts under one domain are one site, so it sends
/// the preview token along with requests of a neighbor's page. That page cannot forge the header fields that
/// name it. Pages of the same project and of the main host may make requests, and any page may link here. Every
/// current browser sends these fields; a request without them is allowed.
pub(super) fn is_foreign(settings: &Settings, own: &str, method: &Method, headers: &HeaderMap) -> bool {
    let read = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site = read("sec-fetch-site");
    if matches!(site, Some("same-origin" | "none")) {
        return false;
    }
    if let Some(origin) = read(header::ORIGIN.as_str()) {
        return !is_friend(settings, own, origin);
    }
    let link =
        read("sec-fetch-mode") == Some("navigate") && (*method == Method::GET || *method == Method::HEAD);
    match site {
        None => false,
        Some(_) if link => false,
        Some(_) => !read(header::REFERER.as_str()).is_some_and(|referer| is_friend(settings, own, referer)),
    }
}

/// Whether a URL belongs to the main host or to a port of the same project.
fn is_friend(settings: &Settings, own: &str, url: &str) -> bool {
    let Ok(url) = url::Url::parse(url) else {
        return false;
    };
    let origin = url.origin();
    if origin == settings.origin.origin() || origin.ascii_serialization() == own {
        return true;
    }
    let name = |host: Option<Host>| host.map(|host| (host.project, host.owner));
    let theirs = url
        .host_str()
        .and_then(|host| label(settings, host))
        .and_then(parse_host);
    theirs.is_some() && name(theirs) == name(parse_host(own))
}

/// The request's `Origin`, if it is that of another port of the same project, at its address here.
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

/// The port of the same project whose host a URL names.
pub(super) fn sibling_port(settings: &Settings, own: &str, url: &str) -> Option<u16> {
    let url = url::Url::parse(url).ok()?;
    let theirs = parse_host(label(settings, url.host_str()?)?)?;
    let own = parse_host(own)?;
    (theirs.project == own.project && theirs.owner == own.owner).then_some(theirs.port)
}

/// The label of another port of the same project.
pub(super) fn sibling_label(own: &str, port: u16) -> Option<String> {
    let own = parse_host(own)?;
    Some(host_name(&own.project, port, own.owner.as_deref()))
}

/// Whether the request asks, without credentials, whether a page may send another request (CORS preflight).
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
