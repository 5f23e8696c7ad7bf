//! sandboxd's error responses as errors of the API.

use fsa_driver::DriverError;
use fsa_sandboxd_client::{Error as ClientError, Refusal};
use http::StatusCode;

use crate::Error;

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(refusal) => refused(*refusal),
            ClientError::Unreachable(_) => DriverError::from(error).into(),
        }
    }
}

fn refused(refusal: Refusal) -> Error {
    let sentence = refusal
        .message
        .unwrap_or_else(|| "The sandbox refused the request.".to_owned());
    // 401 and 403 would describe the caller, whom sandboxd does not know.
    let (status, name) = match refusal.status {
        StatusCode::BAD_REQUEST => (StatusCode::UNPROCESSABLE_ENTITY, "Refused"),
        StatusCode::NOT_FOUND => (StatusCode::NOT_FOUND, "NotFound"),
        StatusCode::FORBIDDEN | StatusCode::CONFLICT => (StatusCode::CONFLICT, "Conflict"),
        StatusCode::PRECONDITION_FAILED => (refusal.status, "PreconditionFailed"),
        StatusCode::PRECONDITION_REQUIRED => (refusal.status, "PreconditionRequired"),
        StatusCode::PAYLOAD_TOO_LARGE => (refusal.status, "TooLarge"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (refusal.status, "UnsupportedMediaType"),
        StatusCode::RANGE_NOT_SATISFIABLE => (refusal.status, "RangeNotSatisfiable"),
        StatusCode::UNPROCESSABLE_ENTITY => (refusal.status, "Refused"),
        StatusCode::TOO_MANY_REQUESTS => (refusal.status, "TooManyRequests"),
        StatusCode::INSUFFICIENT_STORAGE => (refusal.status, "DiskFull"),
        _ => (StatusCode::BAD_GATEWAY, "SandboxFailed"),
    };
    match refusal.field {
        Some(field) if status == StatusCode::UNPROCESSABLE_ENTITY => Error::invalid(field.name, field.rule),
        _ => Error::new(status, name, sentence),
    }
}
