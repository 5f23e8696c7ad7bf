//! Who may pass: pure decisions over a route and what a request carries.

use fsa_model::{
    UserId,
    api::Sharing,
    host::{Host, parse_host},
    sharing::ProjectRole,
};
use http::{HeaderMap, Method, header};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::{headers::cookies, preview_token::Pass, routes::Route};
use crate::{auth::secret, encryption::KeyRing, settings::Settings};

/// Passes that are tried at most: others under the same domain can plant cookies of our name.
const PASSES_MOST: usize = 4;

/// Somebody who may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visitor {
    /// The port is public.
    Anybody,
    /// Came by this link of the port.
    Guest([u8; 32]),
    /// Somebody who has at least this role in the project, in this session where it was one.
    Person(UserId, ProjectRole, Option<Uuid>),
}

/// The cookie that holds a [`Pass`].
pub(super) fn pass_cookie(settings: &Settings) -> &'static str {
    if settings.is_https() {
        "__Host-fsa_preview"
    } else {
        "fsa_preview"
    }
}

/// Who comes, by what the browser carries. `host` is the host name without a port.
pub(super) fn by_pass(
    settings: &Settings,
    key_ring: &KeyRing,
    route: &Route,
    host: &str,
    headers: &HeaderMap,
) -> Option<Visitor> {
    cookies(headers, pass_cookie(settings))
        .take(PASSES_MOST)
        .filter_map(|cookie| Pass::open(key_ring, host, cookie))
        .find_map(|pass| admits(&pass, route))
}

/// Whom a pass that was opened admits.
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

/// Whether somebody who was let in would be let in again.
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

/// Whether `given` is the secret of the port's link.
pub(super) fn is_the_link(route: &Route, given: &str) -> Option<Pass> {
    let link = route.link.filter(|_| route.sharing == Sharing::Link)?;
    bool::from(link.ct_eq(&secret::hash(given))).then_some(Pass::Link {
        project: route.project,
        link,
    })
}

/// Whether a page of somebody else makes the request to `own`: a label below the apps domain, or the
/// origin of a host that an ingress controller serves. Hosts under one domain are one site to a
/// browser, so it sends a pass along with what a neighbor's page asks for; what it says of that
/// page cannot be forged by it. Pages of the same project and of the main host may, anybody may
/// link here, and what says nothing is no browser of today.
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

/// Whether a URL is one of the main host or of a port of the same project.
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

/// The host name without the apps domain, where it is under it.
pub(super) fn label<'a>(settings: &Settings, host: &'a str) -> Option<&'a str> {
    let domain = settings.apps_domain.as_str();
    let at = host.len().checked_sub(domain.len() + 1)?;
    let (label, rest) = (host.get(..at)?, host.get(at..)?);
    (rest.starts_with('.') && rest[1..].eq_ignore_ascii_case(domain)).then_some(label)
}
