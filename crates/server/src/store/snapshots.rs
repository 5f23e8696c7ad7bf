//! Snapshots, as rows: what was requested and what was observed.

use fsa_model::{
    BranchName, ProjectId, ResourceName, SandboxId, SandboxRef, SnapshotId, UserId, VolumeId,
    snapshot::{Snapshot, SnapshotCause, SnapshotDatabase, SnapshotState},
};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{Store, enum_column, enum_text, optional_json_column, parsed_column};
use crate::error::{Error, Result};

/// A snapshot, with the fields that only its worker needs.
#[derive(Clone, Debug)]
pub struct SnapshotRow {
    pub snapshot: Snapshot,
    /// The sandbox when the snapshot was requested, with its volume.
    pub sandbox: SandboxRef,
    /// Consecutive failed attempts.
    pub attempts: i32,
}

macro_rules! columns {
    () => {
        "n.id as n_id, n.project_id as n_project_id, n.volume_id as n_volume_id, n.sandbox_id as n_sandbox_id, \
         n.resource as n_resource, n.name as n_name, n.cause as n_cause, n.promoted_branch as n_promoted_branch, n.created_at as n_created_at, \
         case when n.deleted_at is null then n.state else 'deleting' end as n_state, n.failure as n_failure, \
         n.bytes as n_bytes, n.database_version as n_database_version, n.database_bytes as n_database_bytes, \
         n.attempts as n_attempts, \
         (select o.name from branches o where o.volume_id = n.volume_id) as n_branch, (select u.login from users u where u.id = n.created_by) as n_created_by"
    };
}

pub(crate) use columns;

impl<'r> FromRow<'r, PgRow> for SnapshotRow {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let project = ProjectId(row.try_get("n_project_id")?);
        let bytes =
            |name: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(name)?.map(i64::unsigned_abs));
        let database = match row.try_get::<Option<String>, _>("n_database_version")? {
            Some(version) => Some(SnapshotDatabase {
                version,
                bytes: bytes("n_database_bytes")?.unwrap_or(0),
            }),
            None => None,
        };
        Ok(Self {
            snapshot: Snapshot {
                id: SnapshotId(row.try_get("n_id")?),
                project_id: project,
                branch: parsed_column(row, "n_branch")?,
                name: row.try_get("n_name")?,
                cause: enum_column(row, "n_cause")?,
                promoted_branch: row
                    .try_get::<Option<&str>, _>("n_promoted_branch")?
                    .and_then(|name| name.parse().ok()),
                state: enum_column(row, "n_state")?,
                bytes: bytes("n_bytes")?,
                database,
                error: optional_json_column(row, "n_failure")?,
                created_by: row.try_get("n_created_by")?,
                created_at: row.try_get("n_created_at")?,
            },
            sandbox: SandboxRef {
                id: SandboxId(row.try_get("n_sandbox_id")?),
                project,
                volume: VolumeId(row.try_get("n_volume_id")?),
                resource: parsed_column::<ResourceName>(row, "n_resource")?,
            },
            attempts: row.try_get("n_attempts")?,
        })
    }
}

/// A new snapshot's columns.
pub struct NewSnapshot<'a> {
    pub id: SnapshotId,
    pub sandbox: &'a SandboxRef,
    pub name: Option<&'a str>,
    pub cause: SnapshotCause,
    pub idempotency_key: Option<&'a str>,
    pub promoted_branch: Option<&'a BranchName>,
    /// None for the schedule.
    pub by: Option<UserId>,
    /// The snapshot workers take it. Otherwise the restore that needs it does.
    pub queued: bool,
}

/// Inserts a snapshot that is to be taken.
///
/// # Errors
/// The database does not answer; name or key are in use.
pub async fn insert(tx: &mut PgConnection, new: NewSnapshot<'_>) -> Result<()> {
    sqlx::query(
        "insert into snapshots (id, project_id, volume_id, sandbox_id, resource, name, cause, idempotency_key,
                                created_by, promoted_branch, next_attempt_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, case when $11 then now() else 'infinity' end)",
    )
    .bind(new.id.0)
    .bind(new.sandbox.project.0)
    .bind(new.sandbox.volume.0)
    .bind(new.sandbox.id.0)
    .bind(new.sandbox.resource.as_str())
    .bind(new.name)
    .bind(enum_text(&new.cause))
    .bind(new.idempotency_key)
    .bind(new.by.map(|user| user.0))
    .bind(new.promoted_branch.map(BranchName::as_str))
    .bind(new.queued)
    .execute(tx)
    .await?;
    Ok(())
}

/// The number of the project's snapshots in all branches, without those that are being deleted.
///
/// # Errors
/// The database does not answer.
pub async fn count(tx: &mut PgConnection, project: ProjectId) -> Result<i64> {
    Ok(
        sqlx::query_scalar("select count(*) from snapshots where project_id = $1 and deleted_at is null")
            .bind(project.0)
            .fetch_one(tx)
            .await?,
    )
}

/// Whether a snapshot of the branch has this name.
///
/// # Errors
/// The database does not answer.
pub async fn has_name(tx: &mut PgConnection, branch: VolumeId, name: &str) -> Result<bool> {
    let found = sqlx::query_scalar(
        "select exists (select 1 from snapshots where volume_id = $1 and name = $2 and deleted_at is null)",
    );
    Ok(found.bind(branch.0).bind(name).fetch_one(tx).await?)
}

/// The snapshot that was requested with this idempotency key.
///
/// # Errors
/// The database does not answer.
pub async fn by_key(tx: &mut PgConnection, branch: VolumeId, key: &str) -> Result<Option<SnapshotRow>> {
    Ok(sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from snapshots n where n.volume_id = $1 and n.idempotency_key = $2"
    ))
    .bind(branch.0)
    .bind(key)
    .fetch_optional(tx)
    .await?)
}

/// A snapshot of the branch by its id.
///
/// # Errors
/// The database does not answer.
pub async fn by_id(
    connection: &mut PgConnection,
    branch: VolumeId,
    id: SnapshotId,
) -> Result<Option<SnapshotRow>> {
    Ok(sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from snapshots n where n.volume_id = $1 and n.id = $2"
    ))
    .bind(branch.0)
    .bind(id.0)
    .fetch_optional(connection)
    .await?)
}

/// A snapshot of any branch of the project by its id.
///
/// # Errors
/// The database does not answer.
pub async fn of_project(
    connection: &mut PgConnection,
    project: ProjectId,
    id: SnapshotId,
) -> Result<Option<SnapshotRow>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from snapshots n where n.project_id = $1 and n.id = $2"
    ))
    .bind(project.0)
    .bind(id.0)
    .fetch_optional(connection)
    .await
}

/// A snapshot of the branch by its id or name.
///
/// # Errors
/// Not found; the database does not answer.
pub async fn find(connection: &mut PgConnection, branch: VolumeId, id_or_name: &str) -> Result<SnapshotRow> {
    let found = match id_or_name.parse() {
        Ok(id) => by_id(connection, branch, id).await?,
        Err(_) => {
            sqlx::query_as(concat!(
                "select ",
                columns!(),
                " from snapshots n where n.volume_id = $1 and n.name = $2 and n.deleted_at is null"
            ))
            .bind(branch.0)
            .bind(id_or_name)
            .fetch_optional(connection)
            .await?
        }
    };
    found.ok_or_else(|| Error::not_found("snapshot"))
}

/// The branch's snapshots, the newest first; only those before `before` where it is given.
///
/// # Errors
/// The database does not answer.
pub async fn list(
    store: &Store,
    branch: VolumeId,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Snapshot>> {
    let rows: Vec<SnapshotRow> = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from snapshots n where n.volume_id = $1 and ($2::uuid is null or (n.created_at, n.id) <
            (select o.created_at, o.id from snapshots o where o.id = $2 and o.volume_id = $1))
          order by n.created_at desc, n.id desc limit $3"
    ))
    .bind(branch.0)
    .bind(before)
    .bind(limit)
    .fetch_all(&store.pool)
    .await?;
    Ok(rows.into_iter().map(|row| row.snapshot).collect())
}

/// Requests the deletion of a snapshot. A deletion that was requested before is attempted again at once.
///
/// # Errors
/// The database does not answer.
pub async fn delete(tx: &mut PgConnection, snapshot: SnapshotId) -> Result<()> {
    sqlx::query(
        "update snapshots set deleted_at = coalesce(deleted_at, now()), next_attempt_at = now(), attempts = 0
         where id = $1",
    )
    .bind(snapshot.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether a restore or the copy of a branch that is not done yet needs this snapshot.
///
/// # Errors
/// The database does not answer.
pub async fn is_needed(tx: &mut PgConnection, project: ProjectId, snapshot: SnapshotId) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "select exists (select 1 from sandboxes where project_id = $1
                                                  and (restore_snapshot = $2 or restore_before = $2))
             or exists (select 1 from branches where project_id = $1 and source_snapshot = $2
                                                 and copied_at is null and deleted_at is null)",
    )
    .bind(project.0)
    .bind(snapshot.0)
    .fetch_one(tx)
    .await?)
}

/// Snapshots taken before restores and promotions that are kept of a branch; the oldest are deleted.
const KEPT_BEFORE_RESTORE: i64 = 10;
/// How long they are kept.
const DAYS_BEFORE_RESTORE: i32 = 30;

/// Requests the deletion of failed snapshots of a branch, of those for copies that are made, and, of those taken before restores and promotions, of all but
/// the newest.
///
/// # Errors
/// The database does not answer.
pub async fn prune(tx: &mut PgConnection, branch: VolumeId) -> Result<()> {
    prune_of(tx, Some(branch)).await.map(drop)
}

/// The same for all branches. Returns how many.
///
/// # Errors
/// The database does not answer.
pub async fn prune_all(store: &Store) -> Result<u64> {
    let mut connection = store.pool.acquire().await?;
    prune_of(&mut connection, None).await
}

async fn prune_of(connection: &mut PgConnection, branch: Option<VolumeId>) -> Result<u64> {
    let done = sqlx::query(
        "update snapshots set deleted_at = now(), next_attempt_at = now(), attempts = 0
         where ($1::uuid is null or volume_id = $1) and deleted_at is null
           and (state = 'failed' and created_at < now() - interval '1 hour'
                -- Of a copy or a comparison whose process was killed.
                or cause = 'branch' and state = 'ready' and created_at < now() - interval '1 hour'
                   and not exists (select 1 from branches b where b.project_id = snapshots.project_id
                                                              and b.source_snapshot = snapshots.id
                                                              and b.copied_at is null and b.deleted_at is null)
                or id in (select k.id from (
                              select id, created_at, row_number() over (partition by volume_id
                                                                        order by created_at desc, id desc) as number
                              from snapshots
                              where ($1::uuid is null or volume_id = $1) and cause in ('before-restore', 'before-promote')
                                and state = 'ready' and name is null and deleted_at is null) k
                          where k.number > $2 or k.created_at < now() - make_interval(days => $3)))
           and not exists (select 1 from sandboxes s where s.project_id = snapshots.project_id
                             and s.restore_snapshot = snapshots.id)",
    )
    .bind(branch.map(|branch| branch.0))
    .bind(KEPT_BEFORE_RESTORE)
    .bind(DAYS_BEFORE_RESTORE)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

impl SnapshotRow {
    /// The name, or the id of a snapshot without one: for messages.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.snapshot.name {
            Some(name) => name.clone(),
            None => self.snapshot.id.to_string(),
        }
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.snapshot.state == SnapshotState::Ready
    }
}
