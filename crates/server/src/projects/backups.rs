//! Backups of projects: create, list, show, restore as a new project, verify, cancel, delete.
//!
//! A request writes a row; a worker does the rest ([`crate::reconcile`]). A backup belongs to the project's owner and
//! outlives the project. Backups that are in the repository and in no row here, because another server stored them, are
//! restored by owners of the system.

use std::path::Path;

use fsa_model::{
    BackupId, Image, SnapshotId,
    api::CreateProject,
    backup::{Backup, BackupState, RestoreBackup},
    snapshot::SnapshotCause,
};
use uuid::Uuid;

use super::{create, snapshots};
use crate::{
    auth::{
        Caller,
        permission::{Read, Write},
    },
    backups::{Backups, manifest, tag},
    core::Core,
    error::{Error, Result},
    store::{
        audit,
        backups::{self as rows, NewBackup, Owner, Request},
        branches::{self, BranchReference},
        notify::Topic,
        projects::Overview,
        sandboxes,
        snapshots::{self as snapshot_rows, NewSnapshot},
    },
};

/// Backups of one project that are not stored yet.
const UNFINISHED_MAX: i64 = 3;

/// Requests a backup of a branch as it is now.
///
/// # Errors
/// Not found; 409 where the server has no repository, the region has no backups, the project was never started, or
/// too many of its backups are not stored yet.
pub async fn create(core: &Core, caller: &Caller, reference: &BranchReference) -> Result<Backup> {
    let found = branches::find::<Write>(&core.store, caller, reference).await?;
    repository(core)?;
    let region = snapshots::region_with_snapshots(core, &found)?;
    if region.driver.volume_files().is_none() {
        return Err(Error::conflict(format!(
            "The region {} has no backups; projects in a region of the local driver have them.",
            found.region
        ))
        .with_project(found.id));
    }
    let mut tx = core.store.begin().await?;
    let project = branches::lock(&mut tx, &found).await?;
    let branch = project.branch();
    let conflict = |why: String| Error::conflict(why).with_project(project.id);
    if rows::count_unfinished(&mut tx, project.id).await? >= UNFINISHED_MAX {
        return Err(conflict(format!(
            "{UNFINISHED_MAX} backups of this project are not stored yet; wait for them, or cancel one."
        )));
    }
    let sandbox = sandboxes::of_branch_in(&mut tx, branch.volume)
        .await?
        .ok_or_else(|| {
            conflict("There is nothing to back up: the project has no sandbox; start it first.".into())
        })?;
    snapshots::check_room(core, &mut tx, &project, branch.volume).await?;
    let snapshot = SnapshotId::generate();
    let new = NewSnapshot {
        id: snapshot,
        sandbox: &sandbox.reference(),
        name: None,
        cause: SnapshotCause::Backup,
        idempotency_key: None,
        promoted_branch: None,
        by: Some(caller.user()),
        queued: false,
    };
    snapshot_rows::insert(&mut tx, new).await?;
    let id = BackupId::generate();
    let new = NewBackup {
        id,
        owner: project.owner,
        project: project.id,
        project_name: project.name.as_str(),
        volume: branch.volume,
        branch: branch.name.as_str(),
        snapshot,
        by: caller.user(),
    };
    rows::insert(&mut tx, new).await?;
    let object = format!("backup {id} of project {} ({})", project.id, project.name);
    audit::record(&mut tx, caller, "backup.create", object).await?;
    tx.commit().await?;
    core.hub.wake(Topic::DesiredState);
    let listed = rows::list(&core.store, Owner::Project(project.id), None, UNFINISHED_MAX + 1).await?;
    listed
        .into_iter()
        .find(|backup| backup.id == id)
        .ok_or_else(|| Error::not_found("backup"))
}

/// A page of the project's backups, the newest first.
///
/// # Errors
/// Not found.
pub async fn list_of_project(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    cursor: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Backup>> {
    let project = branches::find::<Read>(&core.store, caller, reference).await?;
    rows::list(&core.store, Owner::Project(project.id), cursor, limit).await
}

/// A page of the caller's backups, also of projects that are deleted, the newest first.
///
/// # Errors
/// The database does not answer.
pub async fn list(core: &Core, caller: &Caller, cursor: Option<Uuid>, limit: i64) -> Result<Vec<Backup>> {
    rows::list(&core.store, Owner::User(caller.user()), cursor, limit).await
}

/// # Errors
/// Not found.
pub async fn show(core: &Core, caller: &Caller, id: BackupId) -> Result<Backup> {
    Ok(rows::find(&core.store, caller, id).await?.backup)
}

/// Requests the end of a backup that is not stored yet, its verification, or its deletion.
///
/// # Errors
/// Not found; 409 where its state does not allow that.
pub async fn request(core: &Core, caller: &Caller, id: BackupId, request: Request) -> Result<Backup> {
    let row = rows::find(&core.store, caller, id).await?;
    let state = row.backup.state;
    let (action, refused) = match request {
        Request::Cancel => (
            "backup.cancel",
            (!matches!(state, BackupState::Queued | BackupState::Running))
                .then_some("This backup has ended, so it cannot be canceled."),
        ),
        Request::Verify => (
            "backup.verify",
            (state != BackupState::Ready).then_some("This backup is not ready, so it cannot be verified."),
        ),
        Request::Delete => ("backup.delete", None),
    };
    if let Some(refused) = refused {
        return Err(Error::conflict(refused));
    }
    repository(core)?;
    let mut tx = core.store.begin().await?;
    rows::request(&mut tx, id, request).await?;
    audit::record(
        &mut tx,
        caller,
        action,
        format!("backup {id} of {}", row.backup.project_name),
    )
    .await?;
    tx.commit().await?;
    core.hub.wake(Topic::DesiredState);
    Ok(rows::find(&core.store, caller, id).await?.backup)
}

/// Creates a project of the caller from a backup: its settings, variables, files and databases.
///
/// # Errors
/// Not found; 409 where the backup is not ready, the region has no backups, or the caller has a project of the name;
/// 422 with the field and its rule.
pub async fn restore(core: &Core, caller: &Caller, id: BackupId, request: RestoreBackup) -> Result<Overview> {
    let stored = match rows::find(&core.store, caller, id).await {
        Ok(row) => match (row.backup.state, row.backup.repository_snapshot) {
            (BackupState::Ready, Some(stored)) => stored,
            _ => {
                return Err(Error::conflict(
                    "This backup is not ready, so it cannot be restored.",
                ));
            }
        },
        Err(not_found) => {
            if caller.must_be_owner().is_err() || rows::exists(&core.store, id).await? {
                return Err(not_found);
            }
            find_in_repository(core, id).await?.ok_or(not_found)?
        }
    };
    let repository = repository(core)?;
    let snapshot = stored.clone();
    let text = repository
        .run(move |repository| {
            repository
                .read(&snapshot)?
                .read_file(Path::new(manifest::FILE), manifest::BYTES_MAX)
        })
        .await
        .map_err(unavailable)?
        .ok_or_else(|| Error::conflict("This backup has no manifest, so it is not one of this server."))?;
    let manifest = manifest::parse(&text)
        .map_err(|why| Error::conflict(format!("This backup cannot be restored: {why}.")))?;
    let project = manifest.project;
    let (template, image) = match project.image {
        Image::Template(template) => (Some(template), None),
        Image::Reference(image) => (None, Some(image)),
    };
    let new = CreateProject {
        name: request.name.unwrap_or(project.name),
        description: project.description,
        template,
        image,
        size: Some(project.size),
        region: request.region,
        env_vars: manifest.environment,
        repository: project.repository,
        git_credential: None,
        start_command: project.start_command,
        start: request.start,
    };
    create::create_from(core, caller, new, Some(&stored)).await
}

/// The snapshot of a backup in the repository, by the backup's id.
async fn find_in_repository(core: &Core, id: BackupId) -> Result<Option<String>> {
    let Some(repository) = core.backups.clone() else {
        return Ok(None);
    };
    let all = repository
        .run(|repository| repository.list())
        .await
        .map_err(unavailable)?;
    let tag = tag("backup", &id);
    Ok(all
        .into_iter()
        .find(|backup| backup.tags.contains(&tag))
        .map(|backup| backup.id))
}

/// Backups in the repository that no row here has: those of other servers, the newest first.
///
/// # Errors
/// 403 for a member; 409 without a repository; 503 where it does not answer.
pub async fn list_of_repository(core: &Core, caller: &Caller) -> Result<Vec<Backup>> {
    caller.must_be_owner()?;
    let all = repository(core)?
        .clone()
        .run(|repository| repository.list())
        .await
        .map_err(unavailable)?;
    let mut found = Vec::new();
    for stored in all {
        let value = |name: &str| {
            let prefix = tag(name, &"");
            let value = stored.tags.iter().find_map(|tag| tag.strip_prefix(&prefix));
            value.map(str::to_owned)
        };
        let parsed = value("backup").and_then(|id| id.parse().ok());
        let branch = value("branch").and_then(|name| fsa_model::BranchName::parse(&name).ok());
        let (Some(id), Some(name), Some(branch)) = (parsed, value("name"), branch) else {
            continue;
        };
        if rows::exists(&core.store, id).await? {
            continue;
        }
        found.push(Backup {
            id,
            project_id: None,
            project_name: name,
            branch,
            state: BackupState::Ready,
            repository_snapshot: Some(stored.id),
            files: stored.files,
            bytes: stored.bytes,
            added_bytes: stored.added_bytes,
            error: None,
            verifying: false,
            verification: None,
            created_by: None,
            created_at: stored.time,
            finished_at: Some(stored.time),
        });
    }
    Ok(found)
}

fn repository(core: &Core) -> Result<&Backups> {
    core.backups.as_ref().ok_or_else(|| {
        Error::conflict(
            "This server has no backup repository; its administrator sets one (backup_repository and \
             backup_password_file).",
        )
    })
}

fn unavailable(failure: fsa_model::Failure) -> Error {
    fsa_driver::DriverError::from(failure).into()
}
