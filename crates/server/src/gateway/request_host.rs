//! Host of a request, without ambiguity: a request that could be for two hosts has none.

use http::{HeaderValue, Request, Version, header};

/// The Host field, and its host name in lower case; `None` if the host is missing, invalid or ambiguous.
pub(super) fn checked_host<B>(request: &Request<B>) -> Option<(HeaderValue, String)> {
    let authority = authority_of(request)?;
    let name = without_port(authority);
    let port = authority[name.len()..].strip_prefix(':');
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    let numeric = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let is_complete = authority.len() == name.len() || port.is_some();
    if !plain || !numeric || !is_complete || authority.len() > 300 {
        return None;
    }
    Some((HeaderValue::from_str(authority).ok()?, name.to_ascii_lowercase()))
}

/// The request's authority: in HTTP/1.1 its only Host field, which must equal that of an absolute request target; in
/// HTTP/2 `:authority`.
pub(super) fn authority_of<B>(request: &Request<B>) -> Option<&str> {
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

/// The host name of an authority.
pub(super) fn without_port(authority: &str) -> &str {
    authority.split(':').next().unwrap_or_default()
}
