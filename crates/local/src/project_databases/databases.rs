//! [`Databases`] of this machine: each operation is a few requests to the runner. Only a copy and a
//! release stop a server, and none but a move starts one.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use fsa_driver::{
    DatabaseSnapshot, Databases, DriverError, ObservedDatabase, Result, ServerCounts, backup::DatabaseDumps,
};
use fsa_model::{
    DatabaseSpec, FailureKind, ResourceName, VolumeId,
    database_diff::DatabaseChanges,
    spec::{Credentials, role_of},
};

use super::{ProjectDatabases, setup};
use crate::{
    protocol::{ObservedServer, StopWhen},
    runner::database::COMPARED,
};

/// Bytes of a server's log that are shown.
const LOG_SHOWN: u64 = 256 << 10;

#[async_trait]
impl Databases for ProjectDatabases {
    fn provider(&self) -> &'static str {
        "local"
    }

    async fn observe(&self, database: &DatabaseSpec) -> Result<ObservedDatabase> {
        self.remember(database);
        if self.pending_move(database.volume).is_some() {
            return Ok(ObservedDatabase::Ready);
        }
        Ok(match self.request_observe(database.volume).await? {
            None => ObservedDatabase::Absent,
            Some(server) if server.lost => ObservedDatabase::Absent,
            Some(server) if self.is_current(database, &server.setup) => ObservedDatabase::Ready,
            Some(_) => ObservedDatabase::Partial,
        })
    }

    async fn ensure(&self, database: &DatabaseSpec) -> Result<()> {
        self.remember(database);
        let _lock = self.changes.lock(&database.volume).await;
        if self.pending_move(database.volume).is_some() {
            return Ok(());
        }
        let recorded = self.request_observe(database.volume).await?;
        if recorded
            .as_ref()
            .is_some_and(|server| !server.lost && self.is_current(database, &server.setup))
        {
            return Ok(());
        }
        let setup = self.setup_of(database, recorded.as_ref());
        self.request_ensure(database.volume, setup.clone()).await?;
        match recorded {
            // The password of a server that runs changes at once, its limits with its next start.
            Some(server) if server.running => self.set_up(&ObservedServer { setup, ..server }).await,
            _ => Ok(()),
        }
    }

    async fn credentials(&self, database: &DatabaseSpec) -> Result<Credentials> {
        Ok(Credentials {
            host: "127.0.0.1".to_owned(),
            port: 5432,
            user: database.role(),
            password: database.password.clone(),
            database: database.role(),
        })
    }

    fn predictable_credentials(&self) -> bool {
        true
    }

    fn are_on_volumes(&self) -> bool {
        // Those of an earlier release are, once they are moved.
        self.pending_moves().is_empty()
    }

    async fn drop(&self, database: &DatabaseSpec) -> Result<()> {
        let _lock = self.changes.lock(&database.volume).await;
        self.drop_pending(database.volume).await?;
        self.request_remove(database.volume).await?;
        self.verified.lock().remove(&database.role());
        self.volumes.lock().remove(&database.role());
        Ok(())
    }

    async fn branch(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()> {
        self.remember(to);
        // `to` is new, so no other operation waits for it while it holds `from`.
        let _source = self.changes.lock(&from.volume).await;
        let _target = self.changes.lock(&to.volume).await;
        self.move_pending(from.volume).await?;
        let present = self.request_observe(to.volume).await?;
        if present.as_ref().is_some_and(|server| server.major.is_some()) {
            return Ok(());
        }
        let setup = self.setup_of(to, present.as_ref());
        self.request_copy(from.volume, to.volume, setup).await
    }

    async fn checkpoint(&self, database: &DatabaseSpec) -> Result<()> {
        if self.pending_move(database.volume).is_some() {
            // A snapshot of the volume has no other database.
            self.start_server(database.volume).await?;
        }
        let server = self.request_observe(database.volume).await?;
        if !server.is_some_and(|server| server.running && server.open) {
            return Ok(());
        }
        setup::checkpoint(&self.sockets, database.volume)
            .await
            .map_err(|error| {
                DriverError::new(
                    FailureKind::Transient,
                    "the project's database did not write a checkpoint; its log has the reason",
                )
                .because(error)
            })
    }

    async fn release(&self, database: &DatabaseSpec) -> Result<()> {
        let _lock = self.changes.lock(&database.volume).await;
        self.move_pending(database.volume).await?;
        self.request_stop(database.volume, StopWhen::Always)
            .await
            .map(drop)
    }

    fn dumps(&self) -> Option<&dyn DatabaseDumps> {
        Some(self)
    }

    async fn compare(&self, before: DatabaseSnapshot, after: DatabaseSnapshot) -> Result<DatabaseChanges> {
        self.compare_snapshots(before, after).await
    }

    async fn disk(&self, resource: &ResourceName) -> Result<Option<u64>> {
        match self.volume_of(&role_of(resource)).await? {
            Some(volume) => {
                let known = self.request_observe(volume).await?.is_some();
                match known {
                    true => self.request_disk(volume).await.map(Some),
                    false => Ok(None),
                }
            }
            None => Ok(None),
        }
    }

    async fn log(&self, volume: VolumeId) -> Result<Option<String>> {
        match self.request_observe(volume).await? {
            Some(_) => self.server_log(volume, LOG_SHOWN).await.map(Some),
            None => Ok(None),
        }
    }

    fn server_counts(&self) -> Option<ServerCounts> {
        Some(ServerCounts {
            running: self.running.load(Ordering::Relaxed),
            starts: self.starts.load(Ordering::Relaxed),
            stops: self.stops.load(Ordering::Relaxed),
        })
    }

    async fn inventory(&self) -> Result<Vec<String>> {
        let mut roles: Vec<String> = self
            .request_list()
            .await?
            .into_iter()
            .map(|server| server.setup.role)
            .filter(|role| role != COMPARED)
            .chain(self.pending_moves().into_iter().map(|database| database.role))
            .collect();
        roles.sort();
        roles.dedup();
        Ok(roles)
    }
}
