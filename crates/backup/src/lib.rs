//! Backup repository in restic's format: in a folder, encrypted with a password and deduplicated.
//!
//! Built on `rustic_core`, whose interface is not stable and does not leave this crate. Any restic of version 0.14 or
//! later reads the repository. Everything here blocks: call it from a thread that may.
//!
//! A backup is in the repository as a whole or not at all: its snapshot file is written last, and not at all if an
//! entry could not be read or a pack not be written. What an interrupted backup wrote before is used by the next one,
//! or removed by [`Repository::prune`]. Nothing is locked: packs without a reference are removed a day after they were
//! found, so a backup that runs beside a removal loses nothing.

#![forbid(unsafe_code)]

mod backend;
mod contents;
mod entry;
mod error;
mod folder;
mod repository;
mod source;
mod storage;

pub use contents::{Contents, FileContent};
pub use entry::{Entry, EntryKind};
pub use error::Error;
pub use folder::Folder;
pub use repository::{BackupInfo, NewBackup, Repository};
pub use source::{Archive, Open, Progress, SourceEntry};
pub use storage::Storage;

/// The result of an operation on a repository.
pub type Result<T> = std::result::Result<T, Error>;
