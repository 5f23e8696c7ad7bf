//! Removal of deleted projects: the workers' claims on the table of projects.

use std::time::Duration;

use fsa_model::{Failure, event::EventKind};
use serde_json::json;
use sqlx::{FromRow, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store, databases::DatabaseRow, enum_column, enum_text, leases::Capacity, observed::Columns,
    parsed_column, projects, projects::ProjectRow,
};
use crate::store::events::PendingEvent;

/// A claimed deleted project, all of whose sandboxes are gone.
#[derive(Clone, Debug)]
pub struct Removal {
    pub lease: Uuid,
    pub project: ProjectRow,
    pub database: Option<DatabaseRow>,
    /// Consecutive failed attempts.
    pub attempts: i32,
}

impl<'r> FromRow<'r, PgRow> for Removal {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let project = ProjectRow::from_row(row)?;
        Ok(Self {
            lease: row.try_get("lease_id")?,
            attempts: row.try_get("removal_attempts")?,
            database: match row.try_get::<Option<&str>, _>("d_resource")? {
                None => None,
                Some(_) => Some(DatabaseRow {
                    project: project.id,
                    resource: parsed_column(row, "d_resource")?,
                    password: row.try_get("d_password")?,
                    status: enum_column(row, "d_status")?,
                }),
            },
            project,
        })
    }
}

/// Claims due removals within the free capacity.
///
/// # Errors
/// The database does not answer.
pub async fn claim(store: &Store, capacity: &Capacity, lease: Duration) -> Result<Vec<Removal>, sqlx::Error> {
    let (regions, slots) = capacity.columns();
    sqlx::query_as(concat!(
        "with due as (
             select d.id from unnest($1::text[], $2::bigint[]) as capacity (region, slots)
             cross join lateral (
                 select p.id from projects p
                 where deleted_at is not null and removal_due_at <= now()
                   and (lease_until is null or lease_until < now())
                   and (p.region = capacity.region
                        or capacity.region is null and p.region <> all(array_remove($1::text[], null)))
                   and not exists (
                       select 1 from sandboxes s where s.project_id = p.id
                         and not (s.desired_state = 'terminated' and s.observed_generation = s.generation
                                  and s.lease_id is null))
                 order by removal_due_at limit capacity.slots for update of p skip locked) d),
         p as (
             update projects set lease_id = gen_random_uuid(), lease_until = now() + make_interval(secs => $3)
             from due where projects.id = due.id returning projects.*),
         dropping as (
             update databases set status = 'DROPPING' from p where project_id = p.id)
         select ",
        projects::columns!(),
        ", p.lease_id, p.removal_attempts, d.resource as d_resource, d.password as d_password, d.status as d_status
         from p left join databases d on d.project_id = p.id"
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
        "update projects set lease_until = now() + make_interval(secs => $3) where id = $1 and lease_id = $2",
    )
    .bind(removal.project.id.0)
    .bind(removal.lease)
    .bind(lease.as_secs_f64())
    .execute(&store.pool)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Removes the project's row and everything that references it. Its events stay, and a last one is added. False where
/// the lease is lost.
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
    pending_events.push(PendingEvent::new(
        EventKind::ProjectDeleted,
        format!("The project {} is gone, with its files.", removal.project.name),
        json!({"name": removal.project.name}),
    ));
    // The row is deleted before the events are written, so that a notified reader finds it gone. The event names the
    // members too, because the shares are deleted with the row.
    let query = sqlx::query(
        "with gone as (
             delete from projects p where id = $1 and lease_id = $6 and not exists (
                 select 1 from sandboxes s where s.project_id = p.id
                   and not (s.desired_state = 'terminated' and s.observed_generation = s.generation))
             returning id),
         new_events as (
             insert into events (project_id, owner_id, kind, message, data, lost_by)
             select $1, $2, e.kind, e.message, e.data,
                    case when e.kind = $7
                         then array(select user_id from project_members where project_id = $1) else '{}' end
             from gone, unnest($3::text[], $4::text[], $5::jsonb[]) with ordinality as e(kind, message, data, place)
             order by e.place)
         select exists (select 1 from gone)",
    )
    .bind(removal.project.id.0)
    .bind(removal.project.owner.0);
    Columns::new(pending_events)
        .bind(query)
        .bind(removal.lease)
        .bind(enum_text(&EventKind::ProjectDeleted))
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
        format!("Removing the project failed: {failure}"),
        json!({"failure": failure, "attempts": attempts, "retryInSeconds": next.as_secs()}),
    );
    let query = sqlx::query(
        "with mine as (
             update projects set removal_attempts = $7, removal_due_at = now() + make_interval(secs => $8),
                    lease_id = null, lease_until = null
             where id = $1 and lease_id = $6 returning id)
         insert into events (project_id, owner_id, kind, message, data)
         select $1, $2, e.kind, e.message, e.data
         from mine, unnest($3::text[], $4::text[], $5::jsonb[]) as e(kind, message, data)",
    )
    .bind(removal.project.id.0)
    .bind(removal.project.owner.0);
    Columns::new(vec![pending_event])
        .bind(query)
        .bind(removal.lease)
        .bind(attempts)
        .bind(next.as_secs_f64())
        .execute(&store.pool)
        .await?;
    Ok(())
}

/// Releases leases, so that other workers need not wait for their expiry.
///
/// # Errors
/// The database does not answer.
pub async fn release(store: &Store, leases: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query("update projects set lease_id = null, lease_until = null where lease_id = any($1)")
        .bind(leases)
        .execute(&store.pool)
        .await?;
    Ok(())
}
