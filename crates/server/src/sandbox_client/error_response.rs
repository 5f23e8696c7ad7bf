//! sandboxd's error responses as errors of the API.

use fsa_driver::DriverError;
use fsa_sandboxd_client::{Error as ClientError, ErrorResponse};
use http::StatusCode;

use crate::Error;

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(response) => api_error(*response),
            ClientError::Unreachable(_) => DriverError::from(error).into(),
        }
    }
}

fn api_error(response: ErrorResponse) -> Error {
    let sentence = response
        .message
        .unwrap_or_else(|| "The sandbox refused the request.".to_owned());
    // 401 and 403 would describe the caller, whom sandboxd does not know.
    let (status, name) = match response.status {
        StatusCode::BAD_REQUEST => (StatusCode::UNPROCESSABLE_ENTITY, "Refused"),
        StatusCode::NOT_FOUND => (StatusCode::NOT_FOUND, "NotFound"),
        StatusCode::FORBIDDEN | StatusCode::CONFLICT => (StatusCode::CONFLICT, "Conflict"),
        StatusCode::PRECONDITION_FAILED => (response.status, "PreconditionFailed"),
        StatusCode::PRECONDITION_REQUIRED => (response.status, "PreconditionRequired"),
        StatusCode::PAYLOAD_TOO_LARGE => (response.status, "TooLarge"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (response.status, "UnsupportedMediaType"),
        StatusCode::RANGE_NOT_SATISFIABLE => (response.status, "RangeNotSatisfiable"),
        StatusCode::UNPROCESSABLE_ENTITY => (response.status, "Refused"),
        StatusCode::TOO_MANY_REQUESTS => (response.status, "TooManyRequests"),
        StatusCode::INSUFFICIENT_STORAGE => (response.status, "DiskFull"),
        _ => (StatusCode::BAD_GATEWAY, "SandboxFailed"),
    };
    match response.field {
        Some(field) if status == StatusCode::UNPROCESSABLE_ENTITY => Error::invalid(field.name, field.rule),
        _ => Error::new(status, name, sentence),
    }
}
