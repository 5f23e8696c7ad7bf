//! Header rules of the gateway: what it forwards, removes and adds, as pure functions over header maps.
//!
//! Hop-by-hop fields end here (RFC 9110 §7.6.1). The gateway's own cookies and fields never reach an
//! application. An application cannot set cookies for hosts other than its own.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, Entry},
};

use crate::header_list::{lists, tokens};

/// Prefix of every cookie of the control plane.
pub const OUR_COOKIES: &str = "fsa_";
/// Lets programs reach a private port, with the same token that the API takes as a bearer token.
/// (`Authorization` belongs to the application.)
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-fsa-token");

/// Fields that concern one connection only, whether `Connection` lists them or not.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Fields with which a client could forge its origin, and the fields of the gateway itself.
const CLAIMS: [HeaderName; 9] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-real-ip"),
    TOKEN_HEADER,
];

/// The protocol upgrade that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade(pub HeaderValue);

/// Why a request head is rejected before it is processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A transfer coding other than `chunked`, which cannot be forwarded unchanged.
    TransferCoding,
    /// An upgrade together with a body: the bytes after the head would be ambiguous.
    UpgradeWithBody,
}

/// The protocol that a request asks to switch to. `h2c` is ignored: a second HTTP inside a tunnel would bypass
/// every rule here, and a client must be ready to continue in HTTP/1.1.
#[must_use]
pub fn wanted_upgrade(headers: &HeaderMap) -> Option<Upgrade> {
    let mut values = headers.get_all(header::UPGRADE).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let named = lists(headers, header::CONNECTION, "upgrade");
    let http = tokens(value).any(|token| {
        let name = token.split('/').next().unwrap_or_default();
        name.eq_ignore_ascii_case("h2c")
            || name.eq_ignore_ascii_case("h2")
            || name.eq_ignore_ascii_case("http")
            || name.eq_ignore_ascii_case("tls")
    });
    (named && !http && tokens(value).next().is_some()).then(|| Upgrade(value.clone()))
}

/// Prepares a client's head for the application.
///
/// # Errors
/// [`Malformed`].
pub fn prepare_request(headers: &mut HeaderMap, upgrade: Option<&Upgrade>) -> Result<(), Malformed> {
    let chunked = match headers.get_all(header::TRANSFER_ENCODING).iter().count() {
        0 => false,
        1 if headers[header::TRANSFER_ENCODING]
            .as_bytes()
            .eq_ignore_ascii_case(b"chunked") =>
        {
            true
        }
        _ => return Err(Malformed::TransferCoding),
    };
    let has_body = chunked
        || headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length.as_bytes() != b"0");
    if upgrade.is_some() && has_body {
        return Err(Malformed::UpgradeWithBody);
    }
    let trailers = lists(headers, header::TE, "trailers");
    remove_hop_by_hop(headers);
    for name in &CLAIMS {
        headers.remove(name);
    }
    headers.remove("http2-settings");
    strip_our_cookies(headers);
    if chunked {
        // Set again for the next connection; hyper would otherwise take a GET to have no body.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(Upgrade(protocol)) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    Ok(())
}

/// Sets the forwarding fields. `host` is the Host field as the client sent it; it was checked to be a host of
/// the control plane, so it contains nothing that needs escaping.
pub fn say_where_from(headers: &mut HeaderMap, client: Option<IpAddr>, host: &HeaderValue, https: bool) {
    let proto = if https { "https" } else { "http" };
    headers.insert("x-forwarded-proto", HeaderValue::from_static(proto));
    headers.insert("x-forwarded-host", host.clone());
    let shown = host.to_str().unwrap_or_default();
    let forwarded = match client.map(|address| address.to_canonical()) {
        Some(address) => {
            if let Ok(value) = HeaderValue::try_from(address.to_string()) {
                headers.insert("x-forwarded-for", value);
            }
            match address {
                IpAddr::V4(v4) => format!("for={v4};host=\"{shown}\";proto={proto}"),
                IpAddr::V6(v6) => format!("for=\"[{v6}]\";host=\"{shown}\";proto={proto}"),
            }
        }
        None => format!("host=\"{shown}\";proto={proto}"),
    };
    if let Ok(value) = HeaderValue::try_from(forwarded) {
        headers.insert(header::FORWARDED, value);
    }
}

/// Prepares an application's head for the client. `host` is the host name without a port.
pub fn prepare_response(headers: &mut HeaderMap, upgrade: Option<&Upgrade>, host: &str) {
    remove_hop_by_hop(headers);
    if headers.contains_key(header::SET_COOKIE) {
        confine_cookies(headers, host);
    }
    // Clears cookies for the whole registrable domain, including those of the control plane and of other
    // projects.
    headers.remove("clear-site-data");
    if let Some(Upgrade(protocol)) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
}

/// The values of every cookie called `name`. There may be several: a page of another host under the same domain
/// can plant one, so a caller tries each.
pub fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(move |pair| {
            let (key, value) = pair.split_once('=')?;
            (key.trim() == name).then(|| value.trim())
        })
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter(|token| !is_end_to_end(token))
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .collect();
        for name in listed {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Fields that `Connection` must not be able to remove, because the receiver relies on them.
fn is_end_to_end(name: &str) -> bool {
    [
        "host",
        "content-length",
        "content-type",
        "cookie",
        "authorization",
        "origin",
        "cache-control",
        "set-cookie",
        "close",
    ]
    .iter()
    .any(|kept| name.eq_ignore_ascii_case(kept))
        || name.to_ascii_lowercase().starts_with("sec-")
}

/// Leaves one Cookie field (HTTP/2 may have split it) without the cookies of the control plane.
fn strip_our_cookies(headers: &mut HeaderMap) {
    let single = {
        let mut values = headers.get_all(header::COOKIE).iter();
        match values.next() {
            None => return,
            Some(_) => values.next().is_none(),
        }
    };
    let is_ours = |pair: &[u8]| pair.trim_ascii_start().starts_with(OUR_COOKIES.as_bytes());
    let clean = |value: &HeaderValue| !value.as_bytes().split(|&b| b == b';').any(is_ours);
    if single && clean(&headers[header::COOKIE]) {
        return;
    }
    let mut kept: Vec<u8> = Vec::new();
    for value in headers.get_all(header::COOKIE) {
        for pair in value.as_bytes().split(|&b| b == b';') {
            let pair = pair.trim_ascii();
            if pair.is_empty() || is_ours(pair) {
                continue;
            }
            if !kept.is_empty() {
                kept.extend_from_slice(b"; ");
            }
            kept.extend_from_slice(pair);
        }
    }
    headers.remove(header::COOKIE);
    if !kept.is_empty()
        && let Ok(value) = HeaderValue::from_bytes(&kept)
    {
        headers.insert(header::COOKIE, value);
    }
}

/// Rejects cookies with the prefix of the control plane, and limits the others to the application's own host.
fn confine_cookies(headers: &mut HeaderMap, host: &str) {
    let Entry::Occupied(entry) = headers.entry(header::SET_COOKIE) else {
        return;
    };
    let (name, values) = entry.remove_entry_mult();
    let confined: Vec<HeaderValue> = values.filter_map(|value| confined(value, host)).collect();
    for value in confined {
        headers.append(&name, value);
    }
}

fn confined(value: HeaderValue, host: &str) -> Option<HeaderValue> {
    let bytes = value.as_bytes();
    let mut parts = bytes.split(|&b| b == b';');
    let pair = parts.next()?.trim_ascii();
    let name = pair.split(|&b| b == b'=').next()?.trim_ascii_end();
    // Browsers compare the prefixes case-insensitively.
    let bare = ["__host-", "__secure-"]
        .iter()
        .find(|prefix| {
            name.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        })
        .map_or(name, |prefix| &name[prefix.len()..]);
    // A cookie without a name (`=fsa_preview=x`, or `fsa_preview` alone) is sent back as its value, which the
    // server would then parse as a pair.
    let nameless = name.is_empty() || !pair.contains(&b'=');
    if nameless
        || bare
            .get(..OUR_COOKIES.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(OUR_COOKIES.as_bytes()))
    {
        return None;
    }
    let reaches_out = |part: &[u8]| {
        let mut sides = part.splitn(2, |&b| b == b'=');
        let key = sides.next().unwrap_or_default().trim_ascii();
        let domain = sides.next().unwrap_or_default().trim_ascii();
        let domain = domain.strip_prefix(b".").unwrap_or(domain);
        key.eq_ignore_ascii_case(b"domain") && !domain.eq_ignore_ascii_case(host.as_bytes())
    };
    if !bytes.split(|&b| b == b';').skip(1).any(reaches_out) {
        return Some(value);
    }
    let kept: Vec<&[u8]> = std::iter::once(pair)
        .chain(parts.filter(|part| !reaches_out(part)).map(<[u8]>::trim_ascii))
        .collect();
    HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    #[test]
    fn what_concerns_one_connection_ends_at_the_gateway() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Secret-Hop, Host"),
            ("x-secret-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers, deflate"),
            ("host", "todo--3000.localhost"),
            ("x-app", "stays"),
        ]);
        prepare_request(&mut headers, None).unwrap();
        assert_eq!(
            headers,
            map(&[
                ("host", "todo--3000.localhost"),
                ("x-app", "stays"),
                ("te", "trailers")
            ])
        );
    }

    #[test]
    fn our_cookies_and_claims_never_reach_the_application() {
        let mut headers = map(&[
            ("cookie", "a=1; fsa_session=s; fsa_preview=p"),
            ("cookie", "fsa_handoff=h; b=2"),
            ("x-fsa-token", "fsa_secret"),
            ("x-forwarded-for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("authorization", "Bearer its-own"),
        ]);
        prepare_request(&mut headers, None).unwrap();
        assert_eq!(
            headers,
            map(&[("cookie", "a=1; b=2"), ("authorization", "Bearer its-own")])
        );
    }

    #[test]
    fn the_application_learns_where_a_request_comes_from() {
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_static("todo--3000.localhost:8080");
        say_where_from(
            &mut headers,
            Some("::ffff:10.0.0.9".parse().unwrap()),
            &host,
            false,
        );
        assert_eq!(
            headers,
            map(&[
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "todo--3000.localhost:8080"),
                ("x-forwarded-for", "10.0.0.9"),
                (
                    "forwarded",
                    "for=10.0.0.9;host=\"todo--3000.localhost:8080\";proto=http"
                ),
            ])
        );
    }

    #[test]
    fn a_transfer_coding_that_cannot_be_passed_on_is_refused() {
        for coding in ["gzip, chunked", "identity", "chunked, chunked", "\tchunked"] {
            let mut headers = map(&[("transfer-encoding", coding)]);
            assert_eq!(
                prepare_request(&mut headers, None),
                Err(Malformed::TransferCoding),
                "{coding:?}"
            );
        }
        let mut twice = map(&[("transfer-encoding", "chunked"), ("transfer-encoding", "x")]);
        assert_eq!(prepare_request(&mut twice, None), Err(Malformed::TransferCoding));
    }

    #[test]
    fn only_an_upgrade_that_is_no_http_is_passed_on() {
        let desired_state = |upgrade: &str, connection: &str| {
            wanted_upgrade(&map(&[("upgrade", upgrade), ("connection", connection)])).is_some()
        };
        assert!(desired_state("websocket", "Upgrade"));
        assert!(desired_state("my-protocol/2", "keep-alive, upgrade"));
        assert!(!desired_state("websocket", "keep-alive"));
        assert!(!desired_state("h2c", "Upgrade, HTTP2-Settings"));
        assert!(!desired_state("websocket, h2c", "Upgrade"));
        assert!(!desired_state("HTTP/2.0", "Upgrade"));
        assert!(!desired_state("", "Upgrade"));
        let mut headers = map(&[("content-length", "5")]);
        let upgrade = Upgrade(HeaderValue::from_static("websocket"));
        assert_eq!(
            prepare_request(&mut headers, Some(&upgrade)),
            Err(Malformed::UpgradeWithBody)
        );
    }

    #[test]
    fn an_application_sets_cookies_for_its_own_host_only() {
        let host = "todo--3000.localhost";
        for (set, kept) in [
            ("a=1; Path=/; HttpOnly", Some("a=1; Path=/; HttpOnly")),
            (
                "a=1; Domain=todo--3000.localhost",
                Some("a=1; Domain=todo--3000.localhost"),
            ),
            ("a=1; domain=.localhost; Path=/x", Some("a=1; Path=/x")),
            (
                "a=1; Domain =localhost; Domain=todo--3000.localhost",
                Some("a=1; Domain=todo--3000.localhost"),
            ),
            ("a=1; Domain=other--3000.localhost", Some("a=1")),
            ("fsa_preview=forged", None),
            ("  fsa_session = forged; Path=/", None),
            ("__Host-fsa_session=forged; Secure", None),
            ("__hOST-FSA_session=forged; Secure", None),
            ("=fsa_preview=forged", None),
            ("fsa_preview", None),
            ("nameless", None),
        ] {
            let mut headers = map(&[("set-cookie", set)]);
            prepare_response(&mut headers, None, host);
            assert_eq!(
                headers.get("set-cookie").map(|v| v.to_str().unwrap()),
                kept,
                "{set}"
            );
        }
        let mut headers = map(&[
            ("set-cookie", "a=1"),
            ("set-cookie", "fsa_x=1"),
            ("set-cookie", "b=2"),
        ]);
        prepare_response(&mut headers, None, host);
        assert_eq!(headers, map(&[("set-cookie", "a=1"), ("set-cookie", "b=2")]));
    }

    #[test]
    fn every_cookie_of_a_name_is_found() {
        let headers = map(&[
            ("cookie", "fsa_preview=planted; a=1"),
            ("cookie", "fsa_preview=true="),
        ]);
        assert_eq!(
            cookies(&headers, "fsa_preview").collect::<Vec<_>>(),
            ["planted", "true="]
        );
    }

    proptest! {
        #[test]
        fn no_cookie_of_ours_passes_in_either_direction(cookie in "[ -~]{0,60}") {
            let mut headers = map(&[("cookie", &format!("{cookie}; fsa_session=1;{cookie}"))]);
            prepare_request(&mut headers, None).unwrap();
            prop_assert_eq!(cookies(&headers, "fsa_session").count(), 0);
            let mut headers = map(&[("set-cookie", &cookie)]);
            prepare_response(&mut headers, None, "a--1.localhost");
            if let Some(value) = headers.get("set-cookie") {
                prop_assert!(!value.as_bytes().starts_with(b"fsa_"));
            }
        }
    }
}
