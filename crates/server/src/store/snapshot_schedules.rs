//! Schedules of snapshots, as rows: those of projects, the branches that are due, and what was taken.

use chrono::{DateTime, Utc};
use fsa_model::{
    BranchName, ProjectId, SandboxId, SandboxRef, SnapshotId, VolumeId, snapshot_schedule::SnapshotSchedule,
};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};

use super::{
    Store, parsed_column,
    projects::{self, ProjectRow},
};
use crate::error::Result;

/// A branch whose snapshots follow a schedule.
#[derive(Clone, Debug)]
pub struct ScheduledBranch {
    pub project: ProjectRow,
    pub branch: BranchName,
    pub sandbox: SandboxRef,
    /// None: the default of the region.
    pub schedule: Option<SnapshotSchedule>,
    /// When the schedule was last followed, or the branch created.
    pub last: DateTime<Utc>,
    /// The newest snapshot that is ready, whatever its cause.
    pub newest: Option<SnapshotId>,
    pub refused: Option<String>,
}

impl<'r> FromRow<'r, PgRow> for ScheduledBranch {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let project = ProjectRow::from_row(row)?;
        Ok(Self {
            sandbox: SandboxRef {
                id: SandboxId(row.try_get("sandbox_id")?),
                project: project.id,
                volume: VolumeId(row.try_get("volume_id")?),
                resource: parsed_column(row, "resource")?,
            },
            project,
            branch: parsed_column(row, "branch")?,
            schedule: schedule(row)?,
            last: row.try_get("last")?,
            newest: row.try_get::<Option<_>, _>("newest")?.map(SnapshotId),
            refused: row.try_get("schedule_refused")?,
        })
    }
}

fn schedule(row: &PgRow) -> Result<Option<SnapshotSchedule>, sqlx::Error> {
    let Some(hourly) = row.try_get::<Option<i32>, _>("hourly")? else {
        return Ok(None);
    };
    let number = |number: i32| u16::try_from(number).unwrap_or(0);
    Ok(Some(SnapshotSchedule {
        hourly: number(hourly),
        daily: number(row.try_get("daily")?),
    }))
}

/// Branches with a sandbox that were not looked at for an hour (without hourly snapshots: a day), the longest ago first; also those whose time is in the
/// future. Branches that are being copied, restored or snapshotted by the schedule wait, and so does their project.
///
/// # Errors
/// The database does not answer.
pub async fn due(store: &Store, now: DateTime<Utc>, limit: i64) -> Result<Vec<ScheduledBranch>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        projects::columns!(),
        ", b.volume_id, b.name as branch, s.id as sandbox_id, s.resource, c.hourly, c.daily, b.schedule_refused,
                coalesce(b.schedule_checked_at, b.created_at) as last,
                (select n.id from snapshots n where n.volume_id = b.volume_id and n.state = 'ready'
                    and n.deleted_at is null order by n.created_at desc, n.id desc limit 1) as newest
         from branches b join projects p on p.id = b.project_id
              join sandboxes s on s.volume_id = b.volume_id and s.desired_state <> 'terminated'
              left join snapshot_schedules c on c.project_id = p.id
         where b.deleted_at is null and p.deleted_at is null
           and (coalesce(b.schedule_checked_at, b.created_at)
                    <= $1 - case when c.hourly = 0 then interval '1 day' else interval '1 hour' end
                or coalesce(b.schedule_checked_at, b.created_at) > $1 + interval '1 hour')
           and (b.source_snapshot is null and b.source_backup is null or b.copied_at is not null) and s.restore_snapshot is null
           and not exists (select 1 from snapshots n where n.project_id = p.id and n.cause = 'schedule'
                                                       and n.state = 'creating' and n.deleted_at is null)
         order by coalesce(b.schedule_checked_at, b.created_at) limit $2"
    ))
    .bind(now)
    .bind(limit)
    .fetch_all(&store.pool)
    .await
}

/// Scheduled snapshots that are being taken, in all projects.
///
/// # Errors
/// The database does not answer.
pub async fn in_progress(store: &Store) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from snapshots where cause = 'schedule' and state = 'creating' and deleted_at is null",
    )
    .fetch_one(&store.pool)
    .await
}

/// Locks a living project until the transaction ends. False where it was deleted.
///
/// # Errors
/// The database does not answer.
pub async fn lock_project(tx: &mut PgConnection, project: ProjectId) -> Result<bool> {
    let found = sqlx::query("select 1 from projects where id = $1 and deleted_at is null for update");
    Ok(found.bind(project.0).fetch_optional(tx).await?.is_some())
}

/// Records that the schedule was followed for a branch, and why no snapshot was taken where it should have been.
///
/// # Errors
/// The database does not answer.
pub async fn set_checked(
    connection: &mut PgConnection,
    branch: VolumeId,
    now: DateTime<Utc>,
    refused: Option<&str>,
) -> Result<()> {
    sqlx::query("update branches set schedule_checked_at = $2, schedule_refused = $3 where volume_id = $1")
        .bind(branch.0)
        .bind(now)
        .bind(refused)
        .execute(connection)
        .await?;
    Ok(())
}

/// The scheduled snapshots of a branch, with the schedule of its project.
#[derive(Debug)]
pub struct Taken {
    pub project: ProjectId,
    pub region: String,
    pub volume: VolumeId,
    pub schedule: Option<SnapshotSchedule>,
    pub snapshots: Vec<(SnapshotId, DateTime<Utc>)>,
}

/// Scheduled snapshots of the projects in which one was taken, or whose schedule was changed, within a day. In the order
/// of projects.
///
/// # Errors
/// The database does not answer.
pub async fn taken(store: &Store) -> Result<Vec<Taken>, sqlx::Error> {
    let rows = sqlx::query(
        "with active as (
             select n.project_id as id from snapshots n
                 where n.cause = 'schedule' and n.created_at > now() - interval '1 day'
             union select project_id from snapshot_schedules where updated_at > now() - interval '1 day')
         select n.project_id, n.volume_id, p.region, c.hourly, c.daily,
                array_agg(n.id order by n.created_at) as ids, array_agg(n.created_at order by n.created_at) as times
         from active a join snapshots n on n.project_id = a.id join projects p on p.id = a.id
              left join snapshot_schedules c on c.project_id = a.id
         where n.cause = 'schedule' and n.state = 'ready' and n.deleted_at is null
         group by n.project_id, n.volume_id, p.region, c.hourly, c.daily order by n.project_id",
    )
    .fetch_all(&store.pool)
    .await?;
    let read = |row: &PgRow| {
        let ids: Vec<uuid::Uuid> = row.try_get("ids")?;
        let times: Vec<DateTime<Utc>> = row.try_get("times")?;
        Ok(Taken {
            project: ProjectId(row.try_get("project_id")?),
            region: row.try_get("region")?,
            volume: VolumeId(row.try_get("volume_id")?),
            schedule: schedule(row)?,
            snapshots: ids.into_iter().map(SnapshotId).zip(times).collect(),
        })
    };
    rows.iter().map(read).collect()
}

/// Requests the deletion of scheduled snapshots that no restore or copy needs. Returns how many.
///
/// # Errors
/// The database does not answer.
pub async fn expire(store: &Store, snapshots: &[SnapshotId]) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "update snapshots set deleted_at = now(), next_attempt_at = now(), attempts = 0
         where id = any($1) and cause = 'schedule' and deleted_at is null
           and not exists (select 1 from sandboxes s where s.project_id = snapshots.project_id
                                                       and s.restore_snapshot = snapshots.id)
           and not exists (select 1 from branches b where b.project_id = snapshots.project_id
                                                      and b.source_snapshot = snapshots.id and b.copied_at is null)",
    )
    .bind(snapshots.iter().map(|id| id.0).collect::<Vec<_>>())
    .execute(&store.pool)
    .await?;
    Ok(done.rows_affected())
}

/// The schedule of a project, where it has one of its own, and why the last snapshot of a branch was not taken.
///
/// # Errors
/// The database does not answer.
pub async fn of_project(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<(Option<SnapshotSchedule>, Option<String>)> {
    let row = sqlx::query(
        "select c.hourly, c.daily,
                (select b.schedule_refused from branches b where b.project_id = p.id and b.deleted_at is null
                    and b.schedule_refused is not null order by b.schedule_checked_at desc limit 1) as refused
         from projects p left join snapshot_schedules c on c.project_id = p.id where p.id = $1",
    )
    .bind(project.0)
    .fetch_one(connection)
    .await?;
    Ok((schedule(&row)?, row.try_get("refused")?))
}

/// Sets the schedule of a project; `None` is the default of its region.
///
/// # Errors
/// The database does not answer.
pub async fn set(
    tx: &mut PgConnection,
    project: ProjectId,
    schedule: Option<SnapshotSchedule>,
) -> Result<()> {
    let Some(schedule) = schedule else {
        sqlx::query("delete from snapshot_schedules where project_id = $1")
            .bind(project.0)
            .execute(tx)
            .await?;
        return Ok(());
    };
    sqlx::query(
        "insert into snapshot_schedules (project_id, hourly, daily) values ($1, $2, $3)
         on conflict (project_id) do update set hourly = $2, daily = $3, updated_at = now()",
    )
    .bind(project.0)
    .bind(i32::from(schedule.hourly))
    .bind(i32::from(schedule.daily))
    .execute(tx)
    .await?;
    Ok(())
}
