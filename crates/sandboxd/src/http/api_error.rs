//! Error responses: status, a stable name for programs, a sentence for people.

use std::io;

use chrono::Utc;
use fsa_model::error::{ErrorBody, ErrorDetails, Field};
use http::{HeaderValue, Response, StatusCode, header};

use super::{Body, json};
use crate::{spawn::SpawnError, user::UserError};

/// Error response to a request. The file system's functions carry it in an [`io::Error`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub status: StatusCode,
    /// Stable name for programs.
    pub name: &'static str,
    pub message: String,
    pub field: Option<Box<Field>>,
    challenge: Option<&'static str>,
}

impl ApiError {
    #[must_use]
    pub fn new(status: StatusCode, name: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            name,
            message: message.into(),
            field: None,
            challenge: None,
        }
    }

    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    #[must_use]
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    /// A field of the request is invalid.
    #[must_use]
    pub fn field(name: &str, rule: impl Into<String>) -> Self {
        let rule = rule.into();
        let message = format!("`{name}`: {rule}");
        Self {
            field: Some(Box::new(Field {
                name: name.into(),
                rule,
                suggestion: None,
            })),
            ..Self::new(StatusCode::BAD_REQUEST, "InvalidField", message)
        }
    }

    /// The token is missing or wrong.
    #[must_use]
    pub fn unauthorized(challenge: &'static str) -> Self {
        Self {
            challenge: Some(challenge),
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                "Unauthorized",
                "the token is missing or wrong",
            )
        }
    }

    /// The file system's error for `subject`.
    #[must_use]
    pub fn of_file(subject: &str, error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let (status, name, why) = match error.kind() {
            _ if error.raw_os_error() == Some(libc::ELOOP) => (
                StatusCode::CONFLICT,
                "LinkLoop",
                "its symbolic links form a loop, or are not allowed here",
            ),
            Kind::NotFound => (
                StatusCode::NOT_FOUND,
                "NotFound",
                "there is no such file or folder",
            ),
            Kind::PermissionDenied => (
                StatusCode::FORBIDDEN,
                "PermissionDenied",
                "the user has no permission for it",
            ),
            Kind::AlreadyExists => (StatusCode::CONFLICT, "AlreadyExists", "it already exists"),
            Kind::IsADirectory => (StatusCode::CONFLICT, "IsFolder", "it is a folder"),
            Kind::NotADirectory => (
                StatusCode::CONFLICT,
                "NotFolder",
                "a part of the path is a file, not a folder",
            ),
            Kind::DirectoryNotEmpty => (StatusCode::CONFLICT, "NotEmpty", "the folder is not empty"),
            Kind::StorageFull | Kind::QuotaExceeded => (
                StatusCode::INSUFFICIENT_STORAGE,
                "DiskFull",
                "the disk is full; delete something and try again",
            ),
            Kind::ReadOnlyFilesystem => (
                StatusCode::FORBIDDEN,
                "ReadOnly",
                "it is on a read-only file system",
            ),
            Kind::InvalidFilename | Kind::InvalidInput => {
                (StatusCode::BAD_REQUEST, "BadPath", "the path is not valid")
            }
            Kind::CrossesDevices => (
                StatusCode::CONFLICT,
                "OtherFileSystem",
                "the two are on different file systems",
            ),
            _ => {
                return Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "FileError",
                    format!("{subject}: {error}"),
                );
            }
        };
        Self::new(status, name, format!("{subject}: {why}"))
    }

    /// The response.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let body = ErrorBody {
            error: self.message.clone(),
            details: ErrorDetails {
                name: self.name.into(),
                message: self.message,
                request_id: None,
                field: self.field.map(|field| *field),
                stack: None,
                kubernetes_status: None,
                limit: None,
            },
            project_id: None,
            timestamp: Utc::now(),
        };
        let mut response = json(&body);
        *response.status_mut() = self.status;
        if let Some(challenge) = self.challenge {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        let message = error.to_string();
        Self {
            message: message.clone(),
            ..Self::field("user", message)
        }
    }
}

impl From<SpawnError> for ApiError {
    fn from(error: SpawnError) -> Self {
        let message = error.to_string();
        let (status, name, field) = match error {
            SpawnError::NotFound(_) => (StatusCode::BAD_REQUEST, "CommandNotFound", Some("command")),
            SpawnError::NotExecutable(..) => {
                (StatusCode::BAD_REQUEST, "CommandNotExecutable", Some("command"))
            }
            SpawnError::Folder(..) => (StatusCode::BAD_REQUEST, "InvalidField", Some("cwd")),
            SpawnError::User(..) => (StatusCode::BAD_REQUEST, "InvalidField", Some("user")),
            SpawnError::Other(..) => (StatusCode::INTERNAL_SERVER_ERROR, "StartFailed", None),
        };
        Self {
            field: field.map(|name| {
                Box::new(Field {
                    name: name.into(),
                    rule: message.clone(),
                    suggestion: None,
                })
            }),
            ..Self::new(status, name, message)
        }
    }
}
