//! Removal of deleted branches: the workers' claims on the table of branches. A deleted project is the removal of all
//! its branches; its row goes with the main one, which is the last.

use std::time::Duration;

use fsa_model::{Failure, event::EventKind};
use serde_json::json;
use sqlx::{FromRow, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store, branches, branches::BranchRow, databases, databases::DatabaseRow, enum_text, leases::Capacity,
    observed::Columns, projects, projects::ProjectRow,
};
use crate::store::events::PendingEvent;

/// A claimed deleted branch, all of whose sandboxes are gone.
#[derive(Clone, Debug)]
pub struct Removal {
    pub lease: Uuid,
    pub project: ProjectRow,
    pub branch: BranchRow,
    pub database: Option<DatabaseRow>,
    /// Consecutive failed attempts.
    pub attempts: i32,
}

impl<'r> FromRow<'r, PgRow> for Removal {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let branch = BranchRow::from_row(row)?;
        Ok(Self {
            lease: row.try_get("lease_id")?,
            attempts: row.try_get("removal_attempts")?,
            database: databases::read(row, &branch)?,
            project: ProjectRow::from_row(row)?,
            branch,
        })
    }
}

/// Claims due removals within the free capacity. The main branch of a project is due after the others are gone.
///
/// # Errors
/// The database does not answer.
pub async fn claim(store: &Store, capacity: &Capacity, lease: Duration) -> Result<Vec<Removal>, sqlx::Error> {
    let (regions, slots) = capacity.columns();
    sqlx::query_as(concat!(
        "with due as (
             select d.volume_id from unnest($1::text[], $2::bigint[]) as capacity (region, slots)
             cross join lateral (
                 select b.volume_id from branches b join projects p on p.id = b.project_id
                 where b.deleted_at is not null and b.removal_due_at <= now()
                   and (b.lease_until is null or b.lease_until < now())
                   and (p.region = capacity.region
                        or capacity.region is null and p.region <> all(array_remove($1::text[], null)))
                   and not exists (
                       select 1 from sandboxes s where s.volume_id = b.volume_id
                         and not (s.desired_state = 'terminated' and s.observed_generation = s.generation
                                  and s.lease_id is null))
                   and (b.name <> 'main' or not exists (
                       select 1 from branches o where o.project_id = b.project_id and o.volume_id <> b.volume_id))
                 order by b.removal_due_at limit capacity.slots for update of b skip locked) d),
         b as (
             update branches set lease_id = gen_random_uuid(), lease_until = now() + make_interval(secs => $3),
                    database_status = 'DROPPING'
             from due where branches.volume_id = due.volume_id returning branches.*)
         select ",
        projects::columns!(),
        ", ",
        branches::columns!(),
        ", ",
        databases::columns!(),
        ", b.lease_id, b.removal_attempts
         from b join projects p on p.id = b.project_id left join databases d on d.project_id = b.project_id"
    ))
    .bind(regions)
    .bind(slots)
    .bind(lease.as_secs_f64())
    .fetch_all(&store.pool)
    .await
}

/// Renews the lease. False where it is lost.
///
/// # Errors
/// The database does not answer.
pub async fn renew(store: &Store, removal: &Removal, lease: Duration) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update branches set lease_until = now() + make_interval(secs => $3)
         where volume_id = $1 and lease_id = $2",
    )
    .bind(removal.branch.volume.0)
    .bind(removal.lease)
    .bind(lease.as_secs_f64())
    .execute(&store.pool)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The statement that removes a row with everything that references it, and then writes the events: a reader who is
/// notified of one finds the row gone. Events of a project's end name its members too, because the shares are deleted
/// with the row.
macro_rules! finish {
    ($gone:literal) => {
        concat!(
            "with gone as (",
            $gone,
            " and not exists (select 1 from sandboxes s where s.volume_id = $6
                   and not (s.desired_state = 'terminated' and s.observed_generation = s.generation))
             returning 1),
         new_events as (
             insert into events (project_id, owner_id, branch, kind, message, data, lost_by)
             select $1, $2, $9, e.kind, e.message, e.data,
                    case when e.kind = $8
                         then array(select user_id from project_members where project_id = $1) else '{}' end
             from gone, unnest($3::text[], $4::text[], $5::jsonb[]) with ordinality as e(kind, message, data, place)
             order by e.place)
         select exists (select 1 from gone)"
        )
    };
}

/// Removes the branch's row and everything that references it; for the main branch, the project's. The events stay, and
/// a last one is added. False where the lease is lost.
///
/// # Errors
/// The database does not answer.
pub async fn finish(store: &Store, removal: &Removal) -> Result<bool, sqlx::Error> {
    let mut pending_events = Vec::new();
    if let Some(database) = &removal.database {
        pending_events.push(PendingEvent::new(
            EventKind::DatabaseDropped,
            "The database was dropped with everything in it.",
            json!({"name": database.resource}),
        ));
    }
    let name = &removal.branch.name;
    let query = if name.is_main() {
        pending_events.push(PendingEvent::new(
            EventKind::ProjectDeleted,
            format!("The project {} is gone, with its files.", removal.project.name),
            json!({"name": removal.project.name}),
        ));
        finish!(
            "delete from projects p where id = $1 and exists (
                 select 1 from branches b where b.volume_id = $6 and b.lease_id = $7)"
        )
    } else {
        pending_events.push(PendingEvent::new(
            EventKind::BranchDeleted,
            format!("The branch {name} is gone, with its files."),
            json!({"name": name}),
        ));
        finish!("delete from branches b where project_id = $1 and volume_id = $6 and lease_id = $7")
    };
    let query = sqlx::query(query)
        .bind(removal.project.id.0)
        .bind(removal.project.owner.0);
    Columns::new(pending_events)
        .bind(query)
        .bind(removal.branch.volume.0)
        .bind(removal.lease)
        .bind(enum_text(&EventKind::ProjectDeleted))
        .bind(name.as_str())
        .fetch_one(&store.pool)
        .await?
        .try_get(0)
}

/// Records a failed attempt with an event, and releases the lease.
///
/// # Errors
/// The database does not answer.
pub async fn postpone(
    store: &Store,
    removal: &Removal,
    failure: &Failure,
    next: Duration,
) -> Result<(), sqlx::Error> {
    let attempts = removal.attempts.saturating_add(1);
    let pending_event = PendingEvent::new(
        EventKind::AttemptFailed,
        match removal.branch.name.is_main() {
            true => format!("Removing the project failed: {failure}"),
            false => format!("Removing the branch {} failed: {failure}", removal.branch.name),
        },
        json!({"failure": failure, "attempts": attempts, "retryInSeconds": next.as_secs()}),
    );
    let query = sqlx::query(
        "with mine as (
             update branches set removal_attempts = $7, removal_due_at = now() + make_interval(secs => $8),
                    lease_id = null, lease_until = null
             where volume_id = $9 and lease_id = $6 returning name)
         insert into events (project_id, owner_id, branch, kind, message, data)
         select $1, $2, mine.name, e.kind, e.message, e.data
         from mine, unnest($3::text[], $4::text[], $5::jsonb[]) as e(kind, message, data)",
    )
    .bind(removal.project.id.0)
    .bind(removal.project.owner.0);
    Columns::new(vec![pending_event])
        .bind(query)
        .bind(removal.lease)
        .bind(attempts)
        .bind(next.as_secs_f64())
        .bind(removal.branch.volume.0)
        .execute(&store.pool)
        .await?;
    Ok(())
}

/// Releases leases, so that other workers need not wait for their expiry.
///
/// # Errors
/// The database does not answer.
pub async fn release(store: &Store, leases: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query("update branches set lease_id = null, lease_until = null where lease_id = any($1)")
        .bind(leases)
        .execute(&store.pool)
        .await?;
    Ok(())
}
