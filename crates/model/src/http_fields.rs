//! Header fields of HTTP: lists (RFC 9110, 5.6.1), and the fields that end at an intermediary (RFC 9110, 7.6.1).
//!
//! The gateway, the LLM proxy and sandboxd's local proxy forward messages. All three remove the same fields.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields that concern one connection, whether `Connection` lists them or not, and the credentials of a proxy
/// (RFC 9110, 11.7), which we are not. `Trailer` is none of them: it announces fields that are forwarded.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-authentication-info"),
];

/// Fields that `Connection` cannot remove, because the receiver relies on them.
const END_TO_END: [HeaderName; 9] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::AUTHORIZATION,
    header::ORIGIN,
    header::REFERER,
    header::CACHE_CONTROL,
    header::SET_COOKIE,
];

/// Whether a field lists `token`, case-insensitively.
#[must_use]
pub fn lists(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(tokens)
        .any(|found| found.eq_ignore_ascii_case(token))
}

/// The members of a list, without their parameters.
pub fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value
        .to_str()
        .unwrap_or_default()
        .split(',')
        .map(|member| member.split(';').next().unwrap_or_default().trim())
        .filter(|member| !member.is_empty())
}

/// Removes the fields that concern one connection, including those that `Connection` lists.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !END_TO_END.contains(name) && !name.as_str().starts_with("sec-"))
        .collect();
    for name in listed.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Whether a field concerns one connection only.
#[must_use]
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_of(fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        headers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn a_field_of_one_connection_is_removed_with_those_that_connection_lists() {
        for fields in [
            &[("connection", "x-foo"), ("x-foo", "1")][..],
            &[
                ("connection", "close, X-Foo"),
                ("connection", "x-bar;q=1"),
                ("x-foo", "1"),
                ("x-bar", "1"),
            ],
            &[("connection", "Upgrade"), ("upgrade", "websocket")],
            &[
                ("upgrade", "h2c"),
                ("te", "trailers"),
                ("keep-alive", "timeout=5"),
            ],
            &[
                ("proxy-connection", "keep-alive"),
                ("proxy-authorization", "Basic x"),
            ],
            &[
                ("proxy-authenticate", "Basic"),
                ("proxy-authentication-info", "x"),
            ],
            &[
                ("transfer-encoding", "chunked"),
                ("connection", "trailer"),
                ("trailer", "x-sum"),
            ],
        ] {
            assert_eq!(left_of(fields), Vec::<String>::new(), "{fields:?}");
        }
    }

    #[test]
    fn the_other_fields_stay() {
        for name in [
            "trailer",
            "host",
            "cookie",
            "sec-websocket-key",
            "x-app",
            "content-length",
        ] {
            assert_eq!(left_of(&[(name, "1"), ("connection", "x-foo")]), [name]);
        }
        for name in ["host", "cookie", "authorization", "sec-fetch-site", "referer"] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static("1"));
            headers.insert(header::CONNECTION, HeaderValue::from_static(name));
            remove_hop_by_hop(&mut headers);
            assert_eq!(
                headers.keys().collect::<Vec<_>>(),
                [name],
                "Connection cannot remove {name}"
            );
        }
    }

    #[test]
    fn a_list_is_read_in_all_of_its_lines() {
        let mut headers = HeaderMap::new();
        headers.append(header::TE, HeaderValue::from_static("gzip;q=0.5,, "));
        headers.append(header::TE, HeaderValue::from_static("Trailers"));
        assert!(lists(&headers, header::TE, "trailers") && lists(&headers, header::TE, "gzip"));
        assert!(!lists(&headers, header::TE, ""));
    }
}
