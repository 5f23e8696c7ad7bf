//! Errors of a request to sandboxd.

use std::fmt;

use fsa_driver::DriverError;
use fsa_model::{ErrorBody, FailureKind, Field};
use http::StatusCode;

/// Maximum number of characters of a text from sandboxd.
const MAX_TEXT_CHARACTERS: usize = 500;

/// The result of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// Failure of a request to sandboxd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// sandboxd cannot be reached, does not answer in time, or its response cannot be parsed.
    #[error(transparent)]
    Unreachable(Box<DriverError>),
    /// sandboxd responded with an error status.
    #[error("the sandbox refused a request ({0})")]
    Refused(Box<ErrorResponse>),
}

/// An error response of sandboxd. Its texts come from inside a sandbox and are not trusted: they are bounded, and control
/// characters are removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    pub status: StatusCode,
    /// The name in the [`ErrorBody`], if the response has one.
    pub message: Option<String>,
    /// The invalid field of the request.
    pub field: Option<Field>,
}

impl ErrorResponse {
    pub(crate) fn parse(status: StatusCode, body: &[u8]) -> Self {
        let body = serde_json::from_slice::<ErrorBody>(body).ok();
        Self {
            status,
            message: body.as_ref().map(|body| plain(&body.error)),
            field: body.and_then(|body| body.details.field).map(|mut field| {
                field.name = plain(&field.name);
                field.rule = plain(&field.rule);
                field
            }),
        }
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{}: {message}", self.status),
            None => write!(f, "{}", self.status),
        }
    }
}

impl Error {
    /// The status of an error response.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Unreachable(_) => None,
            Self::Refused(response) => Some(response.status),
        }
    }
}

impl From<DriverError> for Error {
    fn from(error: DriverError) -> Self {
        Self::Unreachable(Box::new(error))
    }
}

/// For drivers and the reconciler, an error response is transient.
impl From<Error> for DriverError {
    fn from(error: Error) -> Self {
        match error {
            Error::Unreachable(error) => *error,
            Error::Refused(_) => Self::new(FailureKind::Transient, error.to_string()),
        }
    }
}

fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_TEXT_CHARACTERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_response_is_bounded_and_without_control_characters() {
        let body = serde_json::json!({
            "error": format!("no\u{1b}[31m{}", "x".repeat(1000)),
            "details": {"name": "Refused", "message": "", "field": {"name": "co\nmmand", "rule": "it\u{7} is short"}},
            "timestamp": "2026-01-01T00:00:00Z",
        });
        let response = ErrorResponse::parse(StatusCode::BAD_REQUEST, body.to_string().as_bytes());
        let message = response.message.unwrap();
        assert_eq!(message.chars().count(), MAX_TEXT_CHARACTERS);
        assert!(message.starts_with("no[31mx"));
        let field = response.field.unwrap();
        assert_eq!(
            (field.name.as_str(), field.rule.as_str()),
            ("command", "it is short")
        );
    }

    #[test]
    fn an_error_response_in_another_form_is_its_status() {
        let response = ErrorResponse::parse(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!((&response.message, &response.field), (&None, &None));
        let error = DriverError::from(Error::Refused(Box::new(response)));
        assert_eq!(error.failure.kind, FailureKind::Transient);
        assert_eq!(
            error.failure.message,
            "the sandbox refused a request (502 Bad Gateway)"
        );
    }
}
