//! Leases of sandboxes: claims, renewals and releases by workers.
//!
//! Commits here do not wait for the disk: a lease lost in a machine crash has no holder any more.

use std::time::Duration;

use fsa_model::{Phase, SandboxId};
use sqlx::{FromRow, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store, branches, branches::BranchRow, databases, databases::DatabaseRow, enum_column, projects,
    projects::ProjectRow, sandboxes, sandboxes::SandboxRow,
};

/// The exclusive lease to act on one sandbox, for as long as it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: Uuid,
    pub sandbox: SandboxId,
}

/// A sandbox claimed by a worker, with everything that its spec is made from.
#[derive(Clone, Debug)]
pub struct Claim {
    pub lease: Lease,
    pub sandbox: SandboxRow,
    pub project: ProjectRow,
    pub branch: BranchRow,
    pub owner_login: String,
    /// Another user's project had this name first, so host names need the owner's slug.
    pub name_is_shared: bool,
    /// The owner's login was a former user's, so host names with it are theirs.
    pub login_is_former: bool,
    /// Encrypted for [`super::associated_data::project_environment`].
    pub project_environment: Vec<u8>,
    /// Encrypted for [`super::associated_data::branch_environment`].
    pub branch_environment: Option<Vec<u8>>,
    /// Encrypted for [`super::associated_data::request_environment`].
    pub request_environment: Vec<u8>,
    /// Encrypted for [`super::associated_data::agent_credentials`].
    pub agent_credentials: Option<Vec<u8>>,
    pub database: Option<ClaimedDatabase>,
    /// The digest of the spec that its container was last started with.
    pub digest: Option<String>,
    pub requeues: i64,
    pub notified_phase: Option<Phase>,
    pub follower: Option<Uuid>,
}

/// The branch's database, with its observed state.
#[derive(Clone, Debug)]
pub struct ClaimedDatabase {
    pub row: DatabaseRow,
    /// It was ready once, so its absence is a loss.
    pub ever_ready: bool,
}

/// A claimed row that this program cannot parse, with its lease.
#[derive(Debug)]
pub struct Unreadable {
    pub lease: Lease,
    pub error: sqlx::Error,
}

macro_rules! claimed_columns {
    () => {
        concat!(
            sandboxes::columns!(),
            ", ",
            projects::columns!(),
            ", ",
            branches::columns!(),
            ", ",
            databases::columns!(),
            ", ",
            projects::name_is_shared!(),
            ", (select login from users u where u.id = p.owner_id) as owner_login,
               s.lease_id, s.request_environment, s.digest, s.requeues, s.notified_phase, s.follower,
               p.environment as project_environment, b.environment as branch_environment,
               b.database_ever_ready as b_database_ever_ready,
               (select variables from agent_credentials c where c.user_id = p.owner_id) as agent_credentials"
        )
    };
}

impl<'r> FromRow<'r, PgRow> for Claim {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let sandbox = SandboxRow::from_row(row)?;
        let branch = BranchRow::from_row(row)?;
        let database = match databases::read(row, &branch)? {
            None => None,
            Some(database) => Some(ClaimedDatabase {
                row: database,
                ever_ready: row.try_get("b_database_ever_ready")?,
            }),
        };
        Ok(Self {
            lease: lease_of(row)?,
            project: ProjectRow::from_row(row)?,
            owner_login: row.try_get("owner_login")?,
            name_is_shared: row.try_get("name_is_shared")?,
            login_is_former: row.try_get("login_is_former")?,
            project_environment: row.try_get("project_environment")?,
            branch_environment: row.try_get("branch_environment")?,
            request_environment: row.try_get("request_environment")?,
            agent_credentials: row.try_get("agent_credentials")?,
            database,
            digest: row.try_get("digest")?,
            requeues: row.try_get("requeues")?,
            notified_phase: match row.try_get::<Option<&str>, _>("notified_phase")? {
                None => None,
                Some(_) => Some(enum_column(row, "notified_phase")?),
            },
            follower: row.try_get("follower")?,
            branch,
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

/// Free capacity per region. `other_regions` is the capacity for all regions that are not in the list because they are
/// no longer configured.
#[derive(Clone, Debug, Default)]
pub struct Capacity {
    pub regions: Vec<(String, usize)>,
    pub other_regions: usize,
}

impl Capacity {
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.other_regions == 0 && self.regions.iter().all(|(_, slots)| *slots == 0)
    }

    /// The regions without free capacity.
    #[must_use]
    pub fn full(&self) -> Vec<&str> {
        let full = self.regions.iter().filter(|(_, slots)| *slots == 0);
        full.map(|(name, _)| name.as_str()).collect()
    }

    /// The region names, with null for the rest, and their capacities.
    pub(super) fn columns(&self) -> (Vec<Option<&str>>, Vec<i64>) {
        let rest = std::iter::once((None, self.other_regions));
        let named = self
            .regions
            .iter()
            .map(|(name, slots)| (Some(name.as_str()), *slots));
        named
            .chain(rest)
            .map(|(name, slots)| (name, i64::try_from(slots).unwrap_or(i64::MAX)))
            .unzip()
    }
}

/// Claims due sandboxes within the free capacity, new generations first. A generation newer than the last attempt
/// starts without the older one's failure and back-off.
///
/// # Errors
/// The database does not answer.
pub async fn claim(
    store: &Store,
    capacity: &Capacity,
    lease: Duration,
) -> Result<Vec<Result<Claim, Unreadable>>, sqlx::Error> {
    let (regions, slots) = capacity.columns();
    let rows = sqlx::query(concat!(
        "with async_commit as materialized (select set_config('synchronous_commit', 'off', true)),
         due as (
             select d.id from unnest($1::text[], $2::bigint[]) as capacity (region, slots)
             cross join lateral (
                 select s.id from sandboxes s join projects p on p.id = s.project_id
                 where (s.generation > s.attempted_generation or s.next_attempt_at <= now())
                   and (s.lease_until is null or s.lease_until < now())
                   and (p.region = capacity.region
                        or capacity.region is null and p.region <> all(array_remove($1::text[], null)))
                 order by s.generation > s.attempted_generation desc, s.next_attempt_at
                 limit capacity.slots for update of s skip locked) d),
         s as (
             update sandboxes set
                 lease_id = gen_random_uuid(),
                 lease_until = now() + make_interval(secs => $3),
                 failure = case when generation > attempted_generation then null else failure end,
                 attempts = case when generation > attempted_generation then 0 else attempts end
             from due, async_commit where sandboxes.id = due.id returning sandboxes.*)
         select ",
        claimed_columns!(),
        " from s join projects p on p.id = s.project_id join branches b on b.volume_id = s.volume_id
           left join databases d on d.project_id = s.project_id"
    ))
    .bind(regions)
    .bind(slots)
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

/// Reads a claimed sandbox again and renews its lease. `None` where the lease is lost.
///
/// # Errors
/// The database does not answer, or the row cannot be read.
pub async fn reload(store: &Store, lease: Lease, duration: Duration) -> Result<Option<Claim>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with async_commit as materialized (select set_config('synchronous_commit', 'off', true)),
         s as (
             update sandboxes set
                 lease_until = now() + make_interval(secs => $3),
                 failure = case when generation > attempted_generation then null else failure end,
                 attempts = case when generation > attempted_generation then 0 else attempts end
             from async_commit where id = $1 and lease_id = $2 returning sandboxes.*)
         select ",
        claimed_columns!(),
        " from s join projects p on p.id = s.project_id join branches b on b.volume_id = s.volume_id
           left join databases d on d.project_id = s.project_id"
    ))
    .bind(lease.sandbox.0)
    .bind(lease.id)
    .bind(duration.as_secs_f64())
    .fetch_optional(&store.pool)
    .await
}

/// Renews a lease and returns the current generation. `None` where the lease is lost.
///
/// # Errors
/// The database does not answer.
pub async fn renew(store: &Store, lease: Lease, duration: Duration) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "with async_commit as materialized (select set_config('synchronous_commit', 'off', true))
         update sandboxes set lease_until = now() + make_interval(secs => $3)
         from async_commit where id = $1 and lease_id = $2 returning generation",
    )
    .bind(lease.sandbox.0)
    .bind(lease.id)
    .bind(duration.as_secs_f64())
    .fetch_optional(&store.pool)
    .await
}

/// The current generations of these sandboxes.
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

/// Releases leases, so that other workers need not wait for their expiry.
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

/// The time until the next sandbox or removal is due, or the next lease expires, by the database's clock. `None` where
/// nothing becomes due with time alone. Rows in a region without capacity do not count: they wait for a job to end.
///
/// # Errors
/// The database does not answer.
pub async fn next_due(
    store: &Store,
    sandboxes: &Capacity,
    removals: &Capacity,
) -> Result<Option<Duration>, sqlx::Error> {
    let seconds: Option<f64> = sqlx::query_scalar(
        // Not materialized, so that each minimum is looked up in its index.
        "with s as not materialized (
             select lease_until, next_attempt_at from sandboxes
             where cardinality($1::text[]) = 0 or exists (
                 select 1 from projects p where p.id = project_id and p.region <> all($1)))
         select extract(epoch from min(due) - clock_timestamp())::float8 from (
             select min(next_attempt_at) as due from s where lease_until is null
             union all select min(lease_until) from s
             union all select min(greatest(b.removal_due_at, b.lease_until))
                 from branches b join projects p on p.id = b.project_id
                 where b.deleted_at is not null and p.region <> all($2::text[]) and not exists (
                     select 1 from sandboxes s where s.volume_id = b.volume_id
                       and not (s.desired_state = 'terminated' and s.observed_generation = s.generation))
                   and (b.name <> 'main' or not exists (
                     select 1 from branches o where o.project_id = b.project_id and o.volume_id <> b.volume_id))
             ) as all_due",
    )
    .bind(sandboxes.full())
    .bind(removals.full())
    .fetch_one(&store.pool)
    .await?;
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)))
}
