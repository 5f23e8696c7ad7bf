//! Differences that are read on request: the text of a file, and the tables of the database.

use std::time::Duration;

use fsa_driver::{DatabaseSnapshot, Region, SnapshotFile};
use fsa_model::{
    SandboxRef, SnapshotId,
    database_diff::DatabaseDiff,
    file_diff::{BYTES_MAX, FileDiff},
    snapshot::{SnapshotCause, SnapshotState},
};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    file_diff::{self, FileState},
    snapshots::{check_room, find, region_with_snapshots},
};
use crate::{
    auth::{
        Caller,
        permission::{Permission, Read, Write},
    },
    core::Core,
    error::{Error, Result},
    store::{
        branches::{self, AuthorizedBranch, BranchReference},
        databases,
        notify::Topic,
        sandboxes,
        snapshots::{self as rows, NewSnapshot, SnapshotRow},
    },
};

/// How long one file may take.
const FILE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest path of a file in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4096;
/// Comparisons of databases at the same time: each starts two servers.
static COMPARISONS: Semaphore = Semaphore::const_new(2);
/// How long one waits for the others.
const QUEUE: Duration = Duration::from_secs(20);
/// How long the snapshot of the present state may take.
const PRESENT: Duration = Duration::from_secs(120);

/// How the text of one file changed after a snapshot: up to the snapshot `to`, or up to now.
///
/// # Errors
/// Not found; 409 where a snapshot is not ready; 422 for an invalid path.
pub async fn file(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    from: &str,
    to: Option<&str>,
    path: Vec<u8>,
) -> Result<FileDiff> {
    let project = branches::find::<Read>(&core.store, caller, reference).await?;
    let region = region_with_snapshots(core, &project)?;
    if !is_valid(&path) {
        return Err(Error::invalid(
            "path",
            "it is the absolute path of a file in the sandbox, as a list of changes has it",
        ));
    }
    let (from, to) = both(core, &project, from, to).await?;
    let sandbox = match sandboxes::of_branch(&core.store, project.branch().volume).await? {
        Some(sandbox) => sandbox.reference(),
        None => from.sandbox.clone(),
    };
    let to = to.map(|to| to.snapshot.id);
    let states = async {
        let before = state(region, &sandbox, Some(from.snapshot.id), &path).await?;
        Ok::<_, Error>((before, state(region, &sandbox, to, &path).await?))
    };
    let (before, after) = tokio::time::timeout(FILE_TIMEOUT, states)
        .await
        .map_err(|_| Error::unavailable("The file takes too long to read; the machine may be overloaded."))?
        .map_err(|error| error.with_project(project.id))?;
    let shown = String::from_utf8_lossy(&path).into_owned();
    tokio::task::spawn_blocking(move || file_diff::compare(&shown, &before, &after))
        .await
        .map_err(|panicked| Error::internal("The comparison failed.").with_cause(panicked))
}

async fn state(
    region: &Region,
    sandbox: &SandboxRef,
    snapshot: Option<SnapshotId>,
    path: &[u8],
) -> Result<FileState> {
    let read = region
        .driver
        .snapshot_file(sandbox, snapshot, path, BYTES_MAX)
        .await?;
    Ok(match read {
        SnapshotFile::Absent => FileState::Absent,
        SnapshotFile::NotRegular => FileState::NotRegular,
        SnapshotFile::TooLarge => FileState::TooLarge,
        SnapshotFile::Content(content) => FileState::of(content),
    })
}

fn is_valid(path: &[u8]) -> bool {
    path.first() == Some(&b'/')
        && path.len() <= MAX_PATH
        && !path.contains(&0)
        && path
            .split(|byte| *byte == b'/')
            .skip(1)
            .all(|part| !part.is_empty() && part != b"." && part != b"..")
}

/// What changed in the database after a snapshot: up to the snapshot `to`, or up to now, of which a snapshot is taken
/// that is deleted afterwards. Both are read in copies, so the project is not disturbed.
///
/// Must run to its end, also when the client has gone: it removes what it has made.
///
/// # Errors
/// Not found; 409 where a snapshot is not ready or has no database; 503 where it takes too long, or others compare.
pub async fn database(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    from: &str,
    to: Option<&str>,
) -> Result<DatabaseDiff> {
    let project = branches::find::<Write>(&core.store, caller, reference).await?;
    let region = region_with_snapshots(core, &project)?;
    let (from, to) = both(core, &project, from, to).await?;
    check_database(&project, &from)?;
    if let Some(to) = &to {
        check_database(&project, to)?;
    } else if !databases::exists(&core.store, &project).await? {
        return Err(Error::conflict("The project has no database.").with_project(project.id));
    }
    let busy = || Error::unavailable("Other databases are being compared; try again in a minute.");
    let _permit = tokio::time::timeout(QUEUE, COMPARISONS.acquire())
        .await
        .map_err(|_| busy())?
        .map_err(|_| busy())?;
    let present = match &to {
        Some(_) => None,
        None => Some(present(core, &project, Instant::now() + PRESENT).await?),
    };
    let after = to.as_ref().or(present.as_ref()).map(of);
    let Some(after) = after else {
        return Err(Error::internal("A comparison has no second snapshot."));
    };
    let compared = region.databases.compare(of(&from), after).await;
    if let Some(present) = &present {
        let mut tx = core.store.begin().await?;
        rows::delete(&mut tx, present.snapshot.id).await?;
        tx.commit().await?;
        core.hub.wake(Topic::DesiredState);
    }
    let database = compared.map_err(|error| Error::from(error).with_project(project.id))?;
    Ok(DatabaseDiff {
        from: from.snapshot.id,
        to: to.map(|to| to.snapshot.id),
        database,
    })
}

fn of(row: &SnapshotRow) -> DatabaseSnapshot {
    DatabaseSnapshot {
        volume: row.sandbox.volume,
        snapshot: row.snapshot.id,
    }
}

fn check_database(project: &AuthorizedBranch<Write>, row: &SnapshotRow) -> Result<()> {
    if row.snapshot.database.is_some() {
        return Ok(());
    }
    Err(Error::conflict(format!("The snapshot {} has no database.", row.title())).with_project(project.id))
}

/// A snapshot of the branch as it is now, taken for the comparison.
async fn present(core: &Core, project: &AuthorizedBranch<Write>, deadline: Instant) -> Result<SnapshotRow> {
    let mut subscription = core.hub.subscribe(Topic::Project(project.id));
    let id = SnapshotId::generate();
    {
        let mut tx = core.store.begin().await?;
        let project = branches::lock(&mut tx, project).await?;
        let volume = project.branch().volume;
        let sandbox = sandboxes::of_branch_in(&mut tx, volume).await?.ok_or_else(|| {
            Error::conflict(
                "There is no database to compare with: the project has no sandbox; start it first.",
            )
            .with_project(project.id)
        })?;
        check_room(core, &mut tx, &project, volume).await?;
        let new = NewSnapshot {
            id,
            sandbox: &sandbox.reference(),
            name: None,
            cause: SnapshotCause::Branch,
            idempotency_key: None,
            promoted_branch: None,
            by: Some(project.caller().user()),
            queued: true,
        };
        rows::insert(&mut tx, new).await?;
        tx.commit().await?;
    }
    core.hub.wake(Topic::DesiredState);
    loop {
        let row = find(core, project, &id.to_string()).await?;
        match row.snapshot.state {
            SnapshotState::Ready => {
                check_database(project, &row)?;
                return Ok(row);
            }
            SnapshotState::Creating => {}
            SnapshotState::Failed | SnapshotState::Deleting => {
                let why = row.snapshot.error.map(|error| error.message).unwrap_or_default();
                let sentence = "The present state could not be compared.";
                return Err(Error::unavailable(sentence)
                    .with_message(format!("{sentence} {why}"))
                    .with_project(project.id));
            }
        }
        let timed_out =
            || Error::unavailable("The comparison takes too long: the present state is not copied yet.");
        tokio::select! {
            () = subscription.changed() => {}
            () = tokio::time::sleep_until(deadline) => return Err(timed_out()),
            () = core.shutdown.cancelled() => return Err(timed_out()),
        }
    }
}

/// The two snapshots of a comparison, if they are ready.
async fn both<R: Permission>(
    core: &Core,
    project: &AuthorizedBranch<R>,
    from: &str,
    to: Option<&str>,
) -> Result<(SnapshotRow, Option<SnapshotRow>)> {
    let from = find(core, project, from).await?;
    let to = match to {
        Some(to) => Some(find(core, project, to).await?),
        None => None,
    };
    if !from.is_ready() || to.as_ref().is_some_and(|to| !to.is_ready()) {
        return Err(
            Error::conflict("This snapshot is not ready, so it cannot be compared.").with_project(project.id),
        );
    }
    Ok((from, to))
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn a_path_is_absolute_and_has_no_detour() {
        for path in ["/home/dev/project/a b", "/etc/x.conf"] {
            assert!(is_valid(path.as_bytes()), "{path}");
        }
        for path in [
            "",
            "a",
            "/",
            "//a",
            "/a/../b",
            "/a/./b",
            "/a/",
            "/a\0b",
            &format!("/{}", "x".repeat(4096)),
        ] {
            assert!(!is_valid(path.as_bytes()), "{path:?}");
        }
    }
}
