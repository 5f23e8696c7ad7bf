//! CSRF check: whether a request comes from our own pages. A browser sends the cookie with requests that other sites
//! make. A page cannot forge the headers in which the browser names the origin.

use http::{HeaderMap, Method, header, request::Parts};

use crate::settings::Settings;

/// Whether a request can change something: every method but the safe ones (RFC 9110, 9.2.1), and
/// a WebSocket, which is opened by a GET that no browser refuses across origins.
#[must_use]
pub fn is_write(parts: &Parts) -> bool {
    changes(&parts.method, &parts.headers)
}

/// Same as [`is_write`], where there are no [`Parts`].
#[must_use]
pub fn changes(method: &Method, headers: &HeaderMap) -> bool {
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
    !safe || headers.contains_key(header::UPGRADE)
}

/// Whether the browser names a page of the main host as the request's origin. A request without such a header is
/// refused.
#[must_use]
pub fn is_same_origin(settings: &Settings, headers: &HeaderMap) -> bool {
    match headers.get(header::ORIGIN) {
        Some(origin) => origin.to_str().is_ok_and(|origin| {
            origin.eq_ignore_ascii_case(&settings.origin_text()) || matches_host(origin, headers)
        }),
        None => headers
            .get("sec-fetch-site")
            .is_some_and(|site| site == "same-origin"),
    }
}

/// Same as [`is_same_origin`], but accepts a request without an origin: for requests that carry no cookie worth
/// abusing, such as a sign-in by a program.
#[must_use]
pub fn is_same_origin_or_absent(settings: &Settings, headers: &HeaderMap) -> bool {
    let absent = !headers.contains_key(header::ORIGIN) && !headers.contains_key("sec-fetch-site");
    absent || is_same_origin(settings, headers)
}

/// Whether the page was loaded from the same host that the request goes to, under another name than the configured one
/// (127.0.0.1 beside localhost). No page can choose either header.
fn matches_host(origin: &str, headers: &HeaderMap) -> bool {
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    matches!((authority, host), (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host))
}
