//! Leases of snapshots: claims by those who take or delete them, and what they write; measurements.

use std::time::Duration;

use fsa_model::{Failure, SnapshotId, VolumeId, snapshot::SnapshotContent};
use sqlx::{FromRow, Row as _, postgres::PgRow, types::Json};
use uuid::Uuid;

use super::{
    Store,
    branches::{self, BranchRow},
    events::{self, NewEvent},
    projects::{self, ProjectRow},
    snapshots::{self, SnapshotRow},
};

/// A snapshot that this process creates or deletes.
#[derive(Clone, Debug)]
pub struct ClaimedSnapshot {
    pub row: SnapshotRow,
    pub project: ProjectRow,
    pub branch: BranchRow,
    pub lease: Uuid,
}

impl<'r> FromRow<'r, PgRow> for ClaimedSnapshot {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            row: SnapshotRow::from_row(row)?,
            project: ProjectRow::from_row(row)?,
            branch: BranchRow::from_row(row)?,
            lease: row.try_get("n_lease_id")?,
        })
    }
}

/// Claims at most `limit` snapshots that are to be created or deleted and that no live process works on.
///
/// # Errors
/// The database does not answer.
pub async fn claim(store: &Store, limit: i64, lease: Duration) -> Result<Vec<ClaimedSnapshot>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with due as (
             select o.id from snapshots o join branches q on q.volume_id = o.volume_id
             where (o.state = 'creating' or o.deleted_at is not null) and o.next_attempt_at <= now()
               and q.deleted_at is null and (o.lease_until is null or o.lease_until < now())
             order by o.next_attempt_at limit $1 for update of o skip locked),
         n as (
             update snapshots set lease_id = gen_random_uuid(), lease_until = now() + make_interval(secs => $2)
             from due where snapshots.id = due.id returning snapshots.*)
         select n.lease_id as n_lease_id, ",
        snapshots::columns!(),
        ", ",
        projects::columns!(),
        ", ",
        branches::columns!(),
        " from n join projects p on p.id = n.project_id join branches b on b.volume_id = n.volume_id"
    ))
    .bind(limit)
    .bind(lease.as_secs_f64())
    .fetch_all(&store.pool)
    .await
}

/// Renews a lease. False where it is lost.
///
/// # Errors
/// The database does not answer.
pub async fn renew(
    store: &Store,
    snapshot: SnapshotId,
    lease: Uuid,
    duration: Duration,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update snapshots set lease_until = now() + make_interval(secs => $3) where id = $1 and lease_id = $2",
    )
    .bind(snapshot.0)
    .bind(lease)
    .bind(duration.as_secs_f64())
    .execute(&store.pool)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Releases all leases. Only where the processes that held them are certainly dead.
///
/// # Errors
/// The database does not answer.
pub async fn release_all_leases(store: &Store) -> Result<(), sqlx::Error> {
    sqlx::query("update snapshots set lease_id = null, lease_until = null where lease_id is not null")
        .execute(&store.pool)
        .await
        .map(drop)
}

/// Records that a snapshot was taken, with the event. False where that was recorded before, or it is being deleted.
///
/// # Errors
/// The database does not answer.
pub async fn finish_creation(
    store: &Store,
    snapshot: SnapshotId,
    content: &SnapshotContent,
    event: NewEvent,
) -> Result<bool, sqlx::Error> {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut tx = store.pool.begin().await?;
    let done = sqlx::query(
        "update snapshots set state = 'ready', failure = null, created_at = now(), bytes = $2,
                measured_at = case when $2::bigint is null then null else now() end,
                database_version = $3, database_bytes = $4, attempts = 0, lease_id = null, lease_until = null
         where id = $1 and state = 'creating' and deleted_at is null",
    )
    .bind(snapshot.0)
    .bind(content.bytes.map(bytes))
    .bind(
        content
            .database
            .as_ref()
            .map(|database| database.version.as_str()),
    )
    .bind(content.database.as_ref().map(|database| bytes(database.bytes)))
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() > 0 {
        events::append(&mut tx, event).await?;
    } else {
        // Its deletion was requested meanwhile.
        sqlx::query("update snapshots set lease_id = null, lease_until = null where id = $1")
            .bind(snapshot.0)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(done.rows_affected() > 0)
}

/// Removes the row of a snapshot that is gone, with the event.
///
/// # Errors
/// The database does not answer.
pub async fn finish_deletion(
    store: &Store,
    claimed: &ClaimedSnapshot,
    event: NewEvent,
) -> Result<(), sqlx::Error> {
    let mut tx = store.pool.begin().await?;
    let done = sqlx::query("delete from snapshots where id = $1 and lease_id = $2")
        .bind(claimed.row.snapshot.id.0)
        .bind(claimed.lease)
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() > 0 {
        events::append(&mut tx, event).await?;
    }
    tx.commit().await
}

/// Records a failed attempt and releases the lease. Without a `next` attempt the snapshot has failed, with the event.
///
/// # Errors
/// The database does not answer.
pub async fn record_failure(
    store: &Store,
    claimed: &ClaimedSnapshot,
    failure: &Failure,
    next: Option<Duration>,
    event: NewEvent,
) -> Result<(), sqlx::Error> {
    let mut tx = store.pool.begin().await?;
    let done = sqlx::query(
        "update snapshots set failure = $3, attempts = attempts + 1,
                state = case when $4::float8 is null and deleted_at is null then 'failed' else state end,
                next_attempt_at = now() + make_interval(secs => coalesce($4, 0)),
                lease_id = null, lease_until = null
         where id = $1 and lease_id = $2",
    )
    .bind(claimed.row.snapshot.id.0)
    .bind(claimed.lease)
    .bind(Json(failure))
    .bind(next.map(|next| next.as_secs_f64()))
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() > 0 && next.is_none() {
        events::append(&mut tx, event).await?;
    }
    tx.commit().await
}

/// The time until the next attempt is due or a lease expires, by the database's clock. `None` where nothing waits.
///
/// # Errors
/// The database does not answer.
pub async fn next_due(store: &Store) -> Result<Option<Duration>, sqlx::Error> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from min(greatest(n.next_attempt_at, n.lease_until)) - clock_timestamp())::float8
         from snapshots n join branches b on b.volume_id = n.volume_id
         where (n.state = 'creating' or n.deleted_at is not null) and n.next_attempt_at < 'infinity'
           and b.deleted_at is null",
    )
    .fetch_one(&store.pool)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0))))
}

/// A snapshot to be measured.
pub struct DueMeasurement {
    pub snapshot: SnapshotId,
    pub volume: VolumeId,
    pub region: String,
}

/// Snapshots that were not measured for a while, the ones that were never measured first. What only a snapshot has
/// grows more slowly the older it is, and so does the time between two measurements.
///
/// # Errors
/// The database does not answer.
pub async fn due_measurements(store: &Store, limit: i64) -> Result<Vec<DueMeasurement>, sqlx::Error> {
    let rows = sqlx::query(
        "select n.id, n.volume_id, p.region from snapshots n join projects p on p.id = n.project_id join branches b on b.volume_id = n.volume_id
         where n.state = 'ready' and n.deleted_at is null and b.deleted_at is null
           and (n.measured_at is null
                or n.measured_at < now() - greatest(interval '10 minutes', (now() - n.created_at) / 4))
         order by n.measured_at nulls first limit $1",
    )
    .bind(limit)
    .fetch_all(&store.pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(DueMeasurement {
            snapshot: SnapshotId(row.try_get("id")?),
            volume: VolumeId(row.try_get("volume_id")?),
            region: row.try_get("region")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Stores a measurement. `None` keeps the last known value and defers the next measurement as well.
///
/// # Errors
/// The database does not answer.
pub async fn set_bytes(store: &Store, snapshot: SnapshotId, bytes: Option<u64>) -> Result<(), sqlx::Error> {
    sqlx::query("update snapshots set bytes = coalesce($2, bytes), measured_at = now() where id = $1")
        .bind(snapshot.0)
        .bind(bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)))
        .execute(&store.pool)
        .await
        .map(drop)
}
