//! Header rules of the gateway: which fields it forwards, removes and adds, as pure functions over header maps.
//!
//! Hop-by-hop fields end here (RFC 9110 §7.6.1). The gateway's own cookies and fields never reach an
//! application. An application cannot set cookies for hosts other than its own.

use std::net::IpAddr;

use fsa_model::http_fields::{lists, remove_hop_by_hop, tokens};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::auth::cookie;

/// Header field with which programs access a private port: the token that the API takes as a bearer token.
/// (`Authorization` belongs to the application.)
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-fsa-token");

/// Forwarding fields, which a client could forge, and the fields of the gateway itself.
const UNTRUSTED_FIELDS: [HeaderName; 9] = [
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

/// Fields that make Apache and lighttpd send a file.
const SENDFILE_FIELDS: [HeaderName; 3] = [
    HeaderName::from_static("x-sendfile"),
    HeaderName::from_static("x-sendfile2"),
    HeaderName::from_static("x-lighttpd-send-file"),
];

/// The protocol upgrade that a request contains.
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

/// The protocol that a request asks to switch to. HTTP itself (`h2c`) is ignored: a second HTTP inside a tunnel would bypass
/// every rule here, and a client must be ready to continue in HTTP/1.1.
#[must_use]
pub fn requested_upgrade(headers: &HeaderMap) -> Option<Upgrade> {
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

/// Prepares the head of a client's request for the application.
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
    for name in &UNTRUSTED_FIELDS {
        headers.remove(name);
    }
    headers.remove("http2-settings");
    cookie::strip(headers);
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

/// Sets the forwarding fields. `host` is the client's Host field, or `None` to withhold it from the application. It was
/// checked to be an apps host, so it contains nothing that needs escaping.
pub fn set_forwarded_fields(
    headers: &mut HeaderMap,
    client: Option<IpAddr>,
    host: Option<&HeaderValue>,
    https: bool,
) {
    let mut forwarded = Vec::new();
    if let Some(address) = client.map(|address| address.to_canonical()) {
        if let Ok(value) = HeaderValue::try_from(address.to_string()) {
            headers.insert("x-forwarded-for", value);
        }
        forwarded.push(match address {
            IpAddr::V4(v4) => format!("for={v4}"),
            IpAddr::V6(v6) => format!("for=\"[{v6}]\""),
        });
    }
    if let Some(host) = host {
        let proto = if https { "https" } else { "http" };
        headers.insert("x-forwarded-proto", HeaderValue::from_static(proto));
        headers.insert("x-forwarded-host", host.clone());
        let shown = host.to_str().unwrap_or_default();
        forwarded.push(format!("host=\"{shown}\";proto={proto}"));
    }
    if forwarded.is_empty() {
        return;
    }
    let forwarded = forwarded.join(";");
    if let Ok(value) = HeaderValue::try_from(forwarded) {
        headers.insert(header::FORWARDED, value);
    }
}

/// Prepares the head of an application's response for the client. `host` is the host name without a port.
pub fn prepare_response(headers: &mut HeaderMap, upgrade: Option<&Upgrade>, host: &str) {
    remove_hop_by_hop(headers);
    cookie::confine(headers, host);
    // It clears cookies of the whole registrable domain, including those of the control plane and of other projects.
    headers.remove("clear-site-data");
    // Instructions to a reverse proxy, such as to send one of its files. A proxy in front of this server must not follow
    // those of an application.
    let instructions: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-accel-") || SENDFILE_FIELDS.contains(name))
        .cloned()
        .collect();
    for name in instructions {
        headers.remove(name);
    }
    if let Some(Upgrade(protocol)) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
}

#[cfg(test)]
mod tests {
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
    fn hop_by_hop_fields_are_not_forwarded() {
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
    fn our_cookies_and_forwarding_fields_of_clients_are_removed() {
        let mut headers = map(&[
            ("cookie", "a=1; fsa_session=s; __Host-fsa_preview=p"),
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
    fn forwarding_fields_name_the_client_and_the_host() {
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_static("todo--3000.localhost:8080");
        set_forwarded_fields(
            &mut headers,
            Some("::ffff:10.0.0.9".parse().unwrap()),
            Some(&host),
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
    fn instructions_to_a_reverse_proxy_are_removed() {
        let mut headers = map(&[
            ("x-accel-redirect", "/etc/passwd"),
            ("x-accel-buffering", "no"),
            ("x-sendfile", "/etc/passwd"),
            ("x-lighttpd-send-file", "/etc/passwd"),
            ("x-app", "1"),
        ]);
        prepare_response(&mut headers, None, "todo--3000.localhost");
        assert_eq!(headers, map(&[("x-app", "1")]));
    }

    #[test]
    fn transfer_codings_other_than_chunked_are_rejected() {
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
    fn only_upgrades_to_other_protocols_than_http_are_forwarded() {
        let is_forwarded = |upgrade: &str, connection: &str| {
            requested_upgrade(&map(&[("upgrade", upgrade), ("connection", connection)])).is_some()
        };
        assert!(is_forwarded("websocket", "Upgrade"));
        assert!(is_forwarded("my-protocol/2", "keep-alive, upgrade"));
        assert!(!is_forwarded("websocket", "keep-alive"));
        assert!(!is_forwarded("h2c", "Upgrade, HTTP2-Settings"));
        assert!(!is_forwarded("websocket, h2c", "Upgrade"));
        assert!(!is_forwarded("HTTP/2.0", "Upgrade"));
        assert!(!is_forwarded("", "Upgrade"));
        let mut headers = map(&[("content-length", "5")]);
        let upgrade = Upgrade(HeaderValue::from_static("websocket"));
        assert_eq!(
            prepare_request(&mut headers, Some(&upgrade)),
            Err(Malformed::UpgradeWithBody)
        );
    }
}
