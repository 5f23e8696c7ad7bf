//! Requests to the runner about databases.

use std::time::Duration;

use fsa_driver::{DriverError, Result};
use fsa_model::{FailureKind, VolumeId};

use super::ProjectDatabases;
use crate::protocol::{DatabaseSetup, ObservedServer, Request, Response, StopWhen};

/// Timeout of a request that the runner answers from memory or a few files.
const QUICK: Duration = Duration::from_secs(30);
/// Timeout of a start, the first one with the template's.
const START: Duration = Duration::from_secs(70);
/// Timeout of a stop, with its last resort.
const STOP: Duration = Duration::from_secs(90);
/// Timeout of a copy or a removal, whose duration depends on the size.
const FILES: Duration = Duration::from_secs(900);

impl ProjectDatabases {
    async fn request(&self, request: Request, timeout: Duration) -> Result<Response> {
        self.client
            .call(request, &[], timeout)
            .await
            .map(|(response, _)| response)
    }

    pub(super) async fn request_ensure(&self, volume: VolumeId, setup: DatabaseSetup) -> Result<()> {
        done(
            self.request(Request::EnsureDatabase { volume, setup }, QUICK)
                .await?,
        )
    }

    pub(super) async fn request_start(&self, volume: VolumeId) -> Result<ObservedServer> {
        let response = self.request(Request::StartDatabase { volume }, START).await?;
        servers(response)?.pop().ok_or_else(|| {
            DriverError::new(
                FailureKind::Transient,
                "the project's database was removed meanwhile",
            )
        })
    }

    pub(super) async fn request_open(&self, volume: VolumeId) -> Result<()> {
        done(self.request(Request::OpenDatabase { volume }, QUICK).await?)
    }

    /// Whether it does not run afterwards.
    pub(super) async fn request_stop(&self, volume: VolumeId, when: StopWhen) -> Result<bool> {
        match self.request(Request::StopDatabase { volume, when }, STOP).await? {
            Response::Stopped { stopped } => Ok(stopped),
            other => Err(crate::driver::unexpected(&other)),
        }
    }

    pub(super) async fn request_remove(&self, volume: VolumeId) -> Result<()> {
        done(self.request(Request::RemoveDatabase { volume }, FILES).await?)
    }

    pub(super) async fn request_copy(
        &self,
        from: VolumeId,
        to: VolumeId,
        setup: DatabaseSetup,
    ) -> Result<()> {
        done(
            self.request(Request::CopyDatabase { from, to, setup }, FILES)
                .await?,
        )
    }

    pub(super) async fn request_observe(&self, volume: VolumeId) -> Result<Option<ObservedServer>> {
        let response = self.request(Request::ObserveDatabase { volume }, QUICK).await?;
        Ok(servers(response)?.pop())
    }

    pub(super) async fn request_list(&self) -> Result<Vec<ObservedServer>> {
        servers(self.request(Request::Databases, QUICK).await?)
    }

    pub(super) async fn request_disk(&self, volume: VolumeId) -> Result<u64> {
        match self.request(Request::DatabaseDisk { volume }, QUICK).await? {
            Response::Disk { bytes } => Ok(bytes),
            other => Err(crate::driver::unexpected(&other)),
        }
    }

    /// The end of a server's log, `bytes` at most.
    ///
    /// # Errors
    /// The runner's.
    pub async fn server_log(&self, volume: VolumeId, bytes: u64) -> Result<String> {
        match self
            .request(Request::DatabaseLog { volume, bytes }, QUICK)
            .await?
        {
            Response::Log { text } => Ok(text),
            other => Err(crate::driver::unexpected(&other)),
        }
    }
}

fn done(response: Response) -> Result<()> {
    match response {
        Response::Done => Ok(()),
        other => Err(crate::driver::unexpected(&other)),
    }
}

fn servers(response: Response) -> Result<Vec<ObservedServer>> {
    match response {
        Response::Databases { servers } => Ok(servers),
        other => Err(crate::driver::unexpected(&other)),
    }
}
