//! Snapshots in the local driver. A request goes on in the runner when its caller stops waiting, so the
//! sandbox's lock is held until the runner has answered.

use std::{
    fs::File,
    io::{self, Read as _},
    time::Duration,
};

use fsa_driver::{DriverError, Result, SnapshotFile};
use fsa_model::{FailureKind, SandboxRef, SnapshotId, VolumeId, percent, snapshot::SnapshotContent};

use super::{LocalDriver, client::unexpected};
use crate::protocol::{Request, Response};

/// Timeout of opening a file.
const OPEN: Duration = Duration::from_secs(20);
/// Plain folders are copied byte by byte.
const TIMEOUT: Duration = Duration::from_secs(1800);

impl LocalDriver {
    pub(super) async fn take_snapshot(
        &self,
        sandbox: &SandboxRef,
        snapshot: SnapshotId,
    ) -> Result<SnapshotContent> {
        let request = Request::CreateSnapshot {
            sandbox: sandbox.clone(),
            snapshot,
        };
        match self.call_locked(sandbox, request).await? {
            Response::Snapshot(content) => Ok(content),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn replace_volume(
        &self,
        sandbox: &SandboxRef,
        from: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<()> {
        let request = Request::RestoreSnapshot {
            sandbox: sandbox.clone(),
            from,
            snapshot,
        };
        match self.call_locked(sandbox, request).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn copy_volume(
        &self,
        from: VolumeId,
        snapshot: SnapshotId,
        sandbox: &SandboxRef,
    ) -> Result<()> {
        let request = Request::CloneSnapshot {
            from,
            snapshot,
            sandbox: sandbox.clone(),
        };
        match self.call_locked(sandbox, request).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn read_snapshot_file(
        &self,
        sandbox: &SandboxRef,
        snapshot: Option<SnapshotId>,
        path: &[u8],
        bytes_max: u64,
    ) -> Result<SnapshotFile> {
        let request = Request::ComparedFile {
            sandbox: sandbox.clone(),
            snapshot,
            path: percent::encode(path),
        };
        let (response, descriptors) = self.client.call(request, &[], OPEN).await?;
        let Response::ComparedFile { exists } = response else {
            return Err(unexpected(&response));
        };
        let Some(file) = descriptors.into_iter().next() else {
            return Ok(match exists {
                true => SnapshotFile::NotRegular,
                false => SnapshotFile::Absent,
            });
        };
        let read = tokio::task::spawn_blocking(move || {
            let mut content = Vec::new();
            // One byte more shows that a file is too large, also one that grows meanwhile.
            File::from(file).take(bytes_max + 1).read_to_end(&mut content)?;
            Ok::<_, io::Error>(content)
        });
        let unread = || DriverError::new(FailureKind::Transient, "a file of a snapshot could not be read");
        let content = read
            .await
            .map_err(|error| unread().because(error))?
            .map_err(|error| unread().because(error))?;
        Ok(match content.len() as u64 > bytes_max {
            true => SnapshotFile::TooLarge,
            false => SnapshotFile::Content(content),
        })
    }

    async fn call_locked(&self, sandbox: &SandboxRef, request: Request) -> Result<Response> {
        let lock = self.sandbox_locks.lock(&sandbox.resource).await;
        let client = std::sync::Arc::clone(&self.client);
        let called = tokio::spawn(async move {
            let answer = client.call(request, &[], TIMEOUT).await;
            drop(lock);
            answer
        });
        let (response, _) = called.await.map_err(|error| {
            DriverError::new(FailureKind::Internal, "the task of a snapshot failed").because(error)
        })??;
        Ok(response)
    }
}
