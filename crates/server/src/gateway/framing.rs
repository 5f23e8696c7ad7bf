//! Framing rules of applications (`X-Frame-Options`, CSP `frame-ancestors`), as pure functions: whether a browser
//! refuses to show a response in the frame that requested it.
//!
//! A browser shows nothing but an icon then, so the gateway answers with a page that explains it ([`explanation`]). It
//! does so only where the rule certainly refuses the frame: a page of the application may frame another, and then the
//! response belongs to the application.

use http::{HeaderMap, Method, StatusCode, header};
use url::Url;

use super::error_page::{ErrorPage, is_navigation};

/// Characters of a rule that the explanation quotes.
const MAX_QUOTED_CHARS: usize = 200;

/// What is known of the pages that frame a requested one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Embedder {
    /// The page on the main host, which no other page can frame.
    MainPage,
    /// A page of another site is among them.
    OtherSite,
    Unknown,
}

/// What frames the page that the request loads; `None` if it is not loaded into a frame. `page`: the main page.
///
/// The main page's frame sends its origin as the referrer, which the redirects of a hand-off keep. A page that was
/// reached by a link within the frame has another referrer: Chromium then names the storage access of a frame below
/// another site.
pub(super) fn embedder(page: &Url, method: &Method, headers: &HeaderMap) -> Option<Embedder> {
    let is_frame = headers
        .get("sec-fetch-dest")
        .is_some_and(|kind| kind == "iframe" || kind == "frame");
    if !is_frame || !is_navigation(method, headers) {
        return None;
    }
    let referer = headers
        .get(header::REFERER)
        .and_then(|value| Url::parse(value.to_str().ok()?).ok());
    Some(match referer {
        Some(referer) if referer.origin() == page.origin() => Embedder::MainPage,
        _ if headers.contains_key("sec-fetch-storage-access") => Embedder::OtherSite,
        _ => Embedder::Unknown,
    })
}

/// The rule of a response that forbids the frame, as its header field. `page`: the main page. `app_scheme`: that of the
/// application's URL.
pub(super) fn forbidden_by(
    response: &HeaderMap,
    embedder: Embedder,
    page: &Url,
    app_scheme: &str,
) -> Option<String> {
    let policies = ancestor_policies(response);
    if policies.is_empty() {
        return forbidden_by_options(response, embedder);
    }
    // X-Frame-Options does not count beside frame-ancestors.
    let forbids = |sources: &Vec<String>| match embedder {
        Embedder::MainPage => !sources.iter().any(|source| allows(source, page, app_scheme)),
        Embedder::OtherSite => sources.iter().all(|source| is_quoted(source)),
        Embedder::Unknown => sources.iter().all(|source| source == "'none'"),
    };
    let sources = policies.into_iter().find(forbids)?;
    Some(quoted(format!(
        "Content-Security-Policy: frame-ancestors {}",
        sources.join(" ")
    )))
}

/// The page in place of a response that a browser would not show in the frame. `url`: the requested one.
pub(super) fn explanation(rule: &str, url: &str) -> ErrorPage {
    ErrorPage::new(
        StatusCode::OK,
        "FramingForbidden",
        "This application does not allow being shown in a frame.",
        format!("Its response has the header field {rule}."),
    )
    .link("Open in new tab", url)
}

fn forbidden_by_options(response: &HeaderMap, embedder: Embedder) -> Option<String> {
    let values: Vec<String> = values(response, "x-frame-options");
    let mut distinct = values.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let known = |value: &String| matches!(value.as_str(), "deny" | "sameorigin" | "allowall");
    let forbids = match distinct.as_slice() {
        [only] if only == "deny" => true,
        [only] if only == "sameorigin" => embedder != Embedder::Unknown,
        [_] | [] => false,
        // Browsers forbid the frame where the values contradict each other.
        several => several.iter().any(known),
    };
    forbids.then(|| {
        quoted(format!(
            "X-Frame-Options: {}",
            values.join(", ").to_ascii_uppercase()
        ))
    })
}

/// The sources of `frame-ancestors` in each policy that has it, in lower case.
fn ancestor_policies(response: &HeaderMap) -> Vec<Vec<String>> {
    values(response, header::CONTENT_SECURITY_POLICY.as_str())
        .iter()
        .filter_map(|policy| {
            policy.split(';').find_map(|directive| {
                let mut words = directive.split_ascii_whitespace();
                (words.next() == Some("frame-ancestors")).then(|| words.map(str::to_owned).collect())
            })
        })
        .collect()
}

/// The members of a field's list, in lower case.
fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase())
        .flat_map(|line| {
            line.split(',')
                .map(|value| value.trim().to_owned())
                .collect::<Vec<_>>()
        })
        .filter(|value| !value.is_empty())
        .collect()
}

/// `'none'` or `'self'`: neither is a page of another origin.
fn is_quoted(source: &str) -> bool {
    source.starts_with('\'')
}

/// Whether a source of `frame-ancestors` matches the page (CSP 3, §6.7.2.8).
fn allows(source: &str, page: &Url, app_scheme: &str) -> bool {
    if source == "*" {
        return true;
    }
    if is_quoted(source) {
        return false;
    }
    if let Some(scheme) = source.strip_suffix(':') {
        return is_scheme(scheme, page);
    }
    let (scheme, rest) = source.split_once("://").unwrap_or((app_scheme, source));
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    is_scheme(scheme, page) && is_host(host, page) && is_port(port, scheme, page)
}

/// A source of http also matches https.
fn is_scheme(scheme: &str, page: &Url) -> bool {
    scheme == page.scheme() || (scheme == "http" && page.scheme() == "https")
}

fn is_host(host: &str, page: &Url) -> bool {
    let name = page.host_str().unwrap_or_default();
    match host.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => suffix.starts_with('.') && name.ends_with(suffix),
        None => host == name,
    }
}

fn is_port(port: Option<&str>, scheme: &str, page: &Url) -> bool {
    let own = page.port_or_known_default();
    match port {
        Some("*") => true,
        // The default port of http also matches that of https.
        Some("80") if scheme == "http" && own == Some(443) => true,
        Some(port) => port.parse().ok() == own,
        None => page.port().is_none(),
    }
}

fn quoted(rule: String) -> String {
    match rule.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &rule[..end]),
        None => rule,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    fn forbids(fields: &[(&str, &str)], embedder: Embedder) -> bool {
        let page = Url::parse("http://localhost:8080").unwrap();
        forbidden_by(&headers(fields), embedder, &page, "http").is_some()
    }

    #[test]
    fn what_frames_a_page_is_known_from_the_request() {
        let page = Url::parse("http://localhost:8080").unwrap();
        let of = |fields: &[(&str, &str)]| {
            let mut headers = headers(fields);
            headers.insert("sec-fetch-mode", HeaderValue::from_static("navigate"));
            embedder(&page, &Method::GET, &headers)
        };
        let frame = ("sec-fetch-dest", "iframe");
        let main_page = ("referer", "http://localhost:8080/");
        assert_eq!(of(&[frame, main_page]), Some(Embedder::MainPage));
        assert_eq!(of(&[("sec-fetch-dest", "document"), main_page]), None);
        assert_eq!(
            of(&[frame, ("referer", "http://localhost:8081/")]),
            Some(Embedder::Unknown)
        );
        assert_eq!(
            of(&[frame, ("sec-fetch-storage-access", "active")]),
            Some(Embedder::OtherSite)
        );
        assert_eq!(of(&[frame]), Some(Embedder::Unknown));
        let posted = headers(&[frame, main_page]);
        assert_eq!(embedder(&page, &Method::POST, &posted), None);
    }

    #[test]
    fn options_forbid_the_frame_of_another_origin() {
        use Embedder::{MainPage, OtherSite, Unknown};
        for (value, expected) in [
            ("DENY", [true, true, true]),
            ("deny", [true, true, true]),
            // A page of the same application may be what frames it.
            ("SAMEORIGIN", [true, true, false]),
            ("sameorigin, SameOrigin", [true, true, false]),
            ("SAMEORIGIN, DENY", [true, true, true]),
            ("SAMEORIGIN, nonsense", [true, true, true]),
            ("ALLOWALL", [false, false, false]),
            ("ALLOW-FROM http://localhost:8080", [false, false, false]),
            ("", [false, false, false]),
        ] {
            let all = [MainPage, OtherSite, Unknown].map(|by| forbids(&[("x-frame-options", value)], by));
            assert_eq!(all, expected, "{value}");
        }
    }

    #[test]
    fn ancestors_forbid_the_main_page_unless_one_matches_it() {
        for (sources, expected) in [
            ("'none'", true),
            ("", true),
            ("'self'", true),
            ("*", false),
            ("http:", false),
            ("https:", true),
            ("localhost:8080", false),
            ("LOCALHOST:8080", false),
            ("localhost", true),
            ("localhost:*", false),
            ("*:8080", false),
            ("http://localhost:8080/path", false),
            ("https://localhost:8080", true),
            ("'self' https://partner.test http://localhost:8080", false),
            ("*.localhost:8080", true),
        ] {
            let policy = format!("default-src 'self'; frame-ancestors {sources}; img-src *");
            let forbidden = forbids(&[("content-security-policy", &policy)], Embedder::MainPage);
            assert_eq!(forbidden, expected, "{sources}");
        }
    }

    #[test]
    fn an_origin_of_https_is_matched_by_http_and_by_its_domain() {
        let page = Url::parse("https://fsa.example.com").unwrap();
        for (sources, expected) in [
            ("http://fsa.example.com", false),
            ("http://fsa.example.com:80", false),
            ("fsa.example.com", false),
            ("fsa.example.com:443", false),
            ("fsa.example.com:8443", true),
            ("*.example.com", false),
            ("example.com", true),
        ] {
            let policy = format!("frame-ancestors {sources}");
            let response = headers(&[("content-security-policy", &policy)]);
            let forbidden = forbidden_by(&response, Embedder::MainPage, &page, "https").is_some();
            assert_eq!(forbidden, expected, "{sources}");
        }
    }

    #[test]
    fn a_page_of_unknown_embedders_is_replaced_only_where_no_embedder_is_allowed() {
        for (sources, by_other_site, by_unknown) in [
            ("'none'", true, true),
            ("'self'", true, false),
            ("https://partner.test", false, false),
        ] {
            let policy = format!("frame-ancestors {sources}");
            let fields = [("content-security-policy", policy.as_str())];
            assert_eq!(forbids(&fields, Embedder::OtherSite), by_other_site, "{sources}");
            assert_eq!(forbids(&fields, Embedder::Unknown), by_unknown, "{sources}");
        }
    }

    #[test]
    fn every_policy_counts_and_then_no_options() {
        let rule = |fields: &[(&str, &str)]| {
            let page = Url::parse("http://localhost:8080").unwrap();
            forbidden_by(&headers(fields), Embedder::MainPage, &page, "http")
        };
        assert_eq!(
            rule(&[
                ("content-security-policy", "frame-ancestors *, img-src *"),
                ("content-security-policy", "frame-ancestors 'self'"),
            ])
            .as_deref(),
            Some("Content-Security-Policy: frame-ancestors 'self'")
        );
        assert_eq!(
            rule(&[
                ("content-security-policy", "frame-ancestors *"),
                ("x-frame-options", "DENY"),
            ]),
            None
        );
        assert_eq!(
            rule(&[
                ("content-security-policy", "default-src 'self'"),
                ("x-frame-options", "deny"),
            ])
            .as_deref(),
            Some("X-Frame-Options: DENY")
        );
        let long = format!("frame-ancestors https://{}.test", "a".repeat(1000));
        assert_eq!(
            rule(&[("content-security-policy", &long)])
                .unwrap()
                .chars()
                .count(),
            201
        );
    }
}
