//! Pass-through of a sandboxd response: streams its body to the client.

use axum::{body::Body, response::Response};
use fsa_sandboxd_client::ResponseBody;
use http::{HeaderName, HeaderValue, header};

/// Forwards the status, the header fields in `fields`, and the body.
pub(crate) fn pass_through(response: http::Response<ResponseBody>, fields: &[HeaderName]) -> Response {
    let (parts, body) = response.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = parts.status;
    for name in fields {
        if let Some(value) = parts.headers.get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    // Content from a sandbox must not run under the main host's origin.
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
