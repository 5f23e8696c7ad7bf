//! Leases of backups: claims by those who store, verify or delete them, and what they write.

use std::time::Duration;

use fsa_model::{BackupId, Failure};
use sqlx::{FromRow, Row as _, postgres::PgRow, types::Json};
use uuid::Uuid;

use super::{
    Store,
    backups::{self, BackupRow},
    projects::{self, ProjectRow},
};

/// A backup that this process works on.
#[derive(Clone, Debug)]
pub struct ClaimedBackup {
    pub row: BackupRow,
    pub lease: Uuid,
}

impl<'r> FromRow<'r, PgRow> for ClaimedBackup {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            row: BackupRow::from_row(row)?,
            lease: row.try_get("k_lease_id")?,
        })
    }
}

/// Something is to be done about the backup in the table `o`.
macro_rules! due {
    () => {
        "(o.state in ('queued', 'running') or o.deleted_at is not null
          or o.state = 'ready' and o.verify_requested_at is not null)"
    };
}

/// Claims at most `limit` backups with work that no live process does.
///
/// # Errors
/// The database does not answer.
pub async fn claim(store: &Store, limit: i64, lease: Duration) -> Result<Vec<ClaimedBackup>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with due as (
             select o.id from backups o where ",
        due!(),
        " and o.next_attempt_at <= now() and (o.lease_until is null or o.lease_until < now())
             order by o.next_attempt_at, o.id limit $1 for update of o skip locked),
         k as (
             update backups set lease_id = gen_random_uuid(), lease_until = now() + make_interval(secs => $2),
                    state = case when backups.state = 'queued' then 'running' else backups.state end
             from due where backups.id = due.id returning backups.*)
         select k.lease_id as k_lease_id, ",
        backups::columns!(),
        " from k"
    ))
    .bind(limit)
    .bind(lease.as_secs_f64())
    .fetch_all(&store.pool)
    .await
}

/// How far a backup is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub files: u64,
    pub bytes: u64,
    pub added_bytes: u64,
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Renews a lease, and stores the progress of a backup that runs. `None` where the lease is lost; else whether the
/// backup is to be canceled.
///
/// # Errors
/// The database does not answer.
pub async fn renew(
    store: &Store,
    claimed: &ClaimedBackup,
    duration: Duration,
    counts: Counts,
) -> Result<Option<bool>, sqlx::Error> {
    sqlx::query_scalar(
        "update backups set lease_until = now() + make_interval(secs => $3),
                files = case when state = 'running' then $4 else files end,
                bytes = case when state = 'running' then $5 else bytes end
         where id = $1 and lease_id = $2 returning cancel_requested",
    )
    .bind(claimed.row.backup.id.0)
    .bind(claimed.lease)
    .bind(duration.as_secs_f64())
    .bind(number(counts.files))
    .bind(number(counts.bytes))
    .fetch_optional(&store.pool)
    .await
}

/// Whether the cancellation of a backup was requested.
///
/// # Errors
/// The database does not answer.
pub async fn cancel_requested(store: &Store, id: BackupId) -> Result<bool, sqlx::Error> {
    let found = sqlx::query_scalar("select cancel_requested from backups where id = $1");
    Ok(found
        .bind(id.0)
        .fetch_optional(&store.pool)
        .await?
        .unwrap_or(true))
}

/// The project of a backup, also one that is being deleted; `None` once it is gone.
///
/// # Errors
/// The database does not answer.
pub async fn project_of(store: &Store, claimed: &ClaimedBackup) -> Result<Option<ProjectRow>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        projects::columns!(),
        " from projects p join backups k on k.project_id = p.id where k.id = $1"
    ))
    .bind(claimed.row.backup.id.0)
    .fetch_optional(&store.pool)
    .await
}

/// Releases all leases. Only where the processes that held them are certainly dead.
///
/// # Errors
/// The database does not answer.
pub async fn release_all_leases(store: &Store) -> Result<(), sqlx::Error> {
    sqlx::query("update backups set lease_id = null, lease_until = null where lease_id is not null")
        .execute(&store.pool)
        .await
        .map(drop)
}

/// What an attempt ended with.
#[derive(Clone, Debug)]
pub enum Ended {
    /// It is in the repository, under this id.
    Stored(String, Counts),
    Canceled,
    /// No attempt follows.
    Failed(Failure),
    /// The next attempt is due after this time.
    Retry(Failure, Duration),
    Verified(Vec<String>),
    Deleted,
}

/// Records the end of an attempt, and releases the lease. False where the lease was lost.
///
/// # Errors
/// The database does not answer.
pub async fn finish(store: &Store, claimed: &ClaimedBackup, ended: &Ended) -> Result<bool, sqlx::Error> {
    let statement = match ended {
        Ended::Stored(..) => {
            "update backups set state = 'ready', repository_snapshot = $3, files = $4, bytes = $5, added_bytes = $6,
                    failure = null, finished_at = now(), attempts = 0, lease_id = null, lease_until = null
             where id = $1 and lease_id = $2"
        }
        Ended::Canceled => {
            "update backups set state = 'canceled', failure = null, finished_at = now(), lease_id = null,
                    lease_until = null where id = $1 and lease_id = $2"
        }
        Ended::Failed(_) => {
            "update backups set state = case when state = 'running' then 'failed' else state end, failure = $7,
                    verify_requested_at = null, finished_at = coalesce(finished_at, now()), lease_id = null,
                    lease_until = null
             where id = $1 and lease_id = $2"
        }
        Ended::Retry(..) => {
            "update backups set failure = $7, attempts = attempts + 1,
                    next_attempt_at = now() + make_interval(secs => $8), lease_id = null, lease_until = null
             where id = $1 and lease_id = $2"
        }
        Ended::Verified(_) => {
            "update backups set verified_at = now(), problems = $9, verify_requested_at = null, failure = null,
                    attempts = 0, lease_id = null, lease_until = null
             where id = $1 and lease_id = $2"
        }
        Ended::Deleted => "delete from backups where id = $1 and lease_id = $2",
    };
    let (snapshot, counts) = match ended {
        Ended::Stored(snapshot, counts) => (Some(snapshot), *counts),
        _ => (None, Counts::default()),
    };
    let (failure, delay) = match ended {
        Ended::Failed(failure) => (Some(failure), None),
        Ended::Retry(failure, delay) => (Some(failure), Some(delay.as_secs_f64())),
        _ => (None, None),
    };
    let problems = match ended {
        Ended::Verified(problems) => Some(Json(problems)),
        _ => None,
    };
    // All have the same parameters, so that one statement is written in one place.
    let statement = format!(
        "with given as (select $3::text, $4::bigint, $5::bigint, $6::bigint, $7::jsonb, $8::float8, $9::jsonb) {statement}"
    );
    let done = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(claimed.row.backup.id.0)
        .bind(claimed.lease)
        .bind(snapshot)
        .bind(number(counts.files))
        .bind(number(counts.bytes))
        .bind(number(counts.added_bytes))
        .bind(failure.map(Json))
        .bind(delay)
        .bind(problems)
        .execute(&store.pool)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// The time until the next attempt is due or a lease expires, by the database's clock. `None` where nothing waits.
///
/// # Errors
/// The database does not answer.
pub async fn next_due(store: &Store) -> Result<Option<Duration>, sqlx::Error> {
    let seconds: Option<f64> = sqlx::query_scalar(concat!(
        "select extract(epoch from min(greatest(o.next_attempt_at, o.lease_until)) - clock_timestamp())::float8
         from backups o where ",
        due!()
    ))
    .fetch_one(&store.pool)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0))))
}
