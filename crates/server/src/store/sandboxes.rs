//! Sandboxes, as rows: desired and observed state.

use chrono::{DateTime, Utc};
use fsa_model::{
    Condition, ContainerState, DesiredState, Failure, Phase, ProjectId, ResourceName, SandboxId, SandboxRef,
    SnapshotId, VolumeId, phase::ObservedStatus, sandboxd::Status,
};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store, branches::BranchRow, enum_column, enum_text, json_column, optional_json_column, parsed_column,
};
use crate::error::Result;

/// A sandbox, without the variables of its request (secret, and perhaps large).
#[derive(Clone, Debug)]
pub struct SandboxRow {
    pub id: SandboxId,
    pub project: ProjectId,
    /// The volume of its branch.
    pub volume: VolumeId,
    pub resource: ResourceName,
    /// Encrypted for [`super::associated_data::control_token`].
    pub control_token: Vec<u8>,
    pub desired_state: DesiredState,
    pub generation: i64,
    pub restarts: i64,
    pub observed_generation: i64,
    pub container: ContainerState,
    pub conditions: Vec<Condition>,
    pub failure: Option<Failure>,
    pub attempts: i32,
    pub next_attempt_at: DateTime<Utc>,
    /// sandboxd's report. It comes from inside the sandbox: untrusted.
    pub status: Option<Status>,
    pub observed_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub restore: Option<Restore>,
}

/// A requested restore that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    pub snapshot: SnapshotId,
    /// The snapshot that keeps the state before the restore.
    pub before: SnapshotId,
}

/// The columns of [`SandboxRow`] of the table `s`.
macro_rules! columns {
    () => {
        "s.id as s_id, s.project_id as s_project_id, s.volume_id as s_volume_id, s.resource as s_resource, \
         s.control_token as s_control_token, s.desired_state as s_desired_state, s.generation as s_generation, \
         s.restarts as s_restarts, s.observed_generation as s_observed_generation, \
         s.container as s_container, s.conditions as s_conditions, s.failure as s_failure, \
         s.attempts as s_attempts, s.next_attempt_at as s_next_attempt_at, s.status as s_status, \
         s.observed_at as s_observed_at, s.created_at as s_created_at, s.updated_at as s_updated_at, \
         s.restore_snapshot as s_restore_snapshot, s.restore_before as s_restore_before"
    };
}
pub(crate) use columns;

impl<'r> FromRow<'r, PgRow> for SandboxRow {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: SandboxId(row.try_get("s_id")?),
            project: ProjectId(row.try_get("s_project_id")?),
            volume: VolumeId(row.try_get("s_volume_id")?),
            resource: parsed_column(row, "s_resource")?,
            control_token: row.try_get("s_control_token")?,
            desired_state: enum_column(row, "s_desired_state")?,
            generation: row.try_get("s_generation")?,
            restarts: row.try_get("s_restarts")?,
            observed_generation: row.try_get("s_observed_generation")?,
            container: enum_column(row, "s_container")?,
            conditions: json_column(row, "s_conditions")?,
            failure: optional_json_column(row, "s_failure")?,
            attempts: row.try_get("s_attempts")?,
            next_attempt_at: row.try_get("s_next_attempt_at")?,
            status: optional_json_column(row, "s_status")?,
            observed_at: row.try_get("s_observed_at")?,
            created_at: row.try_get("s_created_at")?,
            updated_at: row.try_get("s_updated_at")?,
            restore: row
                .try_get::<Option<Uuid>, _>("s_restore_snapshot")?
                .zip(row.try_get::<Option<Uuid>, _>("s_restore_before")?)
                .map(|(snapshot, before)| Restore {
                    snapshot: SnapshotId(snapshot),
                    before: SnapshotId(before),
                }),
        })
    }
}

impl SandboxRow {
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::compute(
            self.desired_state,
            self.generation,
            ObservedStatus {
                generation: self.observed_generation,
                container: self.container,
                restoring: self.restore.is_some(),
                failed: self.failure.is_some(),
            },
        )
    }

    /// The reference by which a driver finds it.
    #[must_use]
    pub fn reference(&self) -> SandboxRef {
        SandboxRef {
            id: self.id,
            project: self.project,
            volume: self.volume,
            resource: self.resource.clone(),
        }
    }
}

/// The sandbox of a branch: the one that is not terminated, else the last one.
macro_rules! of_branch {
    () => {
        concat!(
            "select ",
            columns!(),
            " from sandboxes s where s.volume_id = $1
              order by s.desired_state = 'terminated', s.created_at desc limit 1"
        )
    };
}

/// The sandbox of a branch: the one that is not terminated, else the last one.
///
/// # Errors
/// The database does not answer.
pub async fn of_branch(store: &Store, branch: VolumeId) -> Result<Option<SandboxRow>> {
    Ok(sqlx::query_as(of_branch!())
        .bind(branch.0)
        .fetch_optional(&store.pool)
        .await?)
}

/// Same as [`of_branch`], inside a transaction that holds the project's lock.
///
/// # Errors
/// The database does not answer.
pub async fn of_branch_in(tx: &mut PgConnection, branch: VolumeId) -> Result<Option<SandboxRow>> {
    Ok(sqlx::query_as(of_branch!())
        .bind(branch.0)
        .fetch_optional(tx)
        .await?)
}

/// Gives each sandbox of the project whose desired state is running a new generation, so that workers update it;
/// `branch` selects the sandboxes of one branch. Returns whether there are any.
///
/// # Errors
/// The database does not answer.
pub async fn bump_running(
    tx: &mut PgConnection,
    project: ProjectId,
    branch: Option<VolumeId>,
) -> Result<bool> {
    let updated = sqlx::query(
        "update sandboxes set generation = generation + 1, updated_at = now()
         where project_id = $1 and desired_state = 'running' and ($2::uuid is null or volume_id = $2)",
    )
    .bind(project.0)
    .bind(branch.map(|branch| branch.0))
    .execute(tx)
    .await?;
    Ok(updated.rows_affected() > 0)
}

/// Sets the desired state of a branch's sandbox to terminated.
///
/// # Errors
/// The database does not answer.
pub async fn terminate(tx: &mut PgConnection, branch: VolumeId) -> Result<()> {
    sqlx::query(
        "update sandboxes set desired_state = 'terminated', generation = generation + 1, updated_at = now()
         where volume_id = $1 and desired_state <> 'terminated'",
    )
    .bind(branch.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// A running sandbox, with its project and owner.
pub struct RunningRow {
    pub sandbox: SandboxRow,
    /// `PROJECT`, or `PROJECT@BRANCH` for another branch than `main`.
    pub project: String,
    pub owner: String,
    pub region: String,
}

/// The running sandboxes of all users, by owner and project, and their total number.
///
/// # Errors
/// The database does not answer.
pub async fn running(store: &Store, limit: u32) -> Result<(Vec<RunningRow>, u64)> {
    let rows = sqlx::query(concat!(
        "select ",
        columns!(),
        ", case b.name when 'main' then p.name else p.name || '@' || b.name end as project,
           p.region as region, u.login as owner, count(*) over () as total
           from sandboxes s join projects p on p.id = s.project_id join users u on u.id = p.owner_id
           join branches b on b.volume_id = s.volume_id
          where s.container = 'running' and s.desired_state = 'running' and p.deleted_at is null
          order by u.login, p.name, s.id limit $1"
    ))
    .bind(i64::from(limit))
    .fetch_all(&store.pool)
    .await?;
    let all: i64 = rows.first().map_or(Ok(0), |row| row.try_get("total"))?;
    let found = rows
        .iter()
        .map(|row| {
            Ok(RunningRow {
                sandbox: SandboxRow::from_row(row)?,
                project: row.try_get("project")?,
                owner: row.try_get("owner")?,
                region: row.try_get("region")?,
            })
        })
        .collect::<Result<_, sqlx::Error>>()?;
    Ok((found, all.unsigned_abs()))
}

/// A new sandbox's columns.
pub struct NewSandbox<'a> {
    pub id: SandboxId,
    pub branch: &'a BranchRow,
    pub resource: &'a ResourceName,
    /// Encrypted.
    pub control_token: &'a [u8],
    pub desired_state: DesiredState,
    /// Encrypted.
    pub request_environment: &'a [u8],
}

/// Inserts a new sandbox of a branch.
///
/// # Errors
/// The database does not answer; the branch has a sandbox that is not terminated.
pub async fn insert(tx: &mut PgConnection, new: NewSandbox<'_>) -> Result<()> {
    let conditions = Condition::all_pending(Utc::now());
    sqlx::query(
        "insert into sandboxes (id, project_id, volume_id, is_main, resource, control_token, desired_state,
                                request_environment, conditions)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(new.id.0)
    .bind(new.branch.project.0)
    .bind(new.branch.volume.0)
    .bind(new.branch.name.is_main())
    .bind(new.resource.as_str())
    .bind(new.control_token)
    .bind(enum_text(&new.desired_state))
    .bind(new.request_environment)
    .bind(sqlx::types::Json(conditions))
    .execute(tx)
    .await?;
    Ok(())
}

/// Deletes the rows of the branch's sandboxes that were terminated and are gone, to make room for a new one.
///
/// # Errors
/// The database does not answer.
pub async fn delete_terminated(tx: &mut PgConnection, branch: VolumeId) -> Result<()> {
    sqlx::query(
        "delete from sandboxes where volume_id = $1 and desired_state = 'terminated'
         and observed_generation = generation and container = 'absent'",
    )
    .bind(branch.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes a desired state with a new generation, and whether a running sandbox must restart.
///
/// # Errors
/// The database does not answer.
pub async fn set_desired_state(
    tx: &mut PgConnection,
    sandbox: SandboxId,
    desired_state: DesiredState,
    restart: bool,
) -> Result<()> {
    sqlx::query(
        "update sandboxes set desired_state = $2, generation = generation + 1,
                restarts = restarts + $3::int, updated_at = now()
         where id = $1 and desired_state <> 'terminated'",
    )
    .bind(sandbox.0)
    .bind(enum_text(&desired_state))
    .bind(i32::from(restart))
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes that a snapshot is to be restored, as a part of a new generation of the desired state.
///
/// # Errors
/// The database does not answer.
pub async fn set_restore(
    tx: &mut PgConnection,
    sandbox: SandboxId,
    snapshot: SnapshotId,
    before: SnapshotId,
) -> Result<()> {
    sqlx::query(
        "update sandboxes set restore_snapshot = $2, restore_before = $3, generation = generation + 1,
                updated_at = now()
         where id = $1 and desired_state <> 'terminated'",
    )
    .bind(sandbox.0)
    .bind(snapshot.0)
    .bind(before.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// The encrypted variables of the request that started it ([`super::associated_data::request_environment`]).
///
/// # Errors
/// The database does not answer.
pub async fn request_environment(connection: &mut PgConnection, sandbox: SandboxId) -> Result<Vec<u8>> {
    Ok(
        sqlx::query_scalar("select request_environment from sandboxes where id = $1")
            .bind(sandbox.0)
            .fetch_one(connection)
            .await?,
    )
}

/// Replaces the encrypted variables of the request.
///
/// # Errors
/// The database does not answer.
pub async fn set_request_environment(
    tx: &mut PgConnection,
    sandbox: SandboxId,
    encrypted: &[u8],
) -> Result<()> {
    sqlx::query("update sandboxes set request_environment = $2 where id = $1")
        .bind(sandbox.0)
        .bind(encrypted)
        .execute(tx)
        .await?;
    Ok(())
}
