//! Restore of a snapshot: stops the sandbox, ends the use of the database's files, keeps the present state as a snapshot,
//! and replaces the volume. The promotion of a branch is a restore of main from a snapshot of the branch, which is taken
//! first, while both run.
//!
//! The row says that a restore was requested until all of it is done, and every step may be repeated: a worker that
//! takes over after a crash begins again and repeats no harm. The start that follows is an ordinary attempt.

use std::time::Duration;

use fsa_driver::Region;
use fsa_model::{DesiredState, Failure, FailureKind, event::EventKind, snapshot::SnapshotState};
use serde_json::json;
use tokio::time::timeout;

use super::{Shared, snapshots, spec};
use crate::store::{
    branches::{self, BranchRow},
    events::PendingEvent,
    leases::Claim,
    observed,
    sandboxes::Restore,
    snapshots::{self as rows, SnapshotRow},
};

/// Timeout of a stop, and of the end of a database's server.
const STOP: Duration = Duration::from_secs(120);
/// Timeout of the replacement of the volume: plain folders are copied.
const REPLACE: Duration = Duration::from_secs(1800);

/// Why a restore is not done.
#[derive(Debug)]
pub enum Interrupted {
    /// It is attempted again.
    Failed(Failure),
    Store(sqlx::Error),
}

impl From<sqlx::Error> for Interrupted {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error)
    }
}

/// Carries out the requested restore, or gives it up where it is impossible; then the row has none.
///
/// # Errors
/// A step failed; or the database does not answer.
pub async fn run(
    shared: &Shared,
    region: &Region,
    claim: &Claim,
    restore: Restore,
) -> Result<(), Interrupted> {
    let store = &shared.core.store;
    if claim.sandbox.desired_state == DesiredState::Terminated {
        observed::finish_restore(store, claim, restore, None).await?;
        return Ok(());
    }
    let source = source(shared, claim, restore).await?;
    let promoted = source
        .as_ref()
        .map(|(_, branch)| branch)
        .filter(|branch| branch.volume != claim.branch.volume)
        .map(|branch| branch.name.clone());
    let event = match replace(shared, region, claim, restore, source).await {
        Ok(()) if let Some(branch) = &promoted => PendingEvent::new(
            EventKind::BranchPromoted,
            format!(
                "The branch {branch} was promoted to main; the state of main before is kept as a snapshot."
            ),
            json!({"name": branch, "before": restore.before}),
        ),
        Ok(()) => PendingEvent::new(
            EventKind::SnapshotRestored,
            "The snapshot was restored; the state before is kept as a snapshot.",
            json!({"snapshot": restore.snapshot, "before": restore.before}),
        ),
        // Time alone does not help: the snapshot is gone, or the pool is full. The sandbox starts with the files that it
        // has.
        Err(Interrupted::Failed(failure)) if failure.kind != FailureKind::Transient => PendingEvent::new(
            EventKind::SnapshotFailed,
            match &promoted {
                Some(branch) => format!("The branch {branch} could not be promoted: {failure}"),
                None => format!("The snapshot could not be restored: {failure}"),
            },
            json!({"snapshot": restore.snapshot, "failure": failure}),
        ),
        Err(error) => return Err(error),
    };
    observed::finish_restore(store, claim, restore, Some(event)).await?;
    Ok(())
}

async fn replace(
    shared: &Shared,
    region: &Region,
    claim: &Claim,
    restore: Restore,
    source: Option<(SnapshotRow, BranchRow)>,
) -> Result<(), Interrupted> {
    let Some((row, branch)) = source else {
        return Err(Interrupted::Failed(Failure::new(
            FailureKind::Input,
            "the snapshot was deleted",
        )));
    };
    if row.snapshot.state == SnapshotState::Creating {
        snapshots::take(shared, region, &claim.project, &branch, &row)
            .await
            .map_err(Interrupted::Failed)?;
    }
    let sandbox = claim.sandbox.reference();
    shared.followers.stop(claim.sandbox.id);
    step(STOP, "The sandbox did not stop", region.driver.stop(&sandbox)).await?;
    if let Some(claimed) = &claim.database {
        let database = spec::database(&shared.core.key_ring, &claim.project, &claimed.row)
            .map_err(Interrupted::Failed)?;
        let released = region.databases.release(&database);
        step(STOP, "The database did not stop", released).await?;
    }
    keep_present_state(shared, region, claim, restore).await?;
    let replaced = region
        .driver
        .restore_snapshot(&sandbox, row.sandbox.volume, restore.snapshot);
    step(REPLACE, "The snapshot was not restored", replaced).await
}

/// The snapshot to restore, with its branch.
async fn source(
    shared: &Shared,
    claim: &Claim,
    restore: Restore,
) -> Result<Option<(SnapshotRow, BranchRow)>, sqlx::Error> {
    let mut connection = shared.core.store.pool().acquire().await?;
    let Some(row) = rows::of_project(&mut connection, claim.project.id, restore.snapshot).await? else {
        return Ok(None);
    };
    let branch = branches::of_volume(&mut connection, row.sandbox.volume).await?;
    Ok(branch.map(|branch| (row, branch)))
}

/// Takes the snapshot of the present state, unless an earlier attempt has.
async fn keep_present_state(
    shared: &Shared,
    region: &Region,
    claim: &Claim,
    restore: Restore,
) -> Result<(), Interrupted> {
    let store = &shared.core.store;
    let row = {
        let mut connection = store.pool().acquire().await?;
        rows::by_id(&mut connection, claim.sandbox.volume, restore.before)
            .await
            .map_err(|error| Interrupted::Failed(Failure::new(FailureKind::Internal, error.to_string())))?
    };
    // It may have been deleted after an attempt that took it.
    let Some(row) = row.filter(|row| row.snapshot.state == SnapshotState::Creating) else {
        return Ok(());
    };
    let sandbox = claim.sandbox.reference();
    let observed = step(
        STOP,
        "The data plane did not answer",
        region.driver.observe(&sandbox),
    )
    .await?;
    if !observed.volume {
        // It was lost: there is no state to keep.
        return Ok(());
    }
    snapshots::take(shared, region, &claim.project, &claim.branch, &row)
        .await
        .map(drop)
        .map_err(Interrupted::Failed)
}

async fn step<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = fsa_driver::Result<T>>,
) -> Result<T, Interrupted> {
    match timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            tracing::warn!(%error, cause = ?error.cause, "a step of a restore failed");
            Err(Interrupted::Failed(error.failure))
        }
        Err(_) => Err(Interrupted::Failed(Failure::new(
            FailureKind::Transient,
            format!("{what} within {} seconds; retrying.", limit.as_secs()),
        ))),
    }
}
