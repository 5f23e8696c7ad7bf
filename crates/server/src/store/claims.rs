//! The workers' side of the table of sandboxes: claims, leases, and what was observed.
//!
//! A worker may write a row only while it holds its lease, and what it concludes only while the
//! wish is the one that it read: every statement here says both. What is written here can be
//! observed again, so its commits do not wait for the disk.

use std::time::Duration;

use chrono::{DateTime, Utc};
use fsa_model::{
    Condition, ContainerState, Phase, SandboxId, Trouble, api::DatabaseStatus, sandboxd::Status,
};
use serde_json::Value;
use sqlx::{FromRow, Row as _, postgres::PgRow, types::Json};
use uuid::Uuid;

use super::{
    Store, databases::DatabaseRow, parsed, projects, projects::ProjectRow, sandboxes, sandboxes::SandboxRow,
    word, word_of,
};
use crate::reconcile::stages::Happening;

/// The right to act on one sandbox, for as long as it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: Uuid,
    pub sandbox: SandboxId,
}

/// A sandbox that a worker is in charge of, with everything that its spec is made from.
#[derive(Clone, Debug)]
pub struct Claim {
    pub lease: Lease,
    pub sandbox: SandboxRow,
    pub project: ProjectRow,
    /// Sealed for [`super::places::project_environment`].
    pub project_environment: Vec<u8>,
    /// Sealed for [`super::places::request_environment`].
    pub request_environment: Vec<u8>,
    pub database: Option<ClaimedDatabase>,
    /// What its container was last started with.
    pub digest: Option<String>,
    pub hints: i64,
    pub phase_told: Option<Phase>,
    pub follower: Option<Uuid>,
}

/// The project's database, with what was observed of it.
#[derive(Clone, Debug)]
pub struct ClaimedDatabase {
    pub row: DatabaseRow,
    /// It has been there, so that its absence is a loss.
    pub ever_ready: bool,
}

/// A row that this program cannot read, under a lease of ours.
#[derive(Debug)]
pub struct Unreadable {
    pub lease: Lease,
    pub error: sqlx::Error,
}

/// What is written while the work goes on.
#[derive(Debug)]
pub struct Interim<'a> {
    pub container: ContainerState,
    pub conditions: &'a [Condition],
    /// Told at once, although what else can be done still is. `None` leaves what the row has.
    pub trouble: Option<&'a Trouble>,
    /// Failed attempts in a row, with this one if it has trouble.
    pub attempts: i32,
    pub phase: Phase,
    pub database_ready: bool,
}

/// What is written when an attempt is over. It ends the lease.
#[derive(Debug)]
pub struct Settlement<'a> {
    /// The wish of the generation that was read is reached.
    pub reached: bool,
    pub container: ContainerState,
    pub conditions: &'a [Condition],
    pub trouble: Option<&'a Trouble>,
    /// Failed attempts in a row.
    pub attempts: i32,
    /// When it is looked at again without being asked to; `None` for never.
    pub next: Option<Duration>,
    /// sandboxd's status; `None` leaves what the row has.
    pub status: Option<&'a Status>,
    pub digest: Option<&'a str>,
    pub follower: Option<Uuid>,
    pub phase: Phase,
    pub database_ready: bool,
}

macro_rules! claimed_columns {
    () => {
        concat!(
            sandboxes::columns!(),
            ", ",
            projects::columns!(),
            ", s.lease_id, s.request_environment, s.digest, s.hints, s.phase_told, s.follower,
               p.environment as project_environment,
               d.resource as d_resource, d.password as d_password, d.status as d_status, d.ever_ready as d_ever_ready"
        )
    };
}

impl<'r> FromRow<'r, PgRow> for Claim {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let sandbox = SandboxRow::from_row(row)?;
        let database = match row.try_get::<Option<&str>, _>("d_resource")? {
            None => None,
            Some(_) => Some(ClaimedDatabase {
                row: DatabaseRow {
                    project: sandbox.project,
                    resource: parsed(row, "d_resource")?,
                    password: row.try_get("d_password")?,
                    status: word(row, "d_status")?,
                },
                ever_ready: row.try_get("d_ever_ready")?,
            }),
        };
        Ok(Self {
            lease: lease_of(row)?,
            project: ProjectRow::from_row(row)?,
            project_environment: row.try_get("project_environment")?,
            request_environment: row.try_get("request_environment")?,
            database,
            digest: row.try_get("digest")?,
            hints: row.try_get("hints")?,
            phase_told: match row.try_get::<Option<&str>, _>("phase_told")? {
                None => None,
                Some(_) => Some(word(row, "phase_told")?),
            },
            follower: row.try_get("follower")?,
            sandbox,
        })
    }
}

fn lease_of(row: &PgRow) -> Result<Lease, sqlx::Error> {
    Ok(Lease {
        id: row.try_get("lease_id")?,
        sandbox: SandboxId(row.try_get("s_id")?),
    })
}

/// Claims at most `limit` sandboxes that are due, new wishes first. A wish that is newer than the
/// last attempt begins without the older one's trouble and back-off.
///
/// # Errors
/// The database does not answer.
pub async fn claim(
    store: &Store,
    limit: usize,
    lease: Duration,
) -> Result<Vec<Result<Claim, Unreadable>>, sqlx::Error> {
    let rows = sqlx::query(concat!(
        "with quick as materialized (select set_config('synchronous_commit', 'off', true)),
         due as (
             select id from sandboxes
             where (generation > attempted_generation or next_attempt_at <= now())
               and (lease_until is null or lease_until < now())
             order by generation > attempted_generation desc, next_attempt_at
             limit $1 for update skip locked),
         s as (
             update sandboxes set
                 lease_id = gen_random_uuid(),
                 lease_until = now() + make_interval(secs => $2),
                 trouble = case when generation > attempted_generation then null else trouble end,
                 attempts = case when generation > attempted_generation then 0 else attempts end
             from due, quick where sandboxes.id = due.id returning sandboxes.*)
         select ",
        claimed_columns!(),
        " from s join projects p on p.id = s.project_id left join databases d on d.project_id = s.project_id"
    ))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .bind(lease.as_secs_f64())
    .fetch_all(&store.pool)
    .await?;
    rows.iter()
        .map(|row| {
            let lease = lease_of(row)?;
            Ok(Claim::from_row(row).map_err(|error| Unreadable { lease, error }))
        })
        .collect()
}

/// Reads a claimed sandbox once more, and renews its lease. `None` where the lease is lost.
///
/// # Errors
/// The database does not answer, or the row cannot be read.
pub async fn read_again(
    store: &Store,
    lease: Lease,
    duration: Duration,
) -> Result<Option<Claim>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with quick as materialized (select set_config('synchronous_commit', 'off', true)),
         s as (
             update sandboxes set
                 lease_until = now() + make_interval(secs => $3),
                 trouble = case when generation > attempted_generation then null else trouble end,
                 attempts = case when generation > attempted_generation then 0 else attempts end
             from quick where id = $1 and lease_id = $2 returning sandboxes.*)
         select ",
        claimed_columns!(),
        " from s join projects p on p.id = s.project_id left join databases d on d.project_id = s.project_id"
    ))
    .bind(lease.sandbox.0)
    .bind(lease.id)
    .bind(duration.as_secs_f64())
    .fetch_optional(&store.pool)
    .await
}

/// Renews a lease, and tells the generation that is wished now. `None` where it is lost.
///
/// # Errors
/// The database does not answer.
pub async fn renew(store: &Store, lease: Lease, duration: Duration) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "with quick as materialized (select set_config('synchronous_commit', 'off', true))
         update sandboxes set lease_until = now() + make_interval(secs => $3)
         from quick where id = $1 and lease_id = $2 returning generation",
    )
    .bind(lease.sandbox.0)
    .bind(lease.id)
    .bind(duration.as_secs_f64())
    .fetch_optional(&store.pool)
    .await
}

/// The generations that are wished now of these sandboxes.
///
/// # Errors
/// The database does not answer.
pub async fn generations(store: &Store, of: &[SandboxId]) -> Result<Vec<(SandboxId, i64)>, sqlx::Error> {
    let ids: Vec<Uuid> = of.iter().map(|id| id.0).collect();
    let rows = sqlx::query("select id, generation from sandboxes where id = any($1)")
        .bind(ids)
        .fetch_all(&store.pool)
        .await?;
    rows.iter()
        .map(|row| Ok((SandboxId(row.try_get("id")?), row.try_get("generation")?)))
        .collect()
}

/// Gives leases back, so that nobody has to wait for their end.
///
/// # Errors
/// The database does not answer.
pub async fn release(store: &Store, leases: &[Lease]) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = leases.iter().map(|lease| lease.id).collect();
    sqlx::query("update sandboxes set lease_id = null, lease_until = null where lease_id = any($1)")
        .bind(ids)
        .execute(&store.pool)
        .await?;
    Ok(())
}

/// Events as three arrays, for one statement.
pub(super) struct Columns {
    kinds: Vec<String>,
    messages: Vec<String>,
    data: Vec<Value>,
}

impl Columns {
    pub(super) fn new(happenings: Vec<Happening>) -> Self {
        let mut columns = Self {
            kinds: Vec::new(),
            messages: Vec::new(),
            data: Vec::new(),
        };
        for happening in happenings {
            columns.kinds.push(word_of(&happening.kind));
            columns.messages.push(happening.message);
            columns.data.push(happening.data);
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

/// Adds, to a statement that has `mine` (the sandbox if it was ours to write) and whose first six
/// parameters are project, owner, sandbox and the three columns of events: the events, the
/// database's state ($7), and whether it was ours.
macro_rules! telling {
    ($mine:literal) => {
        concat!(
            "with quick as materialized (select set_config('synchronous_commit', 'off', true)), mine as (",
            $mine,
            "), data as (
                 update databases set status = 'READY', ever_ready = true from mine
                 where project_id = $1 and $7 and (status <> 'READY' or not ever_ready)),
             told as (
                 insert into events (project_id, owner_id, sandbox_id, kind, message, data)
                 select $1, $2, $3, e.kind, e.message, e.data
                 from mine, unnest($4::text[], $5::text[], $6::jsonb[]) with ordinality as e(kind, message, data, place)
                 order by e.place)
             select exists (select 1 from mine)"
        )
    };
}

/// Writes how far the work is. False where the lease is lost or the wish is another one.
///
/// # Errors
/// The database does not answer.
pub async fn tell(
    store: &Store,
    claim: &Claim,
    interim: Interim<'_>,
    happenings: Vec<Happening>,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(telling!(
        "update sandboxes set container = $10, conditions = $11, trouble = coalesce($12, trouble),
                phase_told = $13, attempts = $14, observed_at = now(), updated_at = now()
         from quick where id = $3 and lease_id = $8 and generation = $9 returning id"
    ))
    .bind(claim.project.id.0)
    .bind(claim.project.owner.0)
    .bind(claim.sandbox.id.0);
    Columns::new(happenings)
        .bind(query)
        .bind(interim.database_ready)
        .bind(claim.lease.id)
        .bind(claim.sandbox.generation)
        .bind(word_of(&interim.container))
        .bind(Json(interim.conditions))
        .bind(interim.trouble.map(Json))
        .bind(word_of(&interim.phase))
        .bind(interim.attempts)
        .fetch_one(&store.pool)
        .await?
        .try_get(0)
}

/// Writes how an attempt ended, and gives the lease back. A hint that came meanwhile makes the
/// sandbox due at once, unless it is in trouble: then the back-off stands. False, and nothing is
/// written, where the lease is lost or the wish is another one.
///
/// # Errors
/// The database does not answer.
pub async fn settle(
    store: &Store,
    claim: &Claim,
    settlement: Settlement<'_>,
    happenings: Vec<Happening>,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(telling!(
        "update sandboxes set container = $10, conditions = $11, trouble = $12, phase_told = $13,
                observed_generation = case when $14 then generation else observed_generation end,
                attempted_generation = generation,
                attempts = $15,
                next_attempt_at = case
                    when $12::jsonb is null and $16::float8 is not null and hints <> $17 then now()
                    when $16::float8 is null then now() + interval '100 years'
                    else now() + make_interval(secs => $16) end,
                status = coalesce($18, status), digest = $19, follower = $20,
                observed_at = now(),
                updated_at = case when (container, conditions, trouble, observed_generation, attempts)
                    is distinct from ($10, $11::jsonb, $12::jsonb,
                        case when $14 then generation else observed_generation end, $15)
                    then now() else updated_at end,
                lease_id = null, lease_until = null
         from quick where id = $3 and lease_id = $8 and generation = $9 returning id"
    ))
    .bind(claim.project.id.0)
    .bind(claim.project.owner.0)
    .bind(claim.sandbox.id.0);
    Columns::new(happenings)
        .bind(query)
        .bind(settlement.database_ready)
        .bind(claim.lease.id)
        .bind(claim.sandbox.generation)
        .bind(word_of(&settlement.container))
        .bind(Json(settlement.conditions))
        .bind(settlement.trouble.map(Json))
        .bind(word_of(&settlement.phase))
        .bind(settlement.reached)
        .bind(settlement.attempts)
        .bind(settlement.next.map(|next| next.as_secs_f64()))
        .bind(claim.hints)
        .bind(settlement.status.map(Json))
        .bind(settlement.digest)
        .bind(settlement.follower)
        .fetch_one(&store.pool)
        .await?
        .try_get(0)
}

/// Notes that an attempt could not even be begun or broke this program, and gives the lease back.
///
/// # Errors
/// The database does not answer.
pub async fn give_up(
    store: &Store,
    lease: Lease,
    trouble: &Trouble,
    next: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update sandboxes set trouble = $3, attempts = attempts + 1, attempted_generation = generation,
                next_attempt_at = now() + make_interval(secs => $4), updated_at = now(),
                lease_id = null, lease_until = null
         where id = $1 and lease_id = $2",
    )
    .bind(lease.sandbox.0)
    .bind(lease.id)
    .bind(Json(trouble))
    .bind(next.as_secs_f64())
    .execute(&store.pool)
    .await?;
    Ok(())
}

/// Writes, before anything is done about it, that the project's database is gone. This commit
/// waits for the disk. False where the lease is lost or it was written before.
///
/// # Errors
/// The database does not answer.
pub async fn report_lost_database(
    store: &Store,
    claim: &Claim,
    happening: Happening,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(
        "with lost as (
             update databases set status = $7 where project_id = $1 and ever_ready and status <> $7
                 and exists (select 1 from sandboxes where id = $3 and lease_id = $8)
             returning project_id),
         told as (
             insert into events (project_id, owner_id, sandbox_id, kind, message, data)
             select $1, $2, $3, e.kind, e.message, e.data
             from lost, unnest($4::text[], $5::text[], $6::jsonb[]) as e(kind, message, data))
         select exists (select 1 from lost)",
    )
    .bind(claim.project.id.0)
    .bind(claim.project.owner.0)
    .bind(claim.sandbox.id.0);
    Columns::new(vec![happening])
        .bind(query)
        .bind(word_of(&DatabaseStatus::Lost))
        .bind(claim.lease.id)
        .fetch_one(&store.pool)
        .await?
        .try_get(0)
}

/// Asks that these sandboxes be looked at. One in trouble keeps its back-off, unless `even_in_trouble`.
///
/// # Errors
/// The database does not answer.
pub async fn hint(store: &Store, sandboxes: &[SandboxId], even_in_trouble: bool) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = sandboxes.iter().map(|id| id.0).collect();
    sqlx::query(
        "with quick as materialized (select set_config('synchronous_commit', 'off', true))
         update sandboxes set hints = hints + 1,
                next_attempt_at = case when trouble is null or $2
                    then least(next_attempt_at, now()) else next_attempt_at end
         from quick
         where id = any($1) and not (wanted = 'terminated' and observed_generation = generation)",
    )
    .bind(ids)
    .bind(even_in_trouble)
    .execute(&store.pool)
    .await?;
    Ok(())
}

/// Asks that every sandbox of these regions be looked at that is not gone for good.
///
/// # Errors
/// The database does not answer.
pub async fn hint_everything(store: &Store, regions: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update sandboxes set hints = hints + 1, next_attempt_at = least(next_attempt_at, now())
         where trouble is null and not (wanted = 'terminated' and observed_generation = generation)
           and project_id in (select id from projects where region = any($1))",
    )
    .bind(regions)
    .execute(&store.pool)
    .await?;
    Ok(())
}

/// Makes a sandbox due of which something is there although it was terminated.
///
/// # Errors
/// The database does not answer.
pub async fn revive(store: &Store, sandbox: SandboxId) -> Result<(), sqlx::Error> {
    sqlx::query("update sandboxes set hints = hints + 1, next_attempt_at = now() where id = $1")
        .bind(sandbox.0)
        .execute(&store.pool)
        .await?;
    Ok(())
}

/// When the next sandbox or project is due, or the next lease ends.
///
/// # Errors
/// The database does not answer.
pub async fn next_due(store: &Store) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar(
        "select min(due) from (
             select min(next_attempt_at) as due from sandboxes where lease_until is null
             union all select min(lease_until) from sandboxes where lease_until is not null
             union all select min(greatest(removal_due_at, lease_until)) from projects p
                 where deleted_at is not null and not exists (
                     select 1 from sandboxes s where s.project_id = p.id
                       and not (s.wanted = 'terminated' and s.observed_generation = s.generation))) as all_due",
    )
    .fetch_one(&store.pool)
    .await
}
