//! Deletion of old rows: events, steps of agent runs, audit entries.
//!
//! Each function examines one batch, the oldest rows, so that a call takes the same time whatever the size of the
//! table, and locks few rows.

use super::{
    Store,
    audit::{AuditEntry, audit_entry},
};

/// Rows that one call examines.
pub const BATCH: i64 = 2000;

/// Deletes events that are older than `days`, and returns how many.
///
/// # Errors
/// The database does not answer.
pub async fn delete_events(store: &Store, days: u32) -> Result<u64, sqlx::Error> {
    // Ids increase with time, except for transactions that overlap, so the oldest events have the lowest ids.
    let deleted = sqlx::query(
        "with oldest as (select id, created_at from events order by id limit $2)
         delete from events e using oldest
         where e.id = oldest.id and oldest.created_at < now() - make_interval(days => $1)",
    )
    .bind(interval_days(days))
    .bind(BATCH)
    .execute(&store.pool)
    .await?;
    Ok(deleted.rows_affected())
}

/// Deletes steps of agent runs that ended more than `days` ago, and returns how many. The runs stay, with their
/// result, cost and diff.
///
/// # Errors
/// The database does not answer.
pub async fn delete_agent_steps(store: &Store, days: u32) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query(
        "delete from task_steps where (task_id, sequence) in (
             select s.task_id, s.sequence from tasks t join task_steps s on s.task_id = t.id
             where t.ended_at < now() - make_interval(days => $1) limit $2)",
    )
    .bind(interval_days(days))
    .bind(BATCH)
    .execute(&store.pool)
    .await?;
    Ok(deleted.rows_affected())
}

/// The oldest audit entries, of those older than `days`, in the order of their ids.
///
/// # Errors
/// The database does not answer.
pub async fn oldest_audit_entries(store: &Store, days: u32) -> Result<Vec<AuditEntry>, sqlx::Error> {
    let rows = sqlx::query(
        "select a.id, a.at, a.user_id, u.login, a.action, a.object, a.address, a.result
         from (select * from audit order by id limit $2) a left join users u on u.id = a.user_id
         where a.at < now() - make_interval(days => $1) order by a.id",
    )
    .bind(interval_days(days))
    .bind(BATCH)
    .fetch_all(&store.pool)
    .await?;
    rows.iter().map(audit_entry).collect()
}

/// Deletes these audit entries, which must have been exported.
///
/// # Errors
/// The database does not answer.
pub async fn delete_audit_entries(store: &Store, exported: &[AuditEntry]) -> Result<u64, sqlx::Error> {
    let ids: Vec<i64> = exported.iter().map(|entry| entry.id).collect();
    let mut tx = store.pool.begin().await?;
    // For this transaction only: the table's trigger refuses any other deletion.
    sqlx::query("select set_config('fsa.audit_exported', 'on', true)")
        .execute(&mut *tx)
        .await?;
    let deleted = sqlx::query("delete from audit where id = any($1)")
        .bind(ids)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(deleted.rows_affected())
}

fn interval_days(days: u32) -> i32 {
    i32::try_from(days).unwrap_or(i32::MAX)
}
