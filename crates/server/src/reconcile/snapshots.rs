//! Snapshot workers: take and delete the snapshots that rows request, each under a lease of its row, and measure them.

use std::{sync::Arc, time::Duration};

use fsa_driver::Region;
use fsa_model::{
    Failure, FailureKind,
    event::EventKind,
    snapshot::{SnapshotContent, SnapshotState},
};
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use super::{Shared, backoff, spec};
use crate::store::{
    branches::BranchRow,
    databases,
    events::NewEvent,
    lease::{self, Renewal},
    notify::Topic,
    projects::ProjectRow,
    replicas,
    snapshot_leases::{self as snapshots, ClaimedSnapshot, DueMeasurement},
    snapshots::SnapshotRow,
};

/// Snapshots that one process works on at a time.
const CONCURRENT: usize = 8;
/// The longest time between two checks for due work, because any wake-up may be lost.
const MAX_SLEEP: Duration = Duration::from_secs(30);
/// Failed attempts after which a snapshot is not taken: its content would be of a much later moment.
const ATTEMPTS: i32 = 3;
/// Timeout of a checkpoint. Without one, the database of the snapshot starts more slowly.
const CHECKPOINT: Duration = Duration::from_secs(30);
/// Timeout of a snapshot or its deletion: plain folders are copied and removed file by file.
const WORK: Duration = Duration::from_secs(1800);

/// Time between two checks for snapshots to be measured, and how many are measured in one.
const MEASURE_INTERVAL: Duration = Duration::from_secs(30);
const MEASURED_AT_ONCE: i64 = 20;
/// Timeout of one measurement.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(120);

/// Works on due snapshots forever.
pub async fn run(shared: Arc<Shared>) {
    let core = &shared.core;
    let mut requests = core.hub.subscribe(Topic::DesiredState);
    let mut tasks = JoinSet::new();
    if shared.options.alone
        && let Err(error) = snapshots::release_all_leases(&core.store).await
    {
        tracing::warn!(%error, "the snapshots of the last process wait until its leases expire");
    }
    loop {
        let free = CONCURRENT.saturating_sub(tasks.len());
        let claimed = match free {
            0 => Ok(Vec::new()),
            free => snapshots::claim(&core.store, free as i64, shared.options.lease).await,
        };
        match claimed {
            Ok(claimed) => {
                for claimed in claimed {
                    let shared = Arc::clone(&shared);
                    tasks.spawn(async move { work(&shared, &claimed).await });
                }
            }
            Err(error) => tracing::warn!(%error, "snapshots could not be claimed"),
        }
        let sleep = match snapshots::next_due(&core.store).await {
            Ok(due) => due
                .unwrap_or(MAX_SLEEP)
                .clamp(Duration::from_millis(50), MAX_SLEEP),
            Err(_) => lease::STORE_RETRY,
        };
        tokio::select! {
            () = requests.changed() => {}
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(error) = done {
                    tracing::error!(%error, "the work on a snapshot panicked; it is retried when its lease expires");
                }
            }
            () = tokio::time::sleep(sleep), if tasks.len() < CONCURRENT => {}
        }
    }
}

async fn work(shared: &Shared, claimed: &ClaimedSnapshot) {
    let id = claimed.row.snapshot.id;
    tokio::select! {
        biased;
        () = keep_lease(shared, claimed) => {
            tracing::warn!(snapshot = %id, "lease of a snapshot lost; another replica takes over");
        }
        written = attempt(shared, claimed) => {
            if let Err(error) = written {
                // The lease expires, and the work is repeated; it is idempotent.
                tracing::warn!(snapshot = %id, %error, "the state of a snapshot was not stored");
            }
        }
    }
}

async fn attempt(shared: &Shared, claimed: &ClaimedSnapshot) -> Result<(), sqlx::Error> {
    let row = &claimed.row;
    let deletes = row.snapshot.state == SnapshotState::Deleting;
    let done = match region(shared, &claimed.project) {
        Err(failure) => Err(failure),
        Ok(region) if deletes => {
            let deleted = region.driver.delete_snapshot(row.sandbox.volume, row.snapshot.id);
            within_timeout(deleted).await
        }
        Ok(region) => take(shared, region, &claimed.project, &claimed.branch, row)
            .await
            .map(drop),
    };
    match done {
        Ok(()) if deletes => {
            let message = format!("The snapshot {} was deleted.", row.title());
            let event = event(&claimed.project, row, EventKind::SnapshotDeleted, message);
            snapshots::finish_deletion(&shared.core.store, claimed, event).await
        }
        Ok(()) => Ok(()),
        Err(failure) => {
            tracing::warn!(snapshot = %row.snapshot.id, %failure, deletes, "an attempt on a snapshot failed");
            let attempts = row.attempts.saturating_add(1);
            let gives_up = !deletes && (failure.kind != FailureKind::Transient || attempts >= ATTEMPTS);
            let next = (!gives_up).then(|| backoff::delay(attempts));
            let message = format!("The snapshot {} could not be taken: {failure}", row.title());
            let mut event = event(&claimed.project, row, EventKind::SnapshotFailed, message);
            event.data["failure"] = json!(failure);
            snapshots::record_failure(&shared.core.store, claimed, &failure, next, event).await
        }
    }
}

/// Takes a snapshot, unless the data plane has it already, and records it.
///
/// # Errors
/// Why it could not be taken.
pub async fn take(
    shared: &Shared,
    region: &Region,
    project: &ProjectRow,
    branch: &BranchRow,
    row: &SnapshotRow,
) -> Result<SnapshotContent, Failure> {
    let unavailable =
        |error: sqlx::Error| Failure::new(FailureKind::Transient, format!("The control database: {error}"));
    let store = &shared.core.store;
    let database = databases::of(store, branch)
        .await
        .map_err(|error| Failure::new(FailureKind::Transient, error.to_string()))?;
    if let Some(database) = database {
        let database = spec::database(&shared.core.key_ring, project, &database)?;
        match timeout(CHECKPOINT, region.databases.checkpoint(&database)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(project = %project.id, %error, "no checkpoint before a snapshot")
            }
            Err(_) => tracing::warn!(project = %project.id, "a checkpoint before a snapshot takes too long"),
        }
    }
    let taken = region.driver.create_snapshot(&row.sandbox, row.snapshot.id);
    let content = within_timeout(taken).await?;
    let message = match &row.snapshot.name {
        Some(name) => format!("The snapshot {name} was taken."),
        None => "A snapshot was taken.".to_owned(),
    };
    let event = event(project, row, EventKind::SnapshotCreated, message);
    snapshots::finish_creation(store, row.snapshot.id, &content, event)
        .await
        .map_err(unavailable)?;
    Ok(content)
}

fn region<'a>(shared: &'a Shared, project: &ProjectRow) -> Result<&'a Region, Failure> {
    let name = &project.region;
    shared.core.regions.get(name).ok_or_else(|| {
        Failure::new(
            FailureKind::Transient,
            format!("The region {name:?} is not configured on this server; add it to its settings."),
        )
    })
}

fn event(project: &ProjectRow, row: &SnapshotRow, kind: EventKind, message: String) -> NewEvent {
    let snapshot = &row.snapshot;
    NewEvent::new(project, kind, message)
        .of(row.sandbox.id)
        .with(json!({
        "snapshot": snapshot.id, "name": snapshot.name, "cause": snapshot.cause}))
}

async fn within_timeout<T>(work: impl Future<Output = fsa_driver::Result<T>>) -> Result<T, Failure> {
    match timeout(WORK, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            tracing::warn!(%error, cause = ?error.cause, "a snapshot failed in the data plane");
            Err(error.failure)
        }
        Err(_) => Err(Failure::new(
            FailureKind::Transient,
            format!("The data plane did not answer within {} seconds.", WORK.as_secs()),
        )),
    }
}

/// Measures snapshots forever. One process does, one snapshot after another: the data plane reads the extents of each
/// of its files.
pub async fn measure(shared: Arc<Shared>) {
    let store = &shared.core.store;
    loop {
        let measured = async {
            if !replicas::is_first(store, shared.replica).await? {
                return Ok(());
            }
            for due in snapshots::due_measurements(store, MEASURED_AT_ONCE).await? {
                let bytes = measured_bytes(&shared, &due).await;
                snapshots::set_bytes(store, due.snapshot, bytes).await?;
            }
            Ok::<_, sqlx::Error>(())
        };
        if let Err(error) = measured.await {
            tracing::warn!(%error, "snapshots could not be measured");
        }
        tokio::time::sleep(MEASURE_INTERVAL).await;
    }
}

async fn measured_bytes(shared: &Shared, due: &DueMeasurement) -> Option<u64> {
    let region = shared.core.regions.get(&due.region)?;
    let bytes = region.driver.snapshot_bytes(due.volume, due.snapshot);
    match timeout(MEASURE_TIMEOUT, bytes).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            tracing::info!(snapshot = %due.snapshot, %error, "a snapshot cannot be measured now");
            None
        }
        Err(_) => None,
    }
}

/// Renews the lease until it is lost.
async fn keep_lease(shared: &Shared, claimed: &ClaimedSnapshot) {
    let duration = shared.options.lease;
    lease::keep(duration, async || {
        let id = claimed.row.snapshot.id;
        let held = snapshots::renew(&shared.core.store, id, claimed.lease, duration).await?;
        Ok::<_, sqlx::Error>(if held { Renewal::Renewed } else { Renewal::Lost })
    })
    .await;
}
