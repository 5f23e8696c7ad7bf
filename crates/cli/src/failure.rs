//! Command failures: a message, and an exit code by kind.

use std::{fmt, process::ExitCode};

use fsa_model::ErrorBody;

/// Exit codes for failures. clap exits with 2 after wrong usage, and `fsa exec` with the command's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    NotAllowed = 4,
    /// The state does not allow it, or the name is taken.
    Conflict = 5,
    Unreachable = 6,
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    /// The server's error, for --json.
    pub body: Option<Box<ErrorBody>>,
}

/// The result of a command: its exit code, usually 0.
pub type Outcome = Result<u8, Failure>;

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            body: None,
        }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Code::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// From an HTTP error response.
    pub fn from_response(status: u16, bytes: &[u8]) -> Self {
        let code = match status {
            401 | 403 => Code::NotAllowed,
            404 => Code::NotFound,
            409 | 412 => Code::Conflict,
            400 | 422 => Code::Usage,
            _ => Code::Failed,
        };
        let body: Option<ErrorBody> = serde_json::from_slice(bytes).ok();
        let message = body.as_ref().map_or_else(
            || format!("the server responded with status {status} and no message"),
            |body| {
                let (title, details) = (&body.error, &body.details.message);
                // Do not repeat a title that the details begin with.
                let mut text = if details.starts_with(title.as_str()) {
                    details.clone()
                } else {
                    format!("{title}: {details}")
                };
                if let Some(suggestion) = body.details.field.as_ref().and_then(|f| f.suggestion.as_ref())
                    && !text.contains(suggestion.as_str())
                {
                    text = format!("{text} (try {suggestion:?})");
                }
                if status == 401 {
                    text = format!("{text}\nSign in with `fsa login`.");
                }
                if status >= 500
                    && let Some(id) = &body.details.request_id
                {
                    text = format!("{text}\nThe server's log has details: request {id}.");
                }
                text
            },
        );
        Self {
            code,
            message,
            body: body.map(Box::new),
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        let url = error
            .url()
            .map(|url| url.origin().ascii_serialization())
            .unwrap_or_default();
        if error.is_connect() {
            Self::new(
                Code::Unreachable,
                format!(
                    "no server answers at {url}. Is `fsa serve` running there? Set another URL with --url or FSA_URL."
                ),
            )
        } else if error.is_timeout() {
            Self::new(
                Code::Unreachable,
                format!("the server at {url} took too long to answer"),
            )
        } else {
            Self::new(
                Code::Unreachable,
                format!("the connection to {url} was lost: {}", root_cause(&error)),
            )
        }
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
