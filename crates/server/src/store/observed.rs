//! Observed state of sandboxes, written by the workers that hold their leases.
//!
//! A worker may write a row only while it holds the lease, and conclusions only while the generation is the one that
//! it read. Every statement here checks both. The observed state can be observed again, so commits do not wait for the
//! disk unless noted.

use std::time::Duration;

use fsa_model::{Condition, ContainerState, Failure, Phase, api::DatabaseStatus, sandboxd::Status};
use serde_json::Value;
use sqlx::{Row as _, types::Json};
use uuid::Uuid;

use super::{
    Store, enum_text,
    leases::{Claim, Lease},
    sandboxes::Restore,
};
use crate::store::events::PendingEvent;

/// The intermediate state of an attempt in progress.
#[derive(Debug)]
pub struct AttemptProgress<'a> {
    pub container: ContainerState,
    pub conditions: &'a [Condition],
    /// A failure, written at once although the attempt continues with the remaining work. `None` keeps the row's
    /// value.
    pub failure: Option<&'a Failure>,
    /// Consecutive failed attempts, including this one if it has failed.
    pub attempts: i32,
    pub phase: Phase,
    pub database_ready: bool,
}

/// The result of an attempt. Writing it releases the lease.
#[derive(Debug)]
pub struct AttemptResult<'a> {
    /// The desired state of the generation that was read is reached.
    pub reached: bool,
    pub container: ContainerState,
    pub conditions: &'a [Condition],
    pub failure: Option<&'a Failure>,
    /// Consecutive failed attempts.
    pub attempts: i32,
    /// The delay before the next reconciliation without a trigger; `None` for never.
    pub next: Option<Duration>,
    /// A requeue arrived since the observation that this result is based on.
    pub requeued: bool,
    /// sandboxd's status; `None` keeps the row's value.
    pub status: Option<&'a Status>,
    pub digest: Option<&'a str>,
    pub follower: Option<Uuid>,
    pub phase: Phase,
    pub database_ready: bool,
}

/// Events as three arrays, for one statement.
pub(super) struct Columns {
    kinds: Vec<String>,
    messages: Vec<String>,
    data: Vec<Value>,
}

impl Columns {
    pub(super) fn new(pending_events: Vec<PendingEvent>) -> Self {
        let mut columns = Self {
            kinds: Vec::new(),
            messages: Vec::new(),
            data: Vec::new(),
        };
        for pending_event in pending_events {
            columns.kinds.push(enum_text(&pending_event.kind));
            columns.messages.push(pending_event.message);
            columns.data.push(pending_event.data);
        }
        columns
    }

    pub(super) fn bind<'q>(
        self,
        query: sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>,
    ) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
        query.bind(self.kinds).bind(self.messages).bind(self.data)
    }
}

/// Extends a statement that has `mine` (the sandbox if this worker may write it) and whose first six parameters are
/// project, owner, sandbox and the three columns of events. Adds the events, the database's state ($7), and whether
/// the write happened.
macro_rules! with_events {
    ($mine:literal) => {
        concat!(
            "with async_commit as materialized (select set_config('synchronous_commit', 'off', true)), mine as (",
            $mine,
            "), data as (
                 update branches b set database_status = 'READY', database_ever_ready = true from mine
                 where b.volume_id = mine.volume_id and $7
                   and (b.database_status <> 'READY' or not b.database_ever_ready)),
             new_events as (
                 insert into events (project_id, owner_id, sandbox_id, kind, message, data)
                 select $1, $2, $3, e.kind, e.message, e.data
                 from mine, unnest($4::text[], $5::text[], $6::jsonb[]) with ordinality as e(kind, message, data, place)
                 order by e.place)
             select exists (select 1 from mine)"
        )
    };
}

/// Writes the progress of an attempt. False where the lease is lost or the generation has changed.
///
/// # Errors
/// The database does not answer.
pub async fn write_progress(
    store: &Store,
    claim: &Claim,
    progress: AttemptProgress<'_>,
    pending_events: Vec<PendingEvent>,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(with_events!(
        "update sandboxes set container = $10, conditions = $11, failure = coalesce($12, failure),
                notified_phase = $13, attempts = $14, observed_at = now(), updated_at = now()
         from async_commit where id = $3 and lease_id = $8 and generation = $9 returning id, volume_id"
    ))
    .bind(claim.project.id.0)
    .bind(claim.project.owner.0)
    .bind(claim.sandbox.id.0);
    Columns::new(pending_events)
        .bind(query)
        .bind(progress.database_ready)
        .bind(claim.lease.id)
        .bind(claim.sandbox.generation)
        .bind(enum_text(&progress.container))
        .bind(Json(progress.conditions))
        .bind(progress.failure.map(Json))
        .bind(enum_text(&progress.phase))
        .bind(progress.attempts)
        .fetch_one(&store.pool)
        .await?
        .try_get(0)
}

/// Writes the result of an attempt and releases the lease. A requeue during the attempt makes the sandbox due at once,
/// unless the attempt failed: then the backoff is kept. Returns false and writes nothing where the lease is lost or
/// the generation has changed.
///
/// # Errors
/// The database does not answer.
pub async fn write_result(
    store: &Store,
    claim: &Claim,
    result: AttemptResult<'_>,
    pending_events: Vec<PendingEvent>,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(with_events!(
        "update sandboxes set container = $10, conditions = $11, failure = $12, notified_phase = $13,
                observed_generation = case when $14 then generation else observed_generation end,
                attempted_generation = generation,
                attempts = $15,
                next_attempt_at = case
                    when $12::jsonb is null and $16::float8 is not null and ($21 or requeues <> $17) then now()
                    when $16::float8 is null then now() + interval '100 years'
                    else now() + make_interval(secs => $16) end,
                status = coalesce($18, status), digest = $19, follower = $20,
                observed_at = now(),
                updated_at = case when (container, conditions, failure, observed_generation, attempts)
                    is distinct from ($10, $11::jsonb, $12::jsonb,
                        case when $14 then generation else observed_generation end, $15)
                    then now() else updated_at end,
                lease_id = null, lease_until = null
         from async_commit where id = $3 and lease_id = $8 and generation = $9 returning id, volume_id"
    ))
    .bind(claim.project.id.0)
    .bind(claim.project.owner.0)
    .bind(claim.sandbox.id.0);
    Columns::new(pending_events)
        .bind(query)
        .bind(result.database_ready)
        .bind(claim.lease.id)
        .bind(claim.sandbox.generation)
        .bind(enum_text(&result.container))
        .bind(Json(result.conditions))
        .bind(result.failure.map(Json))
        .bind(enum_text(&result.phase))
        .bind(result.reached)
        .bind(result.attempts)
        .bind(result.next.map(|next| next.as_secs_f64()))
        .bind(claim.requeues)
        .bind(result.status.map(Json))
        .bind(result.digest)
        .bind(result.follower)
        .bind(result.requeued)
        .fetch_one(&store.pool)
        .await?
        .try_get(0)
}

/// Records an attempt that could not start or that broke this program, and releases the lease.
///
/// # Errors
/// The database does not answer.
pub async fn record_failure(
    store: &Store,
    lease: Lease,
    failure: &Failure,
    next: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update sandboxes set failure = $3, attempts = attempts + 1, attempted_generation = generation,
                next_attempt_at = now() + make_interval(secs => $4), updated_at = now(),
                lease_id = null, lease_until = null
         where id = $1 and lease_id = $2",
    )
    .bind(lease.sandbox.0)
    .bind(lease.id)
    .bind(Json(failure))
    .bind(next.as_secs_f64())
    .execute(&store.pool)
    .await?;
    Ok(())
}

/// Records the loss of the branch's database before any action on it. This commit waits for the disk. False where the
/// lease is lost or the loss was recorded before.
///
/// # Errors
/// The database does not answer.
pub async fn report_lost_database(
    store: &Store,
    claim: &Claim,
    pending_event: PendingEvent,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(
        "with lost as (
             update branches set database_status = $7 where database_ever_ready and database_status <> $7
                 and volume_id = (select volume_id from sandboxes where id = $3 and lease_id = $8)
             returning volume_id),
         new_events as (
             insert into events (project_id, owner_id, sandbox_id, kind, message, data)
             select $1, $2, $3, e.kind, e.message, e.data
             from lost, unnest($4::text[], $5::text[], $6::jsonb[]) as e(kind, message, data))
         select exists (select 1 from lost)",
    )
    .bind(claim.project.id.0)
    .bind(claim.project.owner.0)
    .bind(claim.sandbox.id.0);
    Columns::new(vec![pending_event])
        .bind(query)
        .bind(enum_text(&DatabaseStatus::Lost))
        .bind(claim.lease.id)
        .fetch_one(&store.pool)
        .await?
        .try_get(0)
}

/// Records that the requested restore is done, or given up, with an event. The row's restore must still be the
/// claimed one. False where the lease is lost.
///
/// # Errors
/// The database does not answer.
pub async fn finish_restore(
    store: &Store,
    claim: &Claim,
    restore: Restore,
    pending_event: Option<PendingEvent>,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(
        "with mine as (
             update sandboxes set restore_snapshot = null, restore_before = null, failure = null, attempts = 0,
                    updated_at = now()
             where id = $3 and lease_id = $7 and restore_snapshot = $8 returning id),
         -- The snapshot of the state before, where it was not taken; the state of a branch that was promoted.
         unneeded as (
             update snapshots set deleted_at = now(), next_attempt_at = now() from mine
             where deleted_at is null and (snapshots.id = $9 and state = 'creating'
                                           or snapshots.id = $8 and cause = 'branch')),
         new_events as (
             insert into events (project_id, owner_id, sandbox_id, kind, message, data)
             select $1, $2, $3, e.kind, e.message, e.data
             from mine, unnest($4::text[], $5::text[], $6::jsonb[]) as e(kind, message, data))
         select exists (select 1 from mine)",
    )
    .bind(claim.project.id.0)
    .bind(claim.project.owner.0)
    .bind(claim.sandbox.id.0);
    Columns::new(pending_event.into_iter().collect())
        .bind(query)
        .bind(claim.lease.id)
        .bind(restore.snapshot.0)
        .bind(restore.before.0)
        .fetch_one(&store.pool)
        .await?
        .try_get(0)
}
