//! Snapshots in the local driver. A request goes on in the runner when its caller stops waiting, so the
//! sandbox's lock is held until the runner has answered.

use std::time::Duration;

use fsa_driver::{DriverError, Result};
use fsa_model::{FailureKind, SandboxRef, SnapshotId, VolumeId, snapshot::SnapshotContent};

use super::{LocalDriver, client::unexpected};
use crate::protocol::{Request, Response};

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
