//! Static files of the web application, if the binary includes one: files with hashed names, and one page for
//! every URL of it.
//!
//! The files are compressed at build time, so serving one only selects a variant.

use std::borrow::Cow;

use axum::{
    Router,
    extract::{Path, Request, State},
    response::{IntoResponse as _, Response},
    routing::get,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{error::Error, middleware};
use crate::{settings::Settings, state::App};

/// The content of a file with a hashed name never changes.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// The page names the files of this exact build.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// The variants, smallest first.
const VARIANTS: [(&str, &str); 2] = [("br", ".br"), ("gzip", ".gz")];

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/assets/{file}", get(asset))
        .route("/icon.svg", get(icon))
}

async fn asset(State(app): State<App>, Path(file): Path<String>, headers: HeaderMap) -> Response {
    serve(&app, &format!("assets/{file}"), &headers, IMMUTABLE)
        .unwrap_or_else(|| Error::not_found("file").into_response())
}

async fn icon(State(app): State<App>, headers: HeaderMap) -> Response {
    serve(&app, "icon.svg", &headers, REVALIDATE).unwrap_or_else(|| Error::not_found("file").into_response())
}

/// Fallback for a path without a route: the application's page if a browser navigates to it, else 404.
pub(super) async fn fallback(State(app): State<App>, request: Request) -> Response {
    let accepts_html = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kinds| kinds.contains("text/html"));
    let path = request.uri().path();
    if request.method() == Method::GET
        && accepts_html
        && !path.starts_with("/api/")
        && let Some(page) = page(&app, request.headers())
    {
        return page;
    }
    middleware::no_such_route().await.into_response()
}

/// The application's page, if there is one.
pub(super) fn page(app: &App, headers: &HeaderMap) -> Option<Response> {
    let mut response = serve(app, "index.html", headers, REVALIDATE)?;
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, policy(&app.settings));
    Some(response)
}

/// Content policy: no scripts except the application's files, and frames only for the ports of sandboxes, which
/// are opened through this host (`/api/auth/preview`).
///
/// Styles may be inline: xterm and the components insert `<style>` elements at run time and support no nonce. A
/// style cannot run code or, with these sources of images and fonts, send data out.
fn policy(settings: &Settings) -> HeaderValue {
    let text = format!(
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; \
         font-src 'self'; connect-src 'self'; frame-src 'self' {}; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
        settings.app_url("*")
    );
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

fn serve(app: &App, path: &str, headers: &HeaderMap, caching: HeaderValue) -> Option<Response> {
    let files = app.settings.web?;
    let accepted = headers.get(header::ACCEPT_ENCODING);
    let variant = VARIANTS
        .iter()
        .filter(|(coding, _)| accepted.is_some_and(|accepted| accepts(accepted, coding)))
        .find_map(|(coding, ending)| Some((*coding, files(&format!("{path}{ending}"))?)));
    let (coding, bytes) = match variant {
        Some((coding, bytes)) => (Some(coding), bytes),
        None => (None, files(path)?),
    };
    let bytes = match bytes {
        Cow::Borrowed(bytes) => bytes::Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    let plain: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind(path))),
        (header::CACHE_CONTROL, caching),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
    ];
    let mut response = (StatusCode::OK, plain, bytes).into_response();
    if let Some(coding) = coding {
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    Some(response)
}

/// Whether `Accept-Encoding` names a coding and does not exclude it with `q=0`.
fn accepts(accepted: &HeaderValue, coding: &str) -> bool {
    let Ok(accepted) = accepted.to_str() else {
        return false;
    };
    accepted.split(',').any(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(coding));
        let refused = parts.any(|part| {
            part.strip_prefix("q=")
                .is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight == 0.0))
        });
        named && !refused
    })
}

fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("woff2") => "font/woff2",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_used_only_if_accepted() {
        let takes = |text: &'static str, coding| accepts(&HeaderValue::from_static(text), coding);
        assert!(takes("gzip, deflate, br", "br"));
        assert!(takes("gzip;q=0.5", "gzip"));
        assert!(!takes("gzip, br;q=0", "br"));
        assert!(!takes("brotli", "br"));
        assert!(!takes("", "gzip"));
    }
}
