//! A response of sandboxd, passed on to the client as its body comes.

use axum::{body::Body, response::Response};
use fsa_sandboxd_client::ResponseBody;
use http::{HeaderName, HeaderValue, header};

/// Its status, those of its fields that are in `fields`, and its body.
pub(crate) fn pass_through(response: http::Response<ResponseBody>, fields: &[HeaderName]) -> Response {
    let (parts, body) = response.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = parts.status;
    for name in fields {
        if let Some(value) = parts.headers.get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    // The main host's origin is not lent to what comes out of a sandbox.
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("sandbox; default-src 'none'"),
    );
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
