//! Backups in the local driver: each operation is one request to the runner.

use std::{
    fs::File,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use fsa_driver::{DriverError, Result, backup::VolumeFiles};
use fsa_model::{
    FailureKind, SandboxRef,
    snapshot_files::{HexBytes, SnapshotFolder, SnapshotPath},
};

use super::{LocalDriver, client::unexpected};
use crate::protocol::{Request, Response};

/// Timeout of a page of a folder, or of the opening of a file.
const READ: Duration = Duration::from_secs(120);
/// Timeout of an import. The archive comes from the network.
const IMPORT: Duration = Duration::from_secs(6 * 3600);

#[async_trait]
impl VolumeFiles for LocalDriver {
    async fn list(&self, path: &SnapshotPath, after: &[u8]) -> Result<SnapshotFolder> {
        let request = Request::ListSnapshot {
            path: path.clone(),
            after: HexBytes(after.to_vec()),
        };
        match self.client.call(request, &[], READ).await? {
            (Response::SnapshotFolder(folder), _) => Ok(folder),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn open(&self, path: &SnapshotPath) -> Result<File> {
        let request = Request::OpenSnapshotFile { path: path.clone() };
        match self.client.call(request, &[], READ).await? {
            (Response::SnapshotFile, mut files) if files.len() == 1 => Ok(File::from(files.remove(0))),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn import(&self, sandbox: &SandboxRef, archive: OwnedFd) -> Result<()> {
        let lock = self.sandbox_locks.lock(&sandbox.resource).await;
        let client = Arc::clone(&self.client);
        let request = Request::ImportVolume {
            sandbox: sandbox.clone(),
        };
        // The runner goes on when the caller stops waiting, so the lock is held until it has answered.
        let called = tokio::spawn(async move {
            let done = client.done(request, &[archive.as_fd()], IMPORT).await;
            drop((lock, archive));
            done
        });
        called.await.map_err(|error| {
            DriverError::new(FailureKind::Internal, "the task of an import failed").because(error)
        })?
    }
}
