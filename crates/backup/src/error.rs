//! Errors of a repository.

use rustic_core::{ErrorKind, RusticError};

/// Why an operation on a repository failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the password of the backup repository is wrong: set the one that the repository was created with"
    )]
    WrongPassword,
    #[error("the backup repository has no backup {0}")]
    NoSuchBackup(String),
    /// The storage does not answer, or refuses.
    #[error("the storage of the backup repository failed: {0}")]
    Storage(String),
    /// An entry of the source could not be read; the backup was not stored.
    #[error("{0}")]
    Source(String),
    #[error("the backup was canceled")]
    Canceled,
    /// A file of the repository is missing or has other bytes than were written.
    #[error("the backup repository is damaged: {0}")]
    Damaged(String),
    /// The reader of a restored file failed.
    #[error("a restored file could not be written ({0})")]
    Write(std::io::Error),
}

impl Error {
    pub(crate) fn of(error: &RusticError) -> Self {
        if error.is_incorrect_password() {
            return Self::WrongPassword;
        }
        // Its log form: one line, with the cause.
        let text = error.display_log();
        let text = text
            .strip_prefix("Error: ")
            .unwrap_or(&text)
            .lines()
            .collect::<Vec<_>>()
            .join(" ");
        if text.contains("related to the backend") {
            Self::Storage(text)
        } else {
            Self::Damaged(text)
        }
    }
}

impl From<Box<RusticError>> for Error {
    fn from(error: Box<RusticError>) -> Self {
        Self::of(&error)
    }
}

/// An error of the storage, as `rustic_core` has it.
pub(crate) fn backend(what: &str, path: &str, error: std::io::Error) -> Box<RusticError> {
    RusticError::with_source(ErrorKind::Backend, "{what}: `{path}`", error)
        .attach_context("what", what)
        .attach_context("path", path)
}
