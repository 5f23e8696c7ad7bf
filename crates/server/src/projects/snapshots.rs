//! Snapshots of projects: create, list, show, delete, restore, compare.
//!
//! A request writes a row; a worker takes or deletes the snapshot ([`crate::reconcile`]). A restore is a part of the
//! desired state of the sandbox: its worker carries it out before anything else.

use std::time::Duration;

use fsa_driver::Region;
use fsa_model::{
    DesiredState, Failure, FailureKind, SnapshotId, VolumeId,
    event::EventKind,
    limits::Adds,
    snapshot::{CreateSnapshot, Snapshot, SnapshotCause, SnapshotDiff, SnapshotState},
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    auth::{
        Caller,
        permission::{Permission, Read, Write},
    },
    core::Core,
    error::{Error, Result},
    store::{
        audit,
        branches::{self, AuthorizedBranch, BranchReference},
        events::{self, NewEvent},
        notify::Topic,
        projects::{self, Overview, ProjectRow},
        quotas, sandboxes,
        snapshots::{self, NewSnapshot, SnapshotRow},
    },
};

/// Most snapshots of one project. They share its disk limit, where the storage counts them.
pub const MAX_SNAPSHOTS: i64 = 200;
/// Most characters of a name.
const MAX_NAME: usize = 100;
/// Most characters of an idempotency key.
const MAX_KEY: usize = 200;
/// How long a comparison may take.
const DIFF_TIMEOUT: Duration = Duration::from_secs(60);

/// Takes a snapshot, and waits for it until `wait` has passed; then it is still being created. A request that repeats
/// an idempotency key gets the snapshot of the first one.
///
/// # Errors
/// Not found; 422 with the field and its rule; 409 where the region has no snapshots, the project has nothing to take
/// one of, or too many; the reason why it could not be taken.
pub async fn create(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    request: CreateSnapshot,
    idempotency_key: Option<&str>,
    wait: Duration,
) -> Result<Snapshot> {
    let found = branches::find::<Write>(&core.store, caller, reference).await?;
    region_with_snapshots(core, &found)?;
    if let Some(name) = &request.name {
        check_name(name)?;
    }
    if let Some(key) = idempotency_key {
        check_key(key)?;
    }
    let mut subscription = core.hub.subscribe(Topic::Project(found.id));
    let mut tx = core.store.begin().await?;
    let project = branches::lock(&mut tx, &found).await?;
    let earlier = match idempotency_key {
        Some(key) => snapshots::by_key(&mut tx, project.branch().volume, key).await?,
        None => None,
    };
    let id = match earlier {
        Some(earlier) if earlier.snapshot.name == request.name => earlier.snapshot.id,
        Some(_) => {
            return Err(Error::invalid(
                "Idempotency-Key",
                "an earlier request with this key named another snapshot; use a new key for each snapshot",
            )
            .with_project(project.id));
        }
        None => {
            let id = insert(core, &mut tx, &project, &request, idempotency_key).await?;
            audit::record(&mut tx, caller, "snapshot.create", object(&project, id)).await?;
            tx.commit().await?;
            core.hub.wake(Topic::DesiredState);
            id
        }
    };
    let deadline = Instant::now() + wait;
    loop {
        let row = by_id(core, &project, id).await?;
        match (&row.snapshot.state, &row.snapshot.error) {
            (SnapshotState::Failed, Some(failure)) => {
                return Err(failed(failure.clone()).with_project(project.id));
            }
            (SnapshotState::Creating, _) => {}
            _ => return Ok(row.snapshot),
        }
        tokio::select! {
            () = subscription.changed() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(row.snapshot),
            () = core.shutdown.cancelled() => return Ok(row.snapshot),
        }
    }
}

async fn insert(
    core: &Core,
    tx: &mut sqlx::PgConnection,
    project: &AuthorizedBranch<Write>,
    request: &CreateSnapshot,
    idempotency_key: Option<&str>,
) -> Result<SnapshotId> {
    let sandbox = sandboxes::of_branch_in(tx, project.branch().volume)
        .await?
        .ok_or_else(|| {
            Error::conflict(
                "There is nothing to take a snapshot of: the project has no sandbox; start it first.",
            )
            .with_project(project.id)
        })?;
    if let Some(name) = &request.name
        && snapshots::has_name(tx, project.branch().volume, name).await?
    {
        return Err(Error::conflict(format!(
            "This branch has a snapshot named {name}; choose another name, or delete that snapshot first."
        ))
        .with_project(project.id));
    }
    check_room(core, tx, project, project.branch().volume).await?;
    let id = SnapshotId::generate();
    let new = NewSnapshot {
        id,
        sandbox: &sandbox.reference(),
        name: request.name.as_deref(),
        cause: SnapshotCause::Manual,
        idempotency_key,
        promoted_branch: None,
        by: Some(project.caller().user()),
        queued: true,
    };
    snapshots::insert(tx, new).await?;
    Ok(id)
}

/// Makes room for one more snapshot.
///
/// # Errors
/// 409 where the project has too many; 403 where its owner's disk is full.
pub async fn check_room(
    core: &Core,
    tx: &mut sqlx::PgConnection,
    project: &ProjectRow,
    branch: VolumeId,
) -> Result<()> {
    snapshots::prune(tx, branch).await?;
    if snapshots::count(tx, project.id).await? >= MAX_SNAPSHOTS {
        return Err(Error::conflict(format!(
            "This project has {MAX_SNAPSHOTS} snapshots, which is the limit; delete some first."
        ))
        .with_project(project.id));
    }
    let adds = Adds {
        projects: false,
        running: false,
        disk: true,
    };
    quotas::check(tx, &core.settings.limits, project.owner, adds)
        .await
        .map_err(|error| error.with_project(project.id))
}

/// A page of the branch's snapshots, the newest first.
///
/// # Errors
/// Not found.
pub async fn list(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    cursor: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Snapshot>> {
    let project = branches::find::<Read>(&core.store, caller, reference).await?;
    snapshots::list(&core.store, project.branch().volume, cursor, limit).await
}

/// A snapshot by its id or name.
///
/// # Errors
/// Not found.
pub async fn show(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    snapshot: &str,
) -> Result<Snapshot> {
    let project = branches::find::<Read>(&core.store, caller, reference).await?;
    Ok(find(core, &project, snapshot).await?.snapshot)
}

/// Requests the deletion of a snapshot.
///
/// # Errors
/// Not found; 409 while it is being restored or copied.
pub async fn delete(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    snapshot: &str,
) -> Result<Snapshot> {
    let found = branches::find::<Write>(&core.store, caller, reference).await?;
    let mut tx = core.store.begin().await?;
    let project = branches::lock(&mut tx, &found).await?;
    let row = snapshots::find(&mut tx, project.branch().volume, snapshot).await?;
    let id = row.snapshot.id;
    if snapshots::is_needed(&mut tx, project.id, id).await? {
        return Err(Error::conflict(
            "A restore or the copy of a branch needs this snapshot and is not done yet; delete it afterwards.",
        )
        .with_project(project.id));
    }
    snapshots::delete(&mut tx, id).await?;
    audit::record(&mut tx, caller, "snapshot.delete", object(&project, id)).await?;
    tx.commit().await?;
    core.hub.wake(Topic::DesiredState);
    Ok(Snapshot {
        state: SnapshotState::Deleting,
        ..row.snapshot
    })
}

/// Requests that the project's files and database become those of a snapshot. The present ones are kept as a snapshot
/// first. A running sandbox is stopped for it and started again.
///
/// # Errors
/// Not found; 409 where the snapshot is not ready, another restore is in progress, or the project has no sandbox.
pub async fn restore(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    snapshot: &str,
) -> Result<Overview> {
    let found = branches::find::<Write>(&core.store, caller, reference).await?;
    region_with_snapshots(core, &found)?;
    let mut tx = core.store.begin().await?;
    let project = branches::lock(&mut tx, &found).await?;
    let conflict = |why: &'static str| Error::conflict(why).with_project(project.id);
    let row = snapshots::find(&mut tx, project.branch().volume, snapshot).await?;
    if !row.is_ready() {
        return Err(conflict("This snapshot is not ready, so it cannot be restored."));
    }
    let sandbox = sandboxes::of_branch_in(&mut tx, project.branch().volume)
        .await?
        .filter(|sandbox| sandbox.desired_state != DesiredState::Terminated)
        .ok_or_else(|| {
            conflict("This project has no sandbox: it was terminated. Start the project, and then restore.")
        })?;
    match sandbox.restore {
        Some(restore) if restore.snapshot == row.snapshot.id => {}
        Some(_) => {
            return Err(conflict(
                "Another snapshot is being restored; wait until that is done.",
            ));
        }
        None => {
            check_room(core, &mut tx, &project, project.branch().volume).await?;
            let before = SnapshotId::generate();
            let new = NewSnapshot {
                id: before,
                sandbox: &sandbox.reference(),
                name: None,
                cause: SnapshotCause::BeforeRestore,
                idempotency_key: None,
                promoted_branch: None,
                by: Some(caller.user()),
                queued: false,
            };
            snapshots::insert(&mut tx, new).await?;
            sandboxes::set_restore(&mut tx, sandbox.id, row.snapshot.id, before).await?;
            audit::record(
                &mut tx,
                caller,
                "snapshot.restore",
                object(&project, row.snapshot.id),
            )
            .await?;
            let message = format!("Asked to restore the snapshot {}.", row.title());
            let event = NewEvent::new(&project, EventKind::LifecycleRequested, message)
                .of(sandbox.id)
                .with(serde_json::json!({
                    "action": "restore", "snapshot": row.snapshot.id, "by": caller.login()}));
            events::append(&mut tx, event).await?;
            tx.commit().await?;
            core.hub.wake(Topic::DesiredState);
        }
    }
    projects::overview(&core.store, caller, &BranchReference::of(project.branch())).await
}

/// What changed after a snapshot: up to the snapshot `to`, or up to now.
///
/// # Errors
/// Not found; 409 where one of them is not ready.
pub async fn diff(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    from: &str,
    to: Option<&str>,
) -> Result<SnapshotDiff> {
    let project = branches::find::<Read>(&core.store, caller, reference).await?;
    let region = region_with_snapshots(core, &project)?;
    let from = find(core, &project, from).await?;
    let to = match to {
        Some(to) => Some(find(core, &project, to).await?),
        None => None,
    };
    if !from.is_ready() || to.as_ref().is_some_and(|to| !to.is_ready()) {
        return Err(
            Error::conflict("This snapshot is not ready, so it cannot be compared.").with_project(project.id),
        );
    }
    let sandbox = match sandboxes::of_branch(&core.store, project.branch().volume).await? {
        Some(sandbox) => sandbox.reference(),
        None => from.sandbox.clone(),
    };
    let to = to.map(|to| to.snapshot.id);
    let compared = region.driver.diff_snapshot(&sandbox, from.snapshot.id, to);
    let files = tokio::time::timeout(DIFF_TIMEOUT, compared)
        .await
        .map_err(|_| Error::unavailable("The comparison takes too long; the project has too many files."))?
        .map_err(|error| Error::from(error).with_project(project.id))?;
    Ok(SnapshotDiff {
        from: from.snapshot.id,
        to,
        files,
    })
}

pub(super) async fn find<R: Permission>(
    core: &Core,
    project: &AuthorizedBranch<R>,
    snapshot: &str,
) -> Result<SnapshotRow> {
    let mut connection = core.store.pool().acquire().await?;
    snapshots::find(&mut connection, project.branch().volume, snapshot).await
}

async fn by_id(core: &Core, project: &AuthorizedBranch<Write>, id: SnapshotId) -> Result<SnapshotRow> {
    let mut connection = core.store.pool().acquire().await?;
    let row = snapshots::by_id(&mut connection, project.branch().volume, id).await?;
    row.ok_or_else(|| Error::not_found("snapshot").with_project(project.id))
}

pub(super) fn region_with_snapshots<'a>(core: &'a Core, project: &ProjectRow) -> Result<&'a Region> {
    let name = &project.region;
    let region = core.regions.get(name).ok_or_else(|| {
        Error::unavailable(format!("The region {name} is not configured on this server."))
            .with_project(project.id)
    })?;
    if region.driver.capabilities().snapshots {
        return Ok(region);
    }
    let driver = region.driver.capabilities().driver;
    Err(Error::conflict(format!(
        "The region {name} has no snapshots: its driver ({driver}) cannot take them. Projects in a region of the local \
         driver have them."
    ))
    .with_project(project.id))
}

fn check_name(name: &str) -> Result<()> {
    let rule =
        format!("it has from 1 to {MAX_NAME} characters, no control characters, and not the form of an id");
    let valid = (1..=MAX_NAME).contains(&name.chars().count())
        && name.trim() == name
        && !name.chars().any(char::is_control)
        && Uuid::parse_str(name).is_err();
    if valid {
        Ok(())
    } else {
        Err(Error::invalid("name", rule))
    }
}

pub(super) fn check_key(key: &str) -> Result<()> {
    let valid = (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if valid {
        return Ok(());
    }
    let rule = format!("it has from 1 to {MAX_KEY} visible ASCII characters");
    Err(Error::invalid("Idempotency-Key", rule))
}

fn failed(failure: Failure) -> Error {
    if failure.kind == FailureKind::Input {
        return Error::conflict(failure.message);
    }
    fsa_driver::DriverError::from(failure).into()
}

fn object(project: &ProjectRow, snapshot: SnapshotId) -> String {
    format!("snapshot {snapshot} of project {} ({})", project.id, project.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_checked() {
        for name in ["before the upgrade", "v1.2/3", "ü"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let id = SnapshotId::generate().to_string();
        for name in ["", " ", "a ", "a\nb", &"x".repeat(101), &id] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_key("a-1").is_ok());
        for key in ["", "a b", "ü", &"x".repeat(201)] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
    }
}
