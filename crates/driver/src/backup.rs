//! What backups need of a data plane: the files of a snapshot, a volume from an archive, and dumps of databases.

use std::{fs::File, os::fd::OwnedFd};

use async_trait::async_trait;
use fsa_model::{
    DatabaseSpec, SandboxRef,
    snapshot_files::{SnapshotFolder, SnapshotPath},
};

use crate::Result;

/// The files of snapshots, and volumes from archives.
#[async_trait]
pub trait VolumeFiles: Send + Sync {
    /// A page of a folder of a snapshot: the entries after the name `after`.
    async fn list(&self, path: &SnapshotPath, after: &[u8]) -> Result<SnapshotFolder>;

    /// Opens a regular file of a snapshot for reading.
    async fn open(&self, path: &SnapshotPath) -> Result<File>;

    /// Makes the sandbox's volume from a tar stream, which a pipe has, with the folders `home` and `root`; below `root`
    /// deletions are marked as in a layer of an image. A volume that exists is kept. After an interruption there is the
    /// whole volume or none. Idempotent.
    async fn import(&self, sandbox: &SandboxRef, archive: OwnedFd) -> Result<()>;
}

/// Dumps of databases, in pg_dump's custom format.
#[async_trait]
pub trait DatabaseDumps: Send + Sync {
    /// The databases on the server of a branch, the project's own first. Empty where the server was never started.
    async fn names(&self, database: &DatabaseSpec) -> Result<Vec<String>>;

    /// Writes a dump of one of them to `output`. Returns when the dump is complete.
    async fn dump(&self, database: &DatabaseSpec, name: &str, output: OwnedFd) -> Result<()>;

    /// Replaces a database with a dump, which is read from `input`: the project's own, or the one named `other`. The
    /// project's role owns all of it.
    async fn load(&self, database: &DatabaseSpec, other: Option<&str>, input: OwnedFd) -> Result<()>;

    /// Stops the server of a branch and removes its files. Idempotent.
    async fn discard(&self, database: &DatabaseSpec) -> Result<()>;
}
