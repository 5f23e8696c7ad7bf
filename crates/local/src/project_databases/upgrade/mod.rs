//! Upgrade of a data folder whose projects share one cluster: moves each database into the server of
//! its volume, by dump and restore.
//!
//! A move that is interrupted starts again into an emptied folder; one that is done has a mark, so
//! it is never repeated. Connections of a project wait for its own move, which they start. When all
//! are moved, the cluster is stopped and its folder renamed; nothing of it is deleted.

mod old_cluster;
pub(super) mod transfer;

use std::{collections::BTreeMap, time::Duration};

use fsa_driver::{DriverError, Result};
use fsa_model::{FailureKind, Size, VolumeId};
use old_cluster::OldCluster;
pub use old_cluster::OldDatabase;
use parking_lot::Mutex;

use super::{ProjectDatabases, setup};
use crate::{
    postgres::Settings,
    protocol::{DatabaseSetup, StopWhen},
};

/// Between two attempts of what failed.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// A shared cluster with databases that are not moved yet.
pub struct Upgrade {
    old: OldCluster,
    pending: Mutex<BTreeMap<VolumeId, OldDatabase>>,
}

impl ProjectDatabases {
    /// Starts the shared cluster of an earlier release, if this data folder has one. Must be called
    /// before anything starts a server.
    ///
    /// # Errors
    /// It cannot be started or read.
    pub async fn prepare_upgrade(&self, settings: &Settings) -> Result<()> {
        let Some(old) = OldCluster::open(settings).await? else {
            return Ok(());
        };
        let pending: BTreeMap<_, _> = old
            .list()
            .await?
            .into_iter()
            .map(|database| (database.volume, database))
            .collect();
        tracing::info!(
            count = pending.len(),
            folder = %old.folder().display(),
            "moving the projects' databases from the shared cluster into a server for each project"
        );
        let _ = self.upgrade.set(Upgrade {
            old,
            pending: Mutex::new(pending),
        });
        Ok(())
    }

    /// The database of a volume that is not moved yet.
    pub(super) fn pending_move(&self, volume: VolumeId) -> Option<OldDatabase> {
        self.upgrade.get()?.pending.lock().get(&volume).cloned()
    }

    /// The databases that are not moved yet.
    pub(super) fn pending_moves(&self) -> Vec<OldDatabase> {
        self.upgrade
            .get()
            .map(|upgrade| upgrade.pending.lock().values().cloned().collect())
            .unwrap_or_default()
    }

    /// Moves all databases, and then puts the shared cluster aside. Returns when that is done.
    pub async fn upgrade_all(&self) {
        let Some(upgrade) = self.upgrade.get() else {
            return;
        };
        let mut pause = RETRY_PAUSE.0;
        loop {
            let pending = self.pending_moves();
            let mut failed = false;
            for database in &pending {
                let volume = database.volume;
                let lock = self.changes.lock(&volume).await;
                let moved = match self.move_pending(volume).await {
                    // Nobody waits for it.
                    Ok(true) => self.request_stop(volume, StopWhen::Unused).await.map(drop),
                    other => other.map(drop),
                };
                drop(lock);
                if let Err(error) = moved {
                    failed = true;
                    tracing::error!(%volume, database = database.role, %error, cause = ?error.cause, "a database could not be moved; it is tried again");
                }
            }
            if !failed && self.pending_moves().is_empty() {
                match upgrade.old.put_aside().await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(%error, "the shared cluster could not be put aside; it is tried again")
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE.1);
        }
    }

    /// Moves the database of a volume where that is pending, and returns whether it was. Its server
    /// runs afterwards, closed to clients. The caller holds the volume's mutex.
    pub(super) async fn move_pending(&self, volume: VolumeId) -> Result<bool> {
        let Some((upgrade, database)) = self.upgrade.get().zip(self.pending_move(volume)) else {
            return Ok(false);
        };
        // A second server on this folder, during a restart, has the same list.
        let _lock = upgrade.old.lock().await?;
        if upgrade.old.is_moved(&database) {
            upgrade.pending.lock().remove(&volume);
            return Ok(false);
        }
        let begun = tokio::time::Instant::now();
        upgrade.old.close(&database).await?;
        // What an interrupted move left.
        self.request_remove(volume).await?;
        let setup = DatabaseSetup {
            role: database.role.clone(),
            verifier: database.verifier.clone(),
            // The project's own follow with the next reconciliation.
            resources: Size::default().resources(),
        };
        self.request_ensure(volume, setup.clone()).await?;
        self.request_start(volume).await?;
        let unmade = |error: sqlx::Error| {
            DriverError::new(
                FailureKind::Transient,
                format!("the database {} could not be moved", database.role),
            )
            .because(error)
        };
        setup::apply(&self.sockets, volume, &setup)
            .await
            .map_err(unmade)?;
        self.transfer(&upgrade.old, &database).await?;
        upgrade.old.mark_moved(&database)?;
        upgrade.pending.lock().remove(&volume);
        tracing::info!(%volume, database = database.role, took = ?begun.elapsed(), "moved a database into a separate server");
        Ok(true)
    }

    /// Forgets a database of the shared cluster whose project is deleted.
    pub(super) async fn drop_pending(&self, volume: VolumeId) -> Result<()> {
        let Some((upgrade, database)) = self.upgrade.get().zip(self.pending_move(volume)) else {
            return Ok(());
        };
        upgrade.old.drop(&database).await?;
        upgrade.pending.lock().remove(&volume);
        Ok(())
    }
}
