//! Backup workers: store, verify and delete the backups that rows request, each under a lease of its row.
//!
//! A backup reads a snapshot, which is taken first, and dumps the databases of a copy of the snapshot. Snapshot and copy
//! are removed when it has ended. The copy's volume has the backup's id, so a worker that takes over after a crash finds
//! it. The repository stores a backup as a whole or not at all, tagged with its id, so none is stored twice.

use std::{sync::Arc, time::Duration};

use fsa_backup::{NewBackup, Progress};
use fsa_model::{Failure, FailureKind, backup::BackupState};
use tokio::{runtime::Handle, task::JoinSet};

use super::{
    Shared, backoff,
    backup_subject::{clean_up, prepare, remove_copy, remove_snapshot, unavailable},
};
use crate::{
    backups::{Backups, source, tag},
    store::{
        backup_leases::{self as leases, ClaimedBackup, Counts, Ended},
        lease::{self, Renewal},
        notify::Topic,
    },
};

/// Backups that one process works on at a time.
const CONCURRENT: usize = 2;
/// The longest time between two checks for due work, because any wake-up may be lost.
const MAX_SLEEP: Duration = Duration::from_secs(30);
/// Failed attempts after which a backup has failed: its content would be of a much later moment.
const ATTEMPTS: i32 = 3;
/// Works on due backups forever.
pub async fn run(shared: Arc<Shared>) {
    let core = &shared.core;
    let Some(repository) = core.backups.clone() else {
        return std::future::pending().await;
    };
    let mut requests = core.hub.subscribe(Topic::DesiredState);
    let mut tasks = JoinSet::new();
    if shared.options.alone
        && let Err(error) = leases::release_all_leases(&core.store).await
    {
        tracing::warn!(%error, "the backups of the last process wait until its leases expire");
    }
    loop {
        let free = CONCURRENT.saturating_sub(tasks.len());
        let claimed = match free {
            0 => Ok(Vec::new()),
            free => leases::claim(&core.store, free as i64, shared.options.lease).await,
        };
        match claimed {
            Ok(claimed) => {
                for claimed in claimed {
                    let (shared, repository) = (Arc::clone(&shared), repository.clone());
                    tasks.spawn(async move { work(&shared, &repository, &claimed).await });
                }
            }
            Err(error) => tracing::warn!(%error, "backups could not be claimed"),
        }
        let sleep = match leases::next_due(&core.store).await {
            Ok(due) => due
                .unwrap_or(MAX_SLEEP)
                .clamp(Duration::from_millis(50), MAX_SLEEP),
            Err(_) => lease::STORE_RETRY,
        };
        tokio::select! {
            () = requests.changed() => {}
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(error) = done {
                    tracing::error!(%error, "the work on a backup panicked; it is retried when its lease expires");
                }
            }
            () = tokio::time::sleep(sleep), if tasks.len() < CONCURRENT => {}
        }
    }
}

/// Ends the work on the repository's threads when the attempt is dropped.
struct CancelOnDrop(Arc<Progress>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn work(shared: &Shared, repository: &Backups, claimed: &ClaimedBackup) {
    let id = claimed.row.backup.id;
    let progress = Arc::new(Progress::default());
    let _cancel = CancelOnDrop(Arc::clone(&progress));
    let attempt = async {
        let ended = attempt(shared, repository, claimed, &progress).await;
        if let Ended::Failed(failure) | Ended::Retry(failure, _) = &ended {
            tracing::warn!(backup = %id, %failure, "an attempt on a backup failed");
        }
        if let Err(error) = leases::finish(&shared.core.store, claimed, &ended).await {
            // The lease expires, and the work is repeated; it is idempotent.
            tracing::warn!(backup = %id, %error, "the state of a backup was not stored");
        }
    };
    tokio::select! {
        biased;
        () = keep_lease(shared, claimed, &progress) => {
            tracing::warn!(backup = %id, "lease of a backup lost; another replica takes over");
        }
        () = watch_cancellation(shared, claimed, &progress) => {}
        () = attempt => {}
    }
}

/// Passes a requested cancellation on, as soon as it is known. Never returns.
async fn watch_cancellation(shared: &Shared, claimed: &ClaimedBackup, progress: &Progress) {
    let mut requests = shared.core.hub.subscribe(Topic::DesiredState);
    loop {
        match leases::cancel_requested(&shared.core.store, claimed.row.backup.id).await {
            Ok(true) => {
                progress.cancel();
                return std::future::pending().await;
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the request to cancel a backup cannot be read"),
        }
        requests.changed().await;
    }
}

/// Renews the lease until it is lost; stores the progress, and passes a cancellation on.
async fn keep_lease(shared: &Shared, claimed: &ClaimedBackup, progress: &Progress) {
    let duration = shared.options.lease;
    lease::keep(duration, async || {
        let counts = Counts {
            files: progress.entries(),
            bytes: progress.bytes(),
            added_bytes: 0,
        };
        Ok::<_, sqlx::Error>(
            match leases::renew(&shared.core.store, claimed, duration, counts).await? {
                None => Renewal::Lost,
                Some(cancel) => {
                    if cancel {
                        progress.cancel();
                    }
                    Renewal::Renewed
                }
            },
        )
    })
    .await;
}

async fn attempt(
    shared: &Shared,
    repository: &Backups,
    claimed: &ClaimedBackup,
    progress: &Arc<Progress>,
) -> Ended {
    let row = &claimed.row;
    let done = if row.deleted {
        delete(shared, repository, claimed).await
    } else if row.backup.state == BackupState::Ready {
        verify(repository, claimed).await
    } else if row.cancel_requested {
        clean_up(shared, claimed).await.map(|()| Ended::Canceled)
    } else {
        store_and_clean_up(shared, repository, claimed, progress).await
    };
    done.unwrap_or_else(|failure| {
        let attempts = row.attempts.saturating_add(1);
        let gives_up = !row.deleted && (failure.kind != FailureKind::Transient || attempts >= ATTEMPTS);
        match gives_up {
            true => Ended::Failed(failure),
            false => Ended::Retry(failure, backoff::delay(attempts)),
        }
    })
}

async fn verify(repository: &Backups, claimed: &ClaimedBackup) -> Result<Ended, Failure> {
    let stored = claimed.row.backup.repository_snapshot.clone().unwrap_or_default();
    let problems = repository
        .run(move |repository| repository.verify(&stored))
        .await?;
    Ok(Ended::Verified(problems))
}

async fn delete(shared: &Shared, repository: &Backups, claimed: &ClaimedBackup) -> Result<Ended, Failure> {
    clean_up(shared, claimed).await?;
    let tag = tag("backup", &claimed.row.backup.id);
    repository
        .run(move |repository| {
            let stored: Vec<String> = repository
                .list()?
                .into_iter()
                .filter(|backup| backup.tags.contains(&tag))
                .map(|backup| backup.id)
                .collect();
            if stored.is_empty() {
                return Ok(());
            }
            repository.delete(&stored)?;
            repository.prune()
        })
        .await?;
    Ok(Ended::Deleted)
}

async fn store_and_clean_up(
    shared: &Shared,
    repository: &Backups,
    claimed: &ClaimedBackup,
    progress: &Arc<Progress>,
) -> Result<Ended, Failure> {
    // What a crash may have left of an earlier attempt.
    if claimed.row.attempts > 0 || claimed.row.backup.files > 0 {
        remove_copy(shared, claimed).await?;
    }
    let stored = store(shared, repository, claimed, progress).await;
    remove_copy(shared, claimed).await?;
    let retried = stored
        .as_ref()
        .is_err_and(|failure| failure.kind == FailureKind::Transient && claimed.row.attempts + 1 < ATTEMPTS);
    let canceled = stored.is_err()
        && leases::cancel_requested(&shared.core.store, claimed.row.backup.id)
            .await
            .map_err(unavailable)?;
    if !retried || canceled {
        remove_snapshot(shared, claimed).await?;
    }
    if canceled { Ok(Ended::Canceled) } else { stored }
}

/// Stores a backup, unless an earlier attempt has.
async fn store(
    shared: &Shared,
    repository: &Backups,
    claimed: &ClaimedBackup,
    progress: &Arc<Progress>,
) -> Result<Ended, Failure> {
    let row = &claimed.row;
    let id = row.backup.id;
    let own_tag = tag("backup", &id);
    let earlier = repository
        .run({
            let own_tag = own_tag.clone();
            move |repository| {
                let all = repository.list()?;
                Ok(all.into_iter().find(|backup| backup.tags.contains(&own_tag)))
            }
        })
        .await?;
    let stored = match earlier {
        Some(earlier) => earlier,
        None => {
            let (subject, manifest, dumps) = prepare(shared, repository, claimed).await?;
            let text = serde_json::to_vec_pretty(&manifest).map_err(|error| {
                Failure::new(
                    FailureKind::Internal,
                    format!("the manifest cannot be written ({error})"),
                )
            })?;
            let new = NewBackup {
                host: "fsa".into(),
                path: format!("/projects/{}/{}", manifest.project.id, manifest.branch),
                tags: vec![
                    own_tag,
                    tag("project", &manifest.project.id),
                    tag("name", &manifest.project.name),
                    tag("branch", &manifest.branch),
                ],
            };
            let archive = source::archive(&Handle::current(), &subject, dumps, text);
            let progress = Arc::clone(progress);
            repository
                .run(move |repository| repository.back_up(&new, archive, &progress))
                .await?
        }
    };
    tracing::info!(backup = %id, files = stored.files, bytes = stored.bytes, added = stored.added_bytes, "stored a backup");
    let counts = Counts {
        files: stored.files,
        bytes: stored.bytes,
        added_bytes: stored.added_bytes,
    };
    Ok(Ended::Stored(stored.id, counts))
}
