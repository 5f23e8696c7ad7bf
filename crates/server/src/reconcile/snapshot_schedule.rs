//! Scheduled snapshots: takes those that are due of branches that changed, and lets old ones expire. One process does.
//!
//! What is due and what expires is decided by [`fsa_model::snapshot_schedule`]. The snapshots themselves are taken by
//! the workers of [`super::snapshots`]: never two at once of one project, and few in all projects.

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use fsa_driver::Region;
use fsa_model::{
    ProjectId, SnapshotId,
    event::EventKind,
    snapshot::SnapshotCause,
    snapshot_schedule::{SnapshotSchedule, excess},
};
use serde_json::json;
use tokio::time::{MissedTickBehavior, timeout};

use super::Shared;
use crate::{
    core::Core,
    error::{Error, Result},
    projects::snapshots::check_room,
    store::{
        events::{self, NewEvent},
        notify::Topic,
        replicas,
        snapshot_schedules::{self as schedules, ScheduledBranch},
        snapshots::{self, NewSnapshot},
    },
};

/// Scheduled snapshots that are taken at the same time, in all projects.
const CONCURRENT: i64 = 4;
/// Branches that are looked at in one check.
const BATCH: i64 = 200;
/// Timeout of a question to the data plane: plain folders are compared file by file.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What one check did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Snapshots that were requested.
    pub requested: u64,
    /// Branches that have not changed since their newest snapshot.
    pub unchanged: u64,
    pub expired: u64,
}

/// Checks at this interval, forever.
pub(super) async fn run(shared: Arc<Shared>, every: Duration) {
    let core = &shared.core;
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let checked = async {
            match replicas::is_first(&core.store, shared.replica).await? {
                true => check(core, Utc::now()).await,
                false => Ok(Checked::default()),
            }
        };
        match checked.await {
            Ok(checked) if checked == Checked::default() => {}
            Ok(Checked {
                requested,
                unchanged,
                expired,
            }) => tracing::debug!(requested, unchanged, expired, "followed the snapshot schedules"),
            Err(error) => tracing::warn!(%error, "the snapshot schedules could not be followed"),
        }
    }
}

/// Requests the snapshots that are due at `now`, and the deletion of those that have expired.
///
/// # Errors
/// The database does not answer.
pub async fn check(core: &Core, now: DateTime<Utc>) -> Result<Checked> {
    let mut checked = Checked::default();
    let mut room = CONCURRENT - schedules::in_progress(&core.store).await?;
    let mut busy: HashSet<ProjectId> = HashSet::new();
    for branch in schedules::due(&core.store, now, BATCH).await? {
        if room <= 0 {
            break;
        }
        if busy.contains(&branch.project.id) {
            continue;
        }
        match follow(core, &branch, now).await? {
            Followed::NothingDue => {}
            Followed::Unchanged => checked.unchanged += 1,
            Followed::Requested => {
                checked.requested += 1;
                room -= 1;
                busy.insert(branch.project.id);
            }
        }
    }
    if checked.requested > 0 {
        core.hub.wake(Topic::DesiredState);
    }
    checked.expired = expire(core).await?;
    Ok(checked)
}

enum Followed {
    NothingDue,
    Unchanged,
    Requested,
}

async fn follow(core: &Core, branch: &ScheduledBranch, now: DateTime<Utc>) -> Result<Followed> {
    let region = region(core, branch);
    let schedule = match region {
        Some(region) => own_or_default(region, branch.schedule),
        None => SnapshotSchedule::OFF,
    };
    let Some(region) = region.filter(|_| schedule.is_due(branch.last, now)) else {
        // A schedule that is off is looked at again in an hour, and a daily one too.
        if schedule.is_off() {
            set_checked(core, branch, now, None).await?;
        }
        return Ok(Followed::NothingDue);
    };
    if !has_changed(region, branch).await {
        set_checked(core, branch, now, None).await?;
        return Ok(Followed::Unchanged);
    }
    match request(core, branch, now).await {
        Ok(true) => Ok(Followed::Requested),
        Ok(false) => Ok(Followed::NothingDue),
        // A limit: the next hour tries again.
        Err(error) if error.status().is_client_error() => {
            refuse(core, branch, now, &error).await?;
            Ok(Followed::NothingDue)
        }
        Err(error) => Err(error),
    }
}

fn region<'a>(core: &'a Core, branch: &ScheduledBranch) -> Option<&'a Region> {
    core.regions
        .get(&branch.project.region)
        .filter(|region| region.driver.capabilities().snapshots)
}

fn own_or_default(region: &Region, own: Option<SnapshotSchedule>) -> SnapshotSchedule {
    let shares = region.driver.capabilities().shares_snapshots;
    own.unwrap_or(SnapshotSchedule::default_of(shares))
}

/// Whether there is something to take a snapshot of that the newest snapshot does not have.
async fn has_changed(region: &Region, branch: &ScheduledBranch) -> bool {
    let sandbox = &branch.sandbox;
    let asked = async {
        match branch.newest {
            Some(newest) => region.driver.changed_since(sandbox, newest).await,
            None => Ok(region.driver.observe(sandbox).await?.volume),
        }
    };
    match timeout(TIMEOUT, asked).await {
        Ok(Ok(changed)) => changed,
        Ok(Err(error)) => {
            tracing::info!(volume = %sandbox.volume, %error, "a branch could not be compared with its newest snapshot");
            // A snapshot too many costs less than one that is missing.
            branch.newest.is_some()
        }
        Err(_) => true,
    }
}

/// Requests a snapshot. False where the project was deleted meanwhile.
async fn request(core: &Core, branch: &ScheduledBranch, now: DateTime<Utc>) -> Result<bool> {
    let mut tx = core.store.begin().await?;
    if !schedules::lock_project(&mut tx, branch.project.id).await? {
        return Ok(false);
    }
    check_room(core, &mut tx, &branch.project, branch.sandbox.volume).await?;
    let new = NewSnapshot {
        id: SnapshotId::generate(),
        sandbox: &branch.sandbox,
        name: None,
        cause: SnapshotCause::Schedule,
        idempotency_key: None,
        promoted_branch: None,
        by: None,
        queued: true,
    };
    snapshots::insert(&mut tx, new).await?;
    schedules::set_checked(&mut tx, branch.sandbox.volume, now, None).await?;
    tx.commit().await?;
    Ok(true)
}

async fn set_checked(
    core: &Core,
    branch: &ScheduledBranch,
    now: DateTime<Utc>,
    refused: Option<&str>,
) -> Result<()> {
    let mut connection = core.store.pool().acquire().await?;
    schedules::set_checked(&mut connection, branch.sandbox.volume, now, refused).await
}

/// Records why a snapshot was not taken, with an event where that is new.
async fn refuse(core: &Core, branch: &ScheduledBranch, now: DateTime<Utc>, error: &Error) -> Result<()> {
    let reason = error.message().to_owned();
    let mut tx = core.store.begin().await?;
    schedules::set_checked(&mut tx, branch.sandbox.volume, now, Some(&reason)).await?;
    if branch.refused.is_none() {
        let message = format!("No scheduled snapshot of {} is taken: {reason}", branch.branch);
        let event = NewEvent::new(&branch.project, EventKind::SnapshotFailed, message)
            .of(branch.sandbox.id)
            .with(json!({"cause": SnapshotCause::Schedule, "failure": {"message": reason}}));
        events::append(&mut tx, event).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Requests the deletion of what has expired: by branch, and then what is too much for a project.
async fn expire(core: &Core) -> Result<u64> {
    let store = &core.store;
    let mut deleted = snapshots::prune_all(store).await?;
    let taken = schedules::taken(store).await?;
    for of_project in taken.chunk_by(|one, other| one.project == other.project) {
        let mut expired = Vec::new();
        let mut kept = Vec::new();
        for of_branch in of_project {
            let Some(region) = core.regions.get(&of_branch.region) else {
                continue;
            };
            let schedule = own_or_default(region, of_branch.schedule);
            let gone = schedule.expired(&of_branch.snapshots);
            kept.extend(
                of_branch
                    .snapshots
                    .iter()
                    .copied()
                    .filter(|(id, _)| !gone.contains(id)),
            );
            expired.extend(gone);
        }
        expired.extend(excess(&kept));
        if !expired.is_empty() {
            deleted += schedules::expire(store, &expired).await?;
        }
    }
    if deleted > 0 {
        core.hub.wake(Topic::DesiredState);
    }
    Ok(deleted)
}
