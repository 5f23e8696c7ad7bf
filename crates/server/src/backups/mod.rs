//! Backup content: the repository, what a backup consists of, and its form as an archive of a volume.
//!
//! In the repository a backup is a folder with `project.json` ([`manifest`]), `home`, `root` (the changes of the root file
//! system, deletions as character devices 0/0 as in an overlay), and `databases` with one dump each. It has the project's
//! variables in plain text: the repository is encrypted, and a restore does not need the server's keys.

pub mod archive;
pub mod manifest;
pub mod source;

use std::{fs::File, path::PathBuf, sync::Arc};

use fsa_backup::{Error, Folder, Repository};
use fsa_model::{Failure, FailureKind};

use crate::settings::BackupSettings;

/// The server's backup repository. Cheap to clone.
#[derive(Clone)]
pub struct Backups {
    repository: Arc<Repository>,
    scratch: PathBuf,
}

impl Backups {
    #[must_use]
    pub fn new(settings: &BackupSettings) -> Self {
        let storage = Arc::new(Folder::new(&settings.repository));
        Self {
            repository: Arc::new(Repository::new(storage, settings.password.clone())),
            scratch: settings.scratch.clone(),
        }
    }

    /// A new file without a name, for a dump.
    ///
    /// # Errors
    /// The file system's.
    pub fn scratch_file(&self) -> Result<File, Failure> {
        tempfile::tempfile_in(&self.scratch).map_err(|error| {
            Failure::new(
                FailureKind::Machine,
                format!(
                    "a file for a dump cannot be made in {} ({error})",
                    self.scratch.display()
                ),
            )
        })
    }

    /// Runs blocking work on the repository.
    ///
    /// # Errors
    /// The work's.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Repository) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let repository = Arc::clone(&self.repository);
        match tokio::task::spawn_blocking(move || work(&repository)).await {
            Ok(done) => done.map_err(|error| failure(&error)),
            Err(error) => Err(Failure::new(
                FailureKind::Internal,
                format!("the work on the backup repository panicked ({error})"),
            )),
        }
    }
}

/// The failure of an operation on the repository.
#[must_use]
pub fn failure(error: &Error) -> Failure {
    let kind = match error {
        Error::WrongPassword | Error::Damaged(_) => FailureKind::Machine,
        Error::NoSuchBackup(_) | Error::Canceled => FailureKind::Input,
        Error::Storage(_) | Error::Source(_) | Error::Write(_) => FailureKind::Transient,
    };
    Failure::new(kind, error.to_string())
}

/// Tags of a backup in the repository, by which it is found again.
#[must_use]
pub fn tag(name: &str, value: &impl std::fmt::Display) -> String {
    format!("{name}:{value}")
}
