//! Error responses: turns an [`Error`] into a response body, in one place.

use std::sync::Arc;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use chrono::Utc;
use fsa_model::{ErrorBody, ErrorDetails};
use http::{HeaderValue, StatusCode, header};

pub use crate::error::Error;
use crate::state::App;

/// The error that a response was made from, for [`complete`].
#[derive(Clone)]
pub struct ErrorOfResponse(pub Arc<Error>);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let refused = ErrorOfResponse(Arc::new(self));
        let mut response = write(&refused.0, None, false);
        response.extensions_mut().insert(refused);
        response
    }
}

/// Completes an error response with what the middleware knows: the request id, and whether the chain of causes
/// may be shown. Writes the internal part to the log.
pub fn complete(app: &App, request_id: &str, response: Response) -> Response {
    let Some(ErrorOfResponse(error)) = response.extensions().get::<ErrorOfResponse>().cloned() else {
        return response;
    };
    let causes = error.causes().join(": ");
    if error.status().is_server_error() {
        tracing::error!(request_id, status = error.status().as_u16(), %error, causes, "a request failed");
    } else {
        tracing::debug!(request_id, status = error.status().as_u16(), %error, causes, "a request was refused");
    }
    let mut complete = write(&error, Some(request_id), app.settings.development);
    // Keep headers that a handler added to the error's response (a cleared cookie).
    for (name, value) in response.headers() {
        if !complete.headers().contains_key(name) {
            complete.headers_mut().append(name, value.clone());
        }
    }
    complete
}

fn write(error: &Error, request_id: Option<&str>, development: bool) -> Response {
    let causes = error.causes();
    let body = ErrorBody {
        error: error.sentence().to_owned(),
        details: ErrorDetails {
            name: error.name().to_owned(),
            message: error.message().to_owned(),
            request_id: request_id.map(str::to_owned),
            field: error.field().cloned(),
            stack: (development && !causes.is_empty()).then(|| causes.join("\n")),
            kubernetes_status: error.kubernetes_status().map(str::to_owned),
            limit: error.limit().cloned(),
        },
        project_id: error.project(),
        timestamp: Utc::now(),
    };
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if error.status() == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = error.retry_after() {
        // Whole seconds (RFC 9110, 10.2.3), never too early.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
