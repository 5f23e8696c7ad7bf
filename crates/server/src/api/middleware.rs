//! Middleware of the main host: request id, access log, metrics, security headers, and one form for all errors,
//! including panics.
//!
//! One function instead of the layers of `tower-http` (request id, trace, catch-panic, set-header), because the steps
//! share state: the body of an error has the request id, the audit entry has the authenticated user and the final
//! status, and both exist for a panic too. Layers would pass these values through extensions in an order that no type
//! checks.

use std::time::Instant;

use axum::{
    body::Body,
    extract::{MatchedPath, State},
    middleware::Next,
    response::{IntoResponse as _, Redirect, Response},
};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use tracing::Instrument as _;
use url::{Host, Url};
use uuid::Uuid;

use super::{
    audit,
    error::{self, Error, ErrorOfResponse},
    health, local_redirect,
};
use crate::state::App;

/// The header with a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, for logs and for calls to other services.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Pages load their own scripts and styles as files of this host; nothing else may run.
const CONTENT_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    // Not no-referrer: a browser would then hide the origin of the main host's own forms.
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    // Popups of a preview in a frame keep their opener, as sign-in with another provider needs it.
    (
        OPENER_POLICY,
        HeaderValue::from_static("same-origin-allow-popups"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// The outermost layer of the main host.
pub async fn main_host(State(app): State<App>, mut request: Request<Body>, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    // The query is not logged: it may contain a secret.
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().cloned();
    request.extensions_mut().insert(RequestId(id.clone()));
    let write = audit::AuditedRequest::of(&app, &mut request);
    let span = tracing::info_span!("request", %id, %method, path);

    let response = if is_misdirected(&app, &request) {
        misdirected(&app)
    } else if let Some(target) = local_redirect::target(&app.settings, &request) {
        Redirect::temporary(&target).into_response()
    } else {
        let answer = std::panic::AssertUnwindSafe(next.run(request)).catch_unwind();
        match answer.instrument(span.clone()).await {
            Ok(response) => response,
            Err(panic) => panicked(panic.as_ref()),
        }
    };
    let response = with_error_body(response);
    let mut response = error::complete(&app, &id, response);
    add_headers(&app, &path, &id, response.headers_mut());
    if response.status().is_redirection() {
        // A redirect shows nothing, and a preview's popup that is authenticated on its way keeps its opener.
        response.headers_mut().remove(OPENER_POLICY);
    }

    if let Some(write) = write {
        write.answered(response.status()).await;
    }
    let status = response.status();
    let took = began.elapsed();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    app.metrics.count(&method, route, status, took);
    tracing::debug!(parent: &span, status = status.as_u16(), micros = took.as_micros(), "answered");
    response
}

/// 404 for a path without a route.
pub async fn no_such_route() -> Error {
    Error::not_found("page or route")
}

/// 405 for a path that exists for other methods.
pub async fn no_such_method() -> Error {
    Error::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "MethodNotAllowed",
        "This path does not support that method.",
    )
}

/// Whether the request is for a name that is not ours. A page of another site can give its own name our address (DNS
/// rebinding), and to the browser it then shares an origin with us. That name is never the origin's host, an address or
/// a loopback name.
fn is_misdirected<B>(app: &App, request: &Request<B>) -> bool {
    // Probes and an ingress controller use the name of a service, and no cookie.
    if ["/healthz", "/readyz", "/metrics", "/api/ingress/check"].contains(&request.uri().path()) {
        return false;
    }
    let target = request
        .uri()
        .authority()
        .map(|authority| Some(authority.as_str()));
    let fields = request.headers().get_all(header::HOST);
    let mut named = target
        .into_iter()
        .chain(fields.iter().map(|host| host.to_str().ok()));
    !named.all(|host| host.is_some_and(|host| is_own_host(app, host)))
}

fn is_own_host(app: &App, authority: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{authority}")) else {
        return false;
    };
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            app.settings.origin.host_str() == Some(name) || health::is_loopback_name(name)
        }
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        None => false,
    }
}

fn misdirected(app: &App) -> Response {
    Error::new(
        StatusCode::MISDIRECTED_REQUEST,
        "Misdirected",
        format!(
            "This server does not answer to that host name. Open it at {}. Its operator gives it another name \
             with --origin.",
            app.settings.origin_text()
        ),
    )
    .into_response()
}

/// The id that a proxy gave the request, if it is valid, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            (1..=64).contains(&id.len())
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
        .map_or_else(|| Uuid::new_v4().simple().to_string(), str::to_owned)
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    Error::internal("The control plane failed internally.")
        .with_cause(format!("panicked: {message}"))
        .into_response()
}

/// Converts plain-text rejections that no handler produced (a body that is too long, for example) to the API's form.
fn with_error_body(response: Response) -> Response {
    let status = response.status();
    let plain = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !(status.is_client_error() || status.is_server_error())
        || !plain
        || response.extensions().get::<ErrorOfResponse>().is_some()
    {
        return response;
    }
    let (name, sentence) = match status {
        StatusCode::PAYLOAD_TOO_LARGE => ("TooLarge", "The body of the request is too long."),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            ("UnsupportedMediaType", "This content type is not supported here.")
        }
        StatusCode::UPGRADE_REQUIRED => ("UpgradeRequired", "This path needs a WebSocket client."),
        _ => ("Refused", "The request was refused."),
    };
    let mut error = Error::new(status, name, sentence).into_response();
    for (name, value) in response.headers() {
        let body = name == header::CONTENT_TYPE || name == header::CONTENT_LENGTH;
        if !body && !error.headers().contains_key(name) {
            error.headers_mut().append(name, value.clone());
        }
    }
    error
}

fn add_headers(app: &App, path: &str, id: &str, headers: &mut HeaderMap) {
    for (name, value) in &HEADERS {
        headers.entry(name).or_insert_with(|| value.clone());
    }
    if app.settings.is_https() {
        headers.insert(
            header::STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000"),
        );
    }
    if path.starts_with("/api/") {
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
    }
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
}
