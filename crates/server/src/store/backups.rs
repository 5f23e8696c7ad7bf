//! Backups, as rows: what was requested and what was observed.

use fsa_model::{
    BackupId, ProjectId, SnapshotId, UserId, VolumeId,
    backup::{Backup, BackupVerification},
};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow, types::Json};
use uuid::Uuid;

use super::{Store, caller::Caller, enum_column, optional_json_column, parsed_column};
use crate::error::{Error, Result};

/// A backup, with the fields that only its worker needs.
#[derive(Clone, Debug)]
pub struct BackupRow {
    pub backup: Backup,
    pub owner: UserId,
    pub volume: VolumeId,
    pub snapshot: Option<SnapshotId>,
    /// Its deletion was requested.
    pub deleted: bool,
    pub cancel_requested: bool,
    /// Consecutive failed attempts.
    pub attempts: i32,
}

macro_rules! columns {
    () => {
        "k.id as k_id, k.owner_id as k_owner_id, k.project_id as k_project_id, k.project_name as k_project_name, \
         k.volume_id as k_volume_id, k.branch as k_branch, k.snapshot_id as k_snapshot_id, \
         k.created_at as k_created_at, k.cancel_requested as k_cancel_requested, \
         case when k.deleted_at is null then k.state else 'deleting' end as k_state, \
         k.deleted_at is not null as k_deleted, k.repository_snapshot as k_repository_snapshot, k.files as k_files, \
         k.bytes as k_bytes, k.added_bytes as k_added_bytes, k.failure as k_failure, \
         k.verify_requested_at is not null as k_verifying, k.verified_at as k_verified_at, \
         k.problems as k_problems, k.finished_at as k_finished_at, k.attempts as k_attempts, \
         (select u.login from users u where u.id = k.created_by) as k_created_by"
    };
}
pub(crate) use columns;

impl<'r> FromRow<'r, PgRow> for BackupRow {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let number = |name: &str| row.try_get::<i64, _>(name).map(i64::unsigned_abs);
        let problems: Option<Json<Vec<String>>> = row.try_get("k_problems")?;
        let verification = row
            .try_get::<Option<_>, _>("k_verified_at")?
            .map(|at| BackupVerification {
                at,
                problems: problems.map(|problems| problems.0).unwrap_or_default(),
            });
        Ok(Self {
            backup: Backup {
                id: BackupId(row.try_get("k_id")?),
                project_id: row.try_get::<Option<_>, _>("k_project_id")?.map(ProjectId),
                project_name: row.try_get("k_project_name")?,
                branch: parsed_column(row, "k_branch")?,
                state: enum_column(row, "k_state")?,
                repository_snapshot: row.try_get("k_repository_snapshot")?,
                files: number("k_files")?,
                bytes: number("k_bytes")?,
                added_bytes: number("k_added_bytes")?,
                error: optional_json_column(row, "k_failure")?,
                verifying: row.try_get("k_verifying")?,
                verification,
                created_by: row.try_get("k_created_by")?,
                created_at: row.try_get("k_created_at")?,
                finished_at: row.try_get("k_finished_at")?,
            },
            owner: UserId(row.try_get("k_owner_id")?),
            volume: VolumeId(row.try_get("k_volume_id")?),
            snapshot: row.try_get::<Option<_>, _>("k_snapshot_id")?.map(SnapshotId),
            deleted: row.try_get("k_deleted")?,
            cancel_requested: row.try_get("k_cancel_requested")?,
            attempts: row.try_get("k_attempts")?,
        })
    }
}

/// A new backup's columns.
pub struct NewBackup<'a> {
    pub id: BackupId,
    pub owner: UserId,
    pub project: ProjectId,
    pub project_name: &'a str,
    pub volume: VolumeId,
    pub branch: &'a str,
    pub snapshot: SnapshotId,
    pub by: UserId,
}

/// Inserts a backup that is to be stored.
///
/// # Errors
/// The database does not answer.
pub async fn insert(tx: &mut PgConnection, new: NewBackup<'_>) -> Result<()> {
    sqlx::query(
        "insert into backups (id, owner_id, project_id, project_name, volume_id, branch, snapshot_id, created_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(new.id.0)
    .bind(new.owner.0)
    .bind(new.project.0)
    .bind(new.project_name)
    .bind(new.volume.0)
    .bind(new.branch)
    .bind(new.snapshot.0)
    .bind(new.by.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// The number of the project's backups that are not stored yet.
///
/// # Errors
/// The database does not answer.
pub async fn count_unfinished(tx: &mut PgConnection, project: ProjectId) -> Result<i64> {
    let counted = sqlx::query_scalar(
        "select count(*) from backups where project_id = $1 and state in ('queued', 'running') and deleted_at is null",
    );
    Ok(counted.bind(project.0).fetch_one(tx).await?)
}

/// A backup of the caller. Other users' backups are not found.
///
/// # Errors
/// Not found; the database does not answer.
pub async fn find(store: &Store, caller: &Caller, id: BackupId) -> Result<BackupRow> {
    let found = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from backups k where k.id = $1 and k.owner_id = $2"
    ))
    .bind(id.0)
    .bind(caller.user().0)
    .fetch_optional(&store.pool)
    .await?;
    found.ok_or_else(|| Error::not_found("backup"))
}

/// Whether there is a row of this id, of any user.
///
/// # Errors
/// The database does not answer.
pub async fn exists(store: &Store, id: BackupId) -> Result<bool> {
    let found = sqlx::query_scalar("select exists (select 1 from backups where id = $1)");
    Ok(found.bind(id.0).fetch_one(&store.pool).await?)
}

/// Backups of the caller, or of one project, the newest first; only those before `before` where it is given.
///
/// # Errors
/// The database does not answer.
pub async fn list(store: &Store, of: Owner, before: Option<Uuid>, limit: i64) -> Result<Vec<Backup>> {
    let (user, project) = match of {
        Owner::User(user) => (Some(user.0), None),
        Owner::Project(project) => (None, Some(project.0)),
    };
    let rows: Vec<BackupRow> = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from backups k
          where ($1::uuid is null or k.owner_id = $1) and ($2::uuid is null or k.project_id = $2)
            and ($3::uuid is null or (k.created_at, k.id) < (select o.created_at, o.id from backups o where o.id = $3))
          order by k.created_at desc, k.id desc limit $4"
    ))
    .bind(user)
    .bind(project)
    .bind(before)
    .bind(limit)
    .fetch_all(&store.pool)
    .await?;
    Ok(rows.into_iter().map(|row| row.backup).collect())
}

/// Whose backups are listed.
#[derive(Clone, Copy, Debug)]
pub enum Owner {
    User(UserId),
    Project(ProjectId),
}

/// A change of what is wanted of a backup.
#[derive(Clone, Copy, Debug)]
pub enum Request {
    Cancel,
    Verify,
    Delete,
}

/// Records a request, which is attempted at once.
///
/// # Errors
/// The database does not answer.
pub async fn request(tx: &mut PgConnection, id: BackupId, request: Request) -> Result<()> {
    let statement = match request {
        Request::Cancel => {
            "update backups set cancel_requested = true, next_attempt_at = now() where id = $1"
        }
        Request::Verify => {
            "update backups set verify_requested_at = now(), next_attempt_at = now(), attempts = 0 where id = $1"
        }
        Request::Delete => {
            "update backups set deleted_at = coalesce(deleted_at, now()), cancel_requested = true,
                    next_attempt_at = now(), attempts = 0 where id = $1"
        }
    };
    sqlx::query(statement).bind(id.0).execute(tx).await?;
    Ok(())
}
