//! Error pages of the gateway, as HTML, JSON or text.

use axum::body::Body;
use chrono::Utc;
use fsa_model::{ErrorBody, ErrorDetails};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

/// Content of an error page.
#[derive(Clone, Debug)]
pub(super) struct ErrorPage {
    status: StatusCode,
    /// A stable identifier for programs.
    name: &'static str,
    /// One short sentence: what failed.
    title: String,
    /// How to fix it.
    advice: String,
    /// The page reloads itself after this number of seconds.
    refresh_seconds: Option<u8>,
    /// Text and URL of a link, which opens in a new tab.
    link: Option<(&'static str, String)>,
}

impl ErrorPage {
    pub(super) fn new(
        status: StatusCode,
        name: &'static str,
        title: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            status,
            name,
            title: title.into(),
            advice: advice.into(),
            refresh_seconds: None,
            link: None,
        }
    }

    pub(super) fn link(mut self, text: &'static str, url: &str) -> Self {
        self.link = Some((text, url.to_owned()));
        self
    }

    /// Adds `Retry-After`, and reloads the page after as many seconds.
    pub(super) fn retry_after(mut self, seconds: u8) -> Self {
        self.refresh_seconds = Some(seconds);
        self
    }

    /// Not found: the same for a project that does not exist and for one of another user.
    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "There is nothing at this address.",
            "Check its spelling: project--port, and the owner where two projects have the same name. \
             If it is a private project, sign in as its owner.",
        )
    }

    /// The response, in the format that the request's `headers` accept.
    pub(super) fn response(&self, headers: &HeaderMap) -> Response<Body> {
        let (kind, body) = match accepted_format(headers) {
            Format::Html => ("text/html; charset=utf-8", self.html()),
            Format::Json => ("application/json", self.json()),
            Format::Text => (
                "text/plain; charset=utf-8",
                format!("{}\n{}\n", self.title, self.advice),
            ),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(GatewayResponse);
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        set_security_headers(fields);
        if let Some(seconds) = self.refresh_seconds {
            fields.insert(header::RETRY_AFTER, HeaderValue::from(u16::from(seconds)));
        }
        response
    }

    fn json(&self) -> String {
        let body = ErrorBody {
            error: self.title.clone(),
            details: ErrorDetails {
                name: self.name.to_owned(),
                message: format!("{} {}", self.title, self.advice),
                request_id: None,
                field: None,
                stack: None,
                kubernetes_status: None,
                limit: None,
            },
            project_id: None,
            timestamp: Utc::now(),
        };
        serde_json::to_string(&body).unwrap_or_default()
    }

    fn html(&self) -> String {
        let refresh = self
            .refresh_seconds
            .map(|seconds| format!("<meta http-equiv=\"refresh\" content=\"{seconds}\">"))
            .unwrap_or_default();
        let link = self
            .link
            .as_ref()
            .map(|(text, url)| {
                format!(
                    "<p><a href=\"{}\" target=\"_blank\" rel=\"noopener\">{text}</a></p>",
                    escape_html(url)
                )
            })
            .unwrap_or_default();
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">{refresh}\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>\
             body{{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:20vh auto;padding:0 1rem;\
             color-scheme:light dark}}h1{{font-size:1.3rem}}p{{opacity:.8}}\
             a{{display:inline-block;padding:.3rem .8rem;border:1px solid;border-radius:.3rem;color:inherit;\
             text-decoration:none}}</style></head>\
             <body><h1>{title}</h1><p>{advice}</p>{link}</body></html>\n",
            title = escape_html(&self.title),
            advice = escape_html(&self.advice),
        )
    }
}

/// A redirect to `to`, a path or a URL of ours.
pub(super) fn redirect(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    let target = HeaderValue::from_str(to).unwrap_or_else(|_| HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, target);
    let fields = response.headers_mut();
    set_security_headers(fields);
    // Of the page that requested it, the origin stays: it says which page frames the target (`framing`).
    fields.insert(header::REFERRER_POLICY, HeaderValue::from_static("strict-origin"));
    response
}

/// Extension of a response that the gateway wrote itself, to distinguish it from an application's.
#[derive(Clone, Copy, Debug)]
struct GatewayResponse;

/// Lets the page on the main host frame an error page in its preview pane. Without it the pane would stay empty, and
/// the user would not see the error.
pub(super) fn allow_framing(origin: &str, response: &mut Response<Body>) {
    if response.extensions_mut().remove::<GatewayResponse>().is_none() {
        return;
    }
    let policy = format!("{CONTENT_POLICY} {origin}");
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// CORS fields for a page of another port of the project: it may read the gateway's own responses, and an
/// application's with `Access-Control-Allow-Origin: *`, which browsers do not accept for requests with credentials.
pub(super) fn allow_cross_origin_read(origin: &HeaderValue, response: &mut Response<Body>) {
    let is_ours = response.extensions().get::<GatewayResponse>().is_some();
    let fields = response.headers_mut();
    let is_wildcard = fields
        .get(header::ACCESS_CONTROL_ALLOW_ORIGIN)
        .is_some_and(|allowed| allowed == "*");
    if is_ours || is_wildcard {
        fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        fields.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
        fields.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

/// The response to a preflight by a page of another port of the project. It allows every method and field; the
/// application decides about the request that follows.
pub(super) fn preflight(origin: &HeaderValue, request: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let fields = response.headers_mut();
    fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    fields.insert(
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
    for (requested, allowed) in [
        (
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_ALLOW_METHODS,
        ),
        (
            header::ACCESS_CONTROL_REQUEST_HEADERS,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
        ),
    ] {
        if let Some(value) = request.get(&requested) {
            fields.insert(allowed, value.clone());
        }
        fields.append(header::VARY, HeaderValue::from(requested));
    }
    fields.append(header::VARY, HeaderValue::from_static("Origin"));
    response
}

/// Content Security Policy of our responses. It ends with the `frame-ancestors` directive, so that [`allow_framing`] can
/// append an origin.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'";

/// Sets the security headers of the gateway's own responses: not cached, without scripts, and the URL, which may
/// contain a token, is never sent as a referrer.
pub(super) fn set_security_headers(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_POLICY),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

/// Whether a browser loads a page with this request; false for requests of scripts and programs.
pub(super) fn is_navigation(method: &http::Method, headers: &HeaderMap) -> bool {
    if *method != http::Method::GET || headers.contains_key(header::UPGRADE) {
        return false;
    }
    match headers.get("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => matches!(accepted_format(headers), Format::Html),
    }
}

/// Whether a browser shows the answer of this request, which submits a form, as a page.
pub(super) fn is_form(method: &http::Method, headers: &HeaderMap) -> bool {
    *method == http::Method::POST
        && match headers.get("sec-fetch-mode") {
            Some(mode) => mode == "navigate",
            None => matches!(accepted_format(headers), Format::Html),
        }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Html,
    Json,
    Text,
}

/// The first supported format in `Accept`; browsers name HTML first.
fn accepted_format(headers: &HeaderMap) -> Format {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|range| match range.split(';').next().unwrap_or_default().trim() {
            "text/html" | "application/xhtml+xml" => Some(Format::Html),
            "application/json" => Some(Format::Json),
            "text/plain" => Some(Format::Text),
            _ => None,
        })
        .unwrap_or(Format::Text)
}

fn escape_html(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept_header(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))])
    }

    #[test]
    fn the_format_follows_the_accept_field() {
        for (accept, kind) in [
            (
                "text/html,application/xhtml+xml,*/*;q=0.8",
                "text/html; charset=utf-8",
            ),
            ("application/json", "application/json"),
            ("application/json, text/html", "application/json"),
            ("*/*", "text/plain; charset=utf-8"),
        ] {
            let response = ErrorPage::not_found().response(&accept_header(accept));
            assert_eq!(response.headers()[header::CONTENT_TYPE], kind, "{accept}");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        }
    }

    #[test]
    fn the_main_host_may_frame_error_pages_and_responses_of_applications_stay_unchanged() {
        let mut error = ErrorPage::not_found().response(&accept_header("text/html"));
        allow_framing("https://fsa.test", &mut error);
        let policy = error.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.ends_with("frame-ancestors 'self' https://fsa.test"),
            "{policy}"
        );

        let mut forwarded = Response::new(Body::empty());
        set_security_headers(forwarded.headers_mut());
        allow_framing("https://fsa.test", &mut forwarded);
        assert_eq!(
            forwarded.headers()[header::CONTENT_SECURITY_POLICY],
            CONTENT_POLICY
        );
    }

    #[test]
    fn text_of_a_sandbox_is_escaped() {
        let page = ErrorPage::new(StatusCode::OK, "X", "<script>\"'&", "");
        assert!(page.html().contains("&lt;script&gt;&quot;&#39;&amp;"));
    }

    #[test]
    fn a_navigation_is_distinguished_from_a_request_of_a_program() {
        let browser = accept_header("text/html,*/*");
        assert!(is_navigation(&http::Method::GET, &browser));
        assert!(!is_navigation(&http::Method::POST, &browser));
        let mut fetch = browser.clone();
        fetch.insert("sec-fetch-mode", HeaderValue::from_static("cors"));
        assert!(!is_navigation(&http::Method::GET, &fetch));
        assert!(!is_navigation(&http::Method::GET, &accept_header("*/*")));
    }
}
