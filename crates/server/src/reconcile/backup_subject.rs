//! Subject of a backup: the snapshot that is stored, the copy of its databases that is dumped, and the manifest.

use std::{io::Seek as _, time::Duration};

use chrono::Utc;
use fsa_driver::{DriverError, Region};
use fsa_model::{
    DatabaseSpec, Failure, FailureKind, ProjectId, ProjectName, ResourceName, SandboxId, SandboxRef,
    SnapshotId, VolumeId, snapshot::SnapshotState,
};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use super::{Shared, snapshots, spec};
use crate::{
    backups::{
        Backups,
        manifest::{self, FORMAT, Manifest, ManifestDatabase, ManifestProject},
        source::{DumpFile, Subject},
    },
    projects::environment,
    store::{
        backup_leases::{self as leases, ClaimedBackup},
        branches, databases,
        notify::Topic,
        projects, snapshots as snapshot_rows,
    },
};

/// Timeout of a copy of a snapshot, or of the removal of one.
const COPY: Duration = Duration::from_secs(1800);
/// Timeout of a dump.
const DUMP: Duration = Duration::from_secs(6 * 3600);

/// Takes the snapshot, makes the copy of its database, and says what is to be stored.
///
/// # Errors
/// Why that failed.
pub async fn prepare(
    shared: &Shared,
    repository: &Backups,
    claimed: &ClaimedBackup,
) -> Result<(Subject, Manifest, Vec<DumpFile>), Failure> {
    let store = &shared.core.store;
    let gone = || {
        Failure::new(
            FailureKind::Input,
            "the project or its snapshot was deleted before the backup was stored",
        )
    };
    let row = &claimed.row;
    let (Some(project), Some(snapshot)) = (row.backup.project_id, row.snapshot) else {
        return Err(gone());
    };
    let (found, branch, of_project, of_branch) = {
        let mut connection = store.pool().acquire().await.map_err(unavailable)?;
        let connection = &mut *connection;
        let failed = |error: crate::Error| Failure::new(FailureKind::Transient, error.to_string());
        let found = snapshot_rows::of_project(connection, project, snapshot)
            .await
            .map_err(unavailable)?
            .ok_or_else(gone)?;
        let branch = branches::of_volume(connection, row.volume)
            .await
            .map_err(unavailable)?
            .ok_or_else(gone)?;
        let of_project = projects::environment(connection, project).await.map_err(failed)?;
        let of_branch = branches::environment(connection, row.volume)
            .await
            .map_err(failed)?;
        (found, branch, of_project, of_branch)
    };
    let project = leases::project_of(store, claimed)
        .await
        .map_err(unavailable)?
        .ok_or_else(gone)?;
    let region = region(shared, &project.region)?;
    let content_has_database = match found.snapshot.state {
        SnapshotState::Ready => found.snapshot.database.is_some(),
        SnapshotState::Creating => snapshots::take(shared, region, &project, &branch, &found)
            .await?
            .database
            .is_some(),
        _ => return Err(gone()),
    };
    let mut environment = environment::decrypt_project(&shared.core.key_ring, project.id, &of_project)
        .map_err(|error| Failure::new(FailureKind::Machine, error.to_string()))?;
    let over = environment::decrypt_branch(&shared.core.key_ring, branch.volume, of_branch.as_deref())
        .map_err(|error| Failure::new(FailureKind::Machine, error.to_string()))?;
    environment.extend(over);
    let database = databases::of(store, &branch)
        .await
        .map_err(|error| Failure::new(FailureKind::Transient, error.to_string()))?
        .filter(|_| content_has_database);
    let mut described = Vec::new();
    let mut dumps = Vec::new();
    if let Some(database) = database {
        let spec = spec::database(&shared.core.key_ring, &project, &database)?;
        let own = spec.role();
        let (copy, names) = copy_of(claimed, region, snapshot, spec).await?;
        described = manifest::databases(&names, &own);
        for found in &described {
            dumps.push(dump(repository, region, &copy, found).await?);
        }
    }
    let manifest = Manifest {
        format: FORMAT,
        backup: row.backup.id,
        created_at: Utc::now(),
        project: ManifestProject {
            id: project.id,
            name: project.name.to_string(),
            description: project.description.clone(),
            image: project.image.clone(),
            size: project.size,
            region: project.region.clone(),
            repository: project.repository.clone(),
            start_command: project.start_command.clone(),
        },
        branch: branch.name.clone(),
        environment: environment
            .iter()
            .map(|(name, value)| (name.clone(), value.expose_secret().to_owned()))
            .collect(),
        databases: described,
    };
    let subject = Subject {
        region: region.clone(),
        sandbox: found.sandbox,
        snapshot,
    };
    Ok((subject, manifest, dumps))
}

/// Dumps a database of the copy.
async fn dump(
    repository: &Backups,
    region: &Region,
    copy: &DatabaseSpec,
    found: &ManifestDatabase,
) -> Result<DumpFile, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(
            FailureKind::Machine,
            format!("a dump cannot be written ({error})"),
        )
    };
    let dumps = region
        .databases
        .dumps()
        .ok_or_else(|| Failure::new(FailureKind::Input, "the region's databases have no dumps"))?;
    let mut content = repository.scratch_file()?;
    let output = content.try_clone().map_err(failed)?;
    within(DUMP, dumps.dump(copy, &found.name, output.into())).await?;
    content.rewind().map_err(failed)?;
    Ok(DumpFile {
        name: found.file.clone(),
        size: content.metadata().map_err(failed)?.len(),
        content,
    })
}

/// Makes a volume as a copy of the snapshot, and says which databases are on it.
async fn copy_of(
    claimed: &ClaimedBackup,
    region: &Region,
    snapshot: SnapshotId,
    database: DatabaseSpec,
) -> Result<(DatabaseSpec, Vec<String>), Failure> {
    let Some(dumps) = region.databases.dumps() else {
        return Ok((database, Vec::new()));
    };
    let sandbox = copy_sandbox(claimed, database.project)?;
    let copied = region
        .driver
        .clone_snapshot(claimed.row.volume, snapshot, &sandbox);
    within(COPY, copied).await?;
    let database = DatabaseSpec {
        volume: sandbox.volume,
        ..database
    };
    let names = within(COPY, dumps.names(&database)).await?;
    Ok((database, names))
}

/// The sandbox that a copy is made for; it is never started. Its volume and name follow from the backup's id.
fn copy_sandbox(claimed: &ClaimedBackup, project: ProjectId) -> Result<SandboxRef, Failure> {
    let id = claimed.row.backup.id.0;
    let name = ProjectName::parse("backup")
        .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
    Ok(SandboxRef {
        id: SandboxId(id),
        project,
        volume: VolumeId(id),
        resource: ResourceName::derive(&name, id.as_bytes()),
    })
}

/// Removes the copy of the database. Idempotent.
///
/// # Errors
/// The data plane's.
pub async fn remove_copy(shared: &Shared, claimed: &ClaimedBackup) -> Result<(), Failure> {
    let store = &shared.core.store;
    let Some(project) = leases::project_of(store, claimed).await.map_err(unavailable)? else {
        return Ok(());
    };
    let region = region(shared, &project.region)?;
    let sandbox = copy_sandbox(claimed, project.id)?;
    within(COPY, region.driver.destroy(&sandbox)).await?;
    within(COPY, region.driver.remove_volume(sandbox.volume)).await
}

/// Requests the deletion of the backup's snapshot. Idempotent.
///
/// # Errors
/// The database does not answer.
pub async fn remove_snapshot(shared: &Shared, claimed: &ClaimedBackup) -> Result<(), Failure> {
    let Some(snapshot) = claimed.row.snapshot else {
        return Ok(());
    };
    let mut connection = shared.core.store.pool().acquire().await.map_err(unavailable)?;
    snapshot_rows::delete(&mut connection, snapshot)
        .await
        .map_err(|error| Failure::new(FailureKind::Transient, error.to_string()))?;
    shared.core.hub.wake(Topic::DesiredState);
    Ok(())
}

/// Removes what the work on a backup needed.
///
/// # Errors
/// Same as [`remove_copy`] and [`remove_snapshot`].
pub async fn clean_up(shared: &Shared, claimed: &ClaimedBackup) -> Result<(), Failure> {
    remove_copy(shared, claimed).await?;
    remove_snapshot(shared, claimed).await
}

fn region<'a>(shared: &'a Shared, name: &str) -> Result<&'a Region, Failure> {
    shared.core.regions.get(name).ok_or_else(|| {
        Failure::new(
            FailureKind::Transient,
            format!("The region {name:?} is not configured on this server; add it to its settings."),
        )
    })
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, DriverError>>,
) -> Result<T, Failure> {
    match timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            tracing::warn!(%error, cause = ?error.cause, "a step of a backup failed in the data plane");
            Err(error.failure)
        }
        Err(_) => Err(Failure::new(
            FailureKind::Transient,
            format!(
                "The data plane did not answer within {} seconds.",
                limit.as_secs()
            ),
        )),
    }
}

/// The failure where the database does not answer.
#[must_use]
pub fn unavailable(error: sqlx::Error) -> Failure {
    Failure::new(FailureKind::Transient, format!("The control database: {error}"))
}
