//! Branches of a project: creation as a copy, and deletion. Workers make the copy, and remove what was deleted.

use fsa_model::{
    BranchName, DesiredState, ResourceName, SnapshotId, VolumeId, branch::CreateBranch, event::EventKind,
    limits::Adds, name::BRANCH_NAME_RULE, snapshot::SnapshotCause,
};
use sqlx::PgConnection;
use tokio::time::Instant;

use super::{environment::Variables, lifecycle, snapshots};
use crate::{
    auth::{
        Caller,
        permission::{Authorized, Write},
    },
    core::Core,
    error::{Error, Result},
    store::{
        audit,
        branches::{self, BranchReference, BranchRow, NewBranch},
        databases,
        events::{self, NewEvent},
        notify::Topic,
        projects::{self, Overview, ProjectRow},
        quotas, replicas, sandboxes,
        snapshots::{self as snapshot_rows, NewSnapshot, SnapshotRow},
    },
};

/// Creates a branch of a project, as a copy of a snapshot, or of a branch as it is when the copy begins. Its sandbox
/// starts unless the request says otherwise.
///
/// # Errors
/// Not found; 422 with the field and its rule; 409 where the name is taken, there are too many branches, or there is
/// nothing to copy; 503 during an upgrade.
pub async fn create(core: &Core, caller: &Caller, project: &str, request: CreateBranch) -> Result<Overview> {
    let name = name(&request.name)?;
    let found = projects::find::<Write>(&core.store, caller, project).await?;
    let region = snapshots::region_with_snapshots(core, &found)?;
    if !region.databases.are_on_volumes() && databases::exists(&core.store, &found).await? {
        return Err(Error::conflict(format!(
            "The databases of the region {} are not on its projects' volumes, so a project with a database cannot be \
             copied there.",
            found.region
        ))
        .with_project(found.id));
    }
    if !replicas::all_know_branches(&core.store).await? {
        return Err(Error::unavailable(
            "An older version of the server still runs; create the branch when the upgrade is complete.",
        ));
    }
    let mut tx = core.store.begin().await?;
    let project = projects::lock(&mut tx, &found).await?;
    let limit = core.settings.limits.branches_per_project;
    if branches::count(&mut tx, project.id).await? >= i64::try_from(limit).unwrap_or(i64::MAX) {
        return Err(Error::conflict(format!(
            "This project has {limit} branches, which is the limit; delete one first."
        ))
        .with_project(project.id));
    }
    let (source, source_name) = source(core, &mut tx, &project, request.from.as_deref()).await?;
    let new = NewBranch {
        volume: VolumeId::generate(),
        project: project.id,
        name: &name,
        source,
    };
    let branch = branches::insert(&mut tx, new)
        .await
        .map_err(|error| error.with_project(project.id))?;
    let desired_state = match request.start {
        Some(false) => DesiredState::Stopped,
        _ => DesiredState::Running,
    };
    let resource = ResourceName::generate(&project.name);
    let sandbox = lifecycle::create_sandbox(
        core,
        &mut tx,
        &branch,
        &resource,
        desired_state,
        &Variables::new(),
    )
    .await?;
    let adds = Adds {
        projects: false,
        running: desired_state == DesiredState::Running,
        disk: true,
    };
    quotas::check(&mut tx, &core.settings.limits, project.owner, adds)
        .await
        .map_err(|error| error.with_project(project.id))?;
    audit::record(&mut tx, caller, "branch.create", object(&project, &name)).await?;
    let message = format!("The branch {name} was created from {source_name}.");
    let event = NewEvent::new(&project, EventKind::BranchCreated, message)
        .of(sandbox)
        .in_branch(&name)
        .with(serde_json::json!({"name": name, "from": source_name, "by": caller.login()}));
    events::append(&mut tx, event).await?;
    tx.commit().await?;
    core.hub.wake(Topic::DesiredState);
    projects::overview(&core.store, caller, &BranchReference::of(&branch)).await
}

/// The snapshot to copy, and the name of where it comes from. For a branch it is a new one, which the worker takes and
/// deletes when it is copied.
async fn source(
    core: &Core,
    tx: &mut PgConnection,
    project: &Authorized<Write>,
    from: Option<&str>,
) -> Result<(SnapshotId, String)> {
    let name = match from {
        None => Some(BranchName::main()),
        Some(from) => BranchName::parse(from).ok(),
    };
    let branch = match &name {
        Some(name) => branches::named(tx, project.id, name).await?,
        None => None,
    };
    let Some(branch) = branch else {
        let row = snapshot(tx, project, from.unwrap_or_default()).await?;
        if !row.is_ready() {
            return Err(
                Error::conflict("This snapshot is not ready, so it cannot be copied.")
                    .with_project(project.id),
            );
        }
        return Ok((row.snapshot.id, format!("the snapshot {}", row.title())));
    };
    let sandbox = sandboxes::of_branch_in(tx, branch.volume).await?.ok_or_else(|| {
        Error::conflict(format!(
            "There is nothing to copy: the branch {} has no sandbox; start it first.",
            branch.name
        ))
        .with_project(project.id)
    })?;
    snapshots::check_room(core, tx, project, branch.volume).await?;
    let id = SnapshotId::generate();
    let new = NewSnapshot {
        id,
        sandbox: &sandbox.reference(),
        name: None,
        cause: SnapshotCause::Branch,
        idempotency_key: None,
        promoted_branch: None,
        by: Some(project.caller().user()),
        queued: false,
    };
    snapshot_rows::insert(tx, new).await?;
    Ok((id, branch.name.to_string()))
}

/// A snapshot of any branch of the project by its id, or of the main branch by its name.
async fn snapshot(tx: &mut PgConnection, project: &ProjectRow, from: &str) -> Result<SnapshotRow> {
    let found = match from.parse() {
        Ok(id) => snapshot_rows::of_project(tx, project.id, id).await?,
        Err(_) => match branches::named(tx, project.id, &BranchName::main()).await? {
            Some(main) => snapshot_rows::find(tx, main.volume, from).await.ok(),
            None => None,
        },
    };
    found.ok_or_else(|| {
        Error::invalid(
            "from",
            format!("the project has no branch {from:?}, and main has no snapshot of that name"),
        )
    })
}

/// Deletes a branch. A repeated request changes nothing.
///
/// # Errors
/// Not found; 409 for the main branch, and while another branch is being copied from it.
pub async fn delete(core: &Core, caller: &Caller, reference: &BranchReference) -> Result<Overview> {
    let found = branches::find::<Write>(&core.store, caller, reference).await?;
    let mut tx = core.store.begin().await?;
    let project = branches::lock(&mut tx, &found).await?;
    let branch = project.branch();
    if branch.name.is_main() {
        return Err(
            Error::conflict("The branch main is deleted with its project only.").with_project(project.id),
        );
    }
    if let Some(copy) = branches::copied_from(&mut tx, branch.volume).await? {
        return Err(Error::conflict(format!(
            "The branch {copy} is still being copied from this one; delete this one when that is done."
        ))
        .with_project(project.id));
    }
    if branches::is_promoted(&mut tx, branch).await? {
        return Err(
            Error::conflict("This branch is being promoted; delete it when that is done.")
                .with_project(project.id),
        );
    }
    let overview = projects::overview(&core.store, caller, reference).await?;
    // Sandboxes are locked before branches, as by the workers.
    sandboxes::terminate(&mut tx, branch.volume).await?;
    branches::mark_deleted(&mut tx, branch.volume).await?;
    audit::record(&mut tx, caller, "branch.delete", object(&project, &branch.name)).await?;
    let message = format!(
        "Asked to delete the branch {} with its files and its database.",
        branch.name
    );
    let event = NewEvent::new(&project, EventKind::LifecycleRequested, message)
        .in_branch(&branch.name)
        .with(serde_json::json!({"action": "deleteBranch", "name": branch.name, "by": caller.login()}));
    events::append(&mut tx, event).await?;
    tx.commit().await?;
    core.hub.wake(Topic::DesiredState);
    Ok(overview)
}

/// Waits until everything of a deleted branch is gone, at most until `deadline`. Returns whether it is.
///
/// # Errors
/// The database does not answer.
pub async fn wait_until_gone(core: &Core, branch: &BranchRow, deadline: Instant) -> Result<bool> {
    let mut subscription = core.hub.subscribe(Topic::Project(branch.project));
    loop {
        if !branches::exists(&core.store, branch.volume).await? {
            return Ok(true);
        }
        tokio::select! {
            () = subscription.changed() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(false),
            () = core.shutdown.cancelled() => return Ok(false),
        }
    }
}

fn name(text: &str) -> Result<BranchName> {
    match BranchName::parse(text) {
        // A host name label that begins with xn-- is an encoded one (RFC 5890).
        Ok(name) if name.as_str() == "xn" => Err(Error::invalid(
            "name",
            "xn is reserved, because xn-- begins an encoded host name",
        )),
        Ok(name) => Ok(name),
        Err(refused) => Err(Error::invalid("name", BRANCH_NAME_RULE).with_suggestion(refused.suggestion)),
    }
}

fn object(project: &Authorized<Write>, name: &BranchName) -> String {
    format!("branch {name} of project {} ({})", project.id, project.name)
}
