//! Promotion of a branch: `main` gets its files and its database, and stays what it is otherwise.
//!
//! A promotion is a restore of `main` from a snapshot of the branch, which the worker takes and deletes
//! ([`crate::reconcile`]). The state of `main` before is kept as a snapshot; the branch stays.

use fsa_model::{DesiredState, SnapshotId, event::EventKind, name::BranchName, snapshot::SnapshotCause};
use sqlx::PgConnection;

use super::snapshots;
use crate::{
    auth::{Caller, permission::Write},
    core::Core,
    error::{Error, Result},
    store::{
        audit,
        branches::{self, AuthorizedBranch, BranchReference, BranchRow},
        databases,
        events::{self, NewEvent},
        notify::Topic,
        projects::{self, Overview},
        sandboxes::{self, SandboxRow},
        snapshots::{self as rows, NewSnapshot},
    },
};

/// Requests that `main` gets the files and the database of a branch. Returns `main`. A request that repeats an
/// idempotency key, or comes while the same branch is being promoted, changes nothing.
///
/// # Errors
/// Not found; 409 for main itself, while main or the branch is being restored or copied, where one of them has no
/// sandbox, or where there is no room for the snapshots; 422 for a key of another request.
pub async fn promote(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    idempotency_key: Option<&str>,
) -> Result<Overview> {
    let found = branches::find::<Write>(&core.store, caller, reference).await?;
    let region = snapshots::region_with_snapshots(core, &found)?;
    if let Some(key) = idempotency_key {
        snapshots::check_key(key)?;
    }
    if found.branch().name.is_main() {
        return Err(
            Error::conflict("main is what a branch is promoted to; name another branch.")
                .with_project(found.id),
        );
    }
    if !region.databases.are_on_volumes() && databases::exists(&core.store, &found).await? {
        return Err(Error::conflict(format!(
            "The databases of the region {} are not on its projects' volumes, so a branch of a project with a database \
             cannot be promoted there.",
            found.region
        ))
        .with_project(found.id));
    }
    let mut tx = core.store.begin().await?;
    let project = branches::lock(&mut tx, &found).await?;
    let main = branches::named(&mut tx, project.id, &BranchName::main())
        .await?
        .ok_or_else(|| Error::not_found("branch").with_project(project.id))?;
    if !is_repeated(&mut tx, &project, &main, idempotency_key).await? {
        request(core, &mut tx, caller, &project, &main, idempotency_key).await?;
        tx.commit().await?;
        core.hub.wake(Topic::DesiredState);
    }
    projects::overview(&core.store, caller, &BranchReference::of(&main)).await
}

/// Whether an earlier request had the key.
async fn is_repeated(
    tx: &mut PgConnection,
    project: &AuthorizedBranch<Write>,
    main: &BranchRow,
    idempotency_key: Option<&str>,
) -> Result<bool> {
    let Some(key) = idempotency_key else {
        return Ok(false);
    };
    match rows::by_key(tx, main.volume, key).await? {
        None => Ok(false),
        Some(row) if row.snapshot.promoted_branch.as_ref() == Some(&project.branch().name) => Ok(true),
        Some(_) => Err(Error::invalid(
            "Idempotency-Key",
            "an earlier request with this key was another one; use a new key for each promotion",
        )
        .with_project(project.id)),
    }
}

async fn request(
    core: &Core,
    tx: &mut PgConnection,
    caller: &Caller,
    project: &AuthorizedBranch<Write>,
    main: &BranchRow,
    idempotency_key: Option<&str>,
) -> Result<()> {
    let branch = project.branch();
    let conflict = |why: String| Error::conflict(why).with_project(project.id);
    let (source, target) = sandboxes_of(tx, project, main).await?;
    if let Some(restore) = target.restore {
        return match rows::of_project(tx, project.id, restore.snapshot).await? {
            Some(row) if row.sandbox.volume == branch.volume => Ok(()),
            _ => Err(conflict(
                "main is being restored; wait until that is done.".into(),
            )),
        };
    }
    snapshots::check_room(core, tx, project, main.volume).await?;
    let [state, before] = [(); 2].map(|()| SnapshotId::generate());
    let of_branch = NewSnapshot {
        id: state,
        sandbox: &source.reference(),
        name: None,
        cause: SnapshotCause::Branch,
        idempotency_key: None,
        promoted_branch: None,
        by: Some(caller.user()),
        queued: false,
    };
    rows::insert(tx, of_branch).await?;
    let of_main = NewSnapshot {
        id: before,
        sandbox: &target.reference(),
        name: None,
        cause: SnapshotCause::BeforePromote,
        idempotency_key,
        promoted_branch: Some(&branch.name),
        by: Some(caller.user()),
        queued: false,
    };
    rows::insert(tx, of_main).await?;
    sandboxes::set_restore(tx, target.id, state, before).await?;
    let object = format!(
        "branch {} of project {} ({})",
        branch.name, project.id, project.name
    );
    audit::record(tx, caller, "branch.promote", object).await?;
    let message = format!("Asked to promote the branch {} to main.", branch.name);
    let event = NewEvent::new(project, EventKind::LifecycleRequested, message)
        .of(target.id)
        .with(serde_json::json!({"action": "promote", "name": branch.name, "by": caller.login()}));
    events::append(tx, event).await?;
    Ok(())
}

/// The sandboxes of the branch and of main, as far as the branch can be promoted.
async fn sandboxes_of(
    tx: &mut PgConnection,
    project: &AuthorizedBranch<Write>,
    main: &BranchRow,
) -> Result<(SandboxRow, SandboxRow)> {
    let branch = project.branch();
    let conflict = |why: String| Error::conflict(why).with_project(project.id);
    if branch.source.is_some() {
        return Err(conflict(format!(
            "The branch {} is still being copied; promote it when that is done.",
            branch.name
        )));
    }
    let source = sandboxes::of_branch_in(tx, branch.volume).await?.ok_or_else(|| {
        conflict(format!(
            "There is nothing to promote: the branch {} has no sandbox; start it first.",
            branch.name
        ))
    })?;
    if source.restore.is_some() {
        return Err(conflict(format!(
            "The branch {} is being restored; promote it when that is done.",
            branch.name
        )));
    }
    let target = sandboxes::of_branch_in(tx, main.volume)
        .await?
        .filter(|sandbox| sandbox.desired_state != DesiredState::Terminated)
        .ok_or_else(|| {
            conflict("main has no sandbox: it was terminated. Start the project, and then promote.".into())
        })?;
    Ok((source, target))
}
