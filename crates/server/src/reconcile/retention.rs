//! Retention job: deletes old events, steps of agent runs and audit entries. One process does it.
//!
//! Audit entries are exported before they are deleted: appended to a file for each month of their time, one JSON
//! object per line. A crash between the two exports some entries twice, with the same id.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::time::MissedTickBehavior;

use super::Shared;
use crate::{
    settings::Retention,
    store::{Store, audit::AuditEntry, replicas, retention},
};

/// Batches of one kind in one run. What is left is deleted by the next run.
const MAX_BATCHES: usize = 100;

/// Rows that a run deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    pub events: u64,
    pub agent_steps: u64,
    pub audit_entries: u64,
}

/// Deletes what is too old, at once and then at this interval; runs forever.
pub(super) async fn run(shared: Arc<Shared>, every: Duration) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let store = &shared.core.store;
        match replicas::is_first(store, shared.replica).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                tracing::warn!(%error, "old rows could not be deleted");
                continue;
            }
        }
        match delete_expired(store, &shared.core.settings.retention).await {
            Ok(deleted) if deleted == Deleted::default() => {}
            Ok(Deleted {
                events,
                agent_steps,
                audit_entries,
            }) => {
                tracing::info!(events, agent_steps, audit_entries, "old rows were deleted");
            }
            Err(error) => tracing::warn!(%error, "old rows could not be deleted"),
        }
    }
}

/// Why a run ended early. What it deleted until then stays deleted.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error(transparent)]
    Store(#[from] sqlx::Error),
    #[error("audit entries could not be exported to {folder}, and none was deleted: {error}")]
    Export { folder: String, error: io::Error },
}

/// Deletes what is older than these settings keep it.
///
/// # Errors
/// The database does not answer; the audit's folder cannot be written to.
pub async fn delete_expired(store: &Store, keep: &Retention) -> Result<Deleted, RetentionError> {
    let mut deleted = Deleted::default();
    if let Some(days) = keep.events_days {
        for _ in 0..MAX_BATCHES {
            match retention::delete_events(store, days).await? {
                0 => break,
                count => deleted.events += count,
            }
        }
    }
    if let Some(days) = keep.agent_steps_days {
        for _ in 0..MAX_BATCHES {
            match retention::delete_agent_steps(store, days).await? {
                0 => break,
                count => deleted.agent_steps += count,
            }
        }
    }
    if let Some(audit) = &keep.audit {
        for _ in 0..MAX_BATCHES {
            let entries = Arc::new(retention::oldest_audit_entries(store, audit.days).await?);
            if entries.is_empty() {
                break;
            }
            let (folder, exported) = (audit.folder.clone(), Arc::clone(&entries));
            tokio::task::spawn_blocking(move || export(&folder, &exported))
                .await
                .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
                .map_err(|error| RetentionError::Export {
                    folder: audit.folder.display().to_string(),
                    error,
                })?;
            deleted.audit_entries += retention::delete_audit_entries(store, &entries).await?;
        }
    }
    Ok(deleted)
}

/// Appends entries to `YYYY-MM.jsonl` of their month, and returns when they are on disk.
fn export(folder: &Path, entries: &[AuditEntry]) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};

    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let mut months: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in entries {
        let lines = months
            .entry(entry.at.format("%Y-%m.jsonl").to_string())
            .or_default();
        serde_json::to_writer(&mut *lines, entry)?;
        lines.push(b'\n');
    }
    for (name, lines) in months {
        let mut file = std::fs::File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(folder.join(name))?;
        file.write_all(&lines)?;
        file.sync_all()?;
    }
    std::fs::File::open(folder)?.sync_all()
}
