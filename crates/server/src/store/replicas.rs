//! Replicas: the live processes, and which of them follows which running sandbox.
//!
//! A sandbox is followed by one process: the one whose id is in its row, for as long as that process renews its own
//! row. So following two hundred sandboxes costs one write per renewal.

use std::time::Duration;

use fsa_model::{ProjectId, SandboxId, SandboxRef, UserId, VolumeId, sandboxd::Status};
use sqlx::{FromRow, Row as _, postgres::PgRow, types::Json};
use uuid::Uuid;

use super::{Store, observed::Columns, optional_json_column, parsed_column};
use crate::store::events::PendingEvent;

/// A running sandbox to be followed.
#[derive(Clone, Debug)]
pub struct Followed {
    pub sandbox: SandboxRef,
    pub owner: UserId,
    pub region: String,
    /// Encrypted for [`super::associated_data::control_token`].
    pub control_token: Vec<u8>,
    /// The last written status.
    pub status: Option<Status>,
}

impl<'r> FromRow<'r, PgRow> for Followed {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            sandbox: SandboxRef {
                id: SandboxId(row.try_get("id")?),
                project: ProjectId(row.try_get("project_id")?),
                volume: VolumeId(row.try_get("volume_id")?),
                resource: parsed_column(row, "resource")?,
            },
            owner: UserId(row.try_get("owner_id")?),
            region: row.try_get("region")?,
            control_token: row.try_get("control_token")?,
            status: optional_json_column(row, "status")?,
        })
    }
}

/// Marks this process as alive for `lifetime`.
///
/// # Errors
/// The database does not answer.
pub async fn renew(store: &Store, replica: Uuid, lifetime: Duration) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with async_commit as materialized (select set_config('synchronous_commit', 'off', true))
         insert into replicas (id, alive_until, knows_branches)
         select $1, now() + make_interval(secs => $2), true from async_commit
         on conflict (id) do update set alive_until = excluded.alive_until",
    )
    .bind(replica)
    .bind(lifetime.as_secs_f64())
    .execute(&store.pool)
    .await?;
    Ok(())
}

/// Removes this process, and processes that have been dead for an hour.
///
/// # Errors
/// The database does not answer.
pub async fn remove(store: &Store, replica: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("delete from replicas where id = $1 or alive_until < now() - interval '1 hour'")
        .bind(replica)
        .execute(&store.pool)
        .await?;
    Ok(())
}

/// Removes every other process, with its leases. Only where it is certain that no other process runs.
///
/// # Errors
/// The database does not answer.
pub async fn remove_others(store: &Store, replica: Uuid) -> Result<(), sqlx::Error> {
    let mut tx = store.pool.begin().await?;
    for statement in [
        "delete from replicas where id <> $1",
        "update sandboxes set lease_id = null, lease_until = null where lease_id is not null and lease_id <> $1",
        "update branches set lease_id = null, lease_until = null where lease_id is not null and lease_id <> $1",
    ] {
        sqlx::query(statement).bind(replica).execute(&mut *tx).await?;
    }
    tx.commit().await
}

/// Whether this process is the first of the live ones, which does the work that only one of them should do.
///
/// # Errors
/// The database does not answer.
pub async fn is_first(store: &Store, replica: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select coalesce((select id from replicas where alive_until > now() order by id limit 1) = $1, false)",
    )
    .bind(replica)
    .fetch_one(&store.pool)
    .await
}

/// Whether every live process knows branches. Others would start the sandbox of a branch with the main branch's files.
///
/// # Errors
/// The database does not answer.
pub async fn all_know_branches(store: &Store) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select not exists (select 1 from replicas where alive_until > now() and not knows_branches)",
    )
    .fetch_one(&store.pool)
    .await
}

/// Takes over at most `limit` running sandboxes that no live process follows.
///
/// # Errors
/// The database does not answer.
pub async fn follow(store: &Store, replica: Uuid, limit: i64) -> Result<Vec<Followed>, sqlx::Error> {
    sqlx::query_as(
        "with async_commit as materialized (select set_config('synchronous_commit', 'off', true)),
         alone as (
             select id from sandboxes
             where container in ('starting', 'running') and desired_state = 'running' and lease_until is null
               and (follower is null or not exists (
                   select 1 from replicas r where r.id = follower and r.alive_until > now()))
             limit $2 for update skip locked),
         s as (
             update sandboxes set follower = $1 from alone, async_commit where sandboxes.id = alone.id
             returning sandboxes.*)
         select s.id, s.project_id, s.volume_id, s.resource, s.control_token, s.status, p.owner_id, p.region
         from s join projects p on p.id = s.project_id",
    )
    .bind(replica)
    .bind(limit)
    .fetch_all(&store.pool)
    .await
}

/// Whether this process still follows the sandbox, and the sandbox still runs.
///
/// # Errors
/// The database does not answer.
pub async fn follows(store: &Store, replica: Uuid, sandbox: SandboxId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select 1 from sandboxes
         where id = $1 and follower = $2 and container in ('starting', 'running'))",
    )
    .bind(sandbox.0)
    .bind(replica)
    .fetch_one(&store.pool)
    .await
}

/// Writes sandboxd's status. False where another process follows the sandbox, or it no longer runs.
///
/// # Errors
/// The database does not answer.
pub async fn write_status(
    store: &Store,
    replica: Uuid,
    followed: &Followed,
    status: &Status,
    pending_events: Vec<PendingEvent>,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(
        "with async_commit as materialized (select set_config('synchronous_commit', 'off', true)),
         mine as (
             update sandboxes set status = $7, updated_at = now() from async_commit
             where id = $3 and follower = $8 and container in ('starting', 'running') returning id),
         new_events as (
             insert into events (project_id, owner_id, sandbox_id, kind, message, data)
             select $1, $2, $3, e.kind, e.message, e.data
             from mine, unnest($4::text[], $5::text[], $6::jsonb[]) with ordinality as e(kind, message, data, place)
             order by e.place)
         select exists (select 1 from mine)",
    )
    .bind(followed.sandbox.project.0)
    .bind(followed.owner.0)
    .bind(followed.sandbox.id.0);
    Columns::new(pending_events)
        .bind(query)
        .bind(Json(status))
        .bind(replica)
        .fetch_one(&store.pool)
        .await?
        .try_get(0)
}
