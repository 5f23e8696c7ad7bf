//! Requeue of sandboxes: a counter in the row that triggers reconciliation. A lost requeue only costs time.

use std::collections::HashSet;

use fsa_model::{ProjectId, SandboxId};
use uuid::Uuid;

use super::Store;

/// Seconds over which retries of rows that waited for a region are spread.
const RETRY_SPREAD_SECONDS: f64 = 3.0;

/// Requeues these sandboxes. Returns whether any of them can be reconciled. A failed one keeps its back-off, unless
/// `even_failed`.
///
/// # Errors
/// The database does not answer.
pub async fn requeue(store: &Store, sandboxes: &[SandboxId], even_failed: bool) -> Result<bool, sqlx::Error> {
    let ids: Vec<Uuid> = sandboxes.iter().map(|id| id.0).collect();
    let requeued = sqlx::query(
        "with async_commit as materialized (select set_config('synchronous_commit', 'off', true))
         update sandboxes set requeues = requeues + 1,
                next_attempt_at = case when failure is null or $2
                    then least(next_attempt_at, now()) else next_attempt_at end
         from async_commit
         where id = any($1) and not (desired_state = 'terminated' and observed_generation = generation)",
    )
    .bind(ids)
    .bind(even_failed)
    .execute(&store.pool)
    .await?;
    Ok(requeued.rows_affected() > 0)
}

/// Requeues the sandboxes of these projects that have not failed; the others keep their back-off. Returns whether
/// there are any.
///
/// # Errors
/// The database does not answer.
pub async fn requeue_projects(store: &Store, projects: &HashSet<ProjectId>) -> Result<bool, sqlx::Error> {
    let ids: Vec<Uuid> = projects.iter().map(|id| id.0).collect();
    let requeued = sqlx::query(
        "with async_commit as materialized (select set_config('synchronous_commit', 'off', true))
         update sandboxes set requeues = requeues + 1, next_attempt_at = least(next_attempt_at, now())
         from async_commit
         where project_id = any($1) and failure is null
           and not (desired_state = 'terminated' and observed_generation = generation)",
    )
    .bind(ids)
    .execute(&store.pool)
    .await?;
    Ok(requeued.rows_affected() > 0)
}

/// Requeues every sandbox of these regions, except failed ones and those whose termination is complete.
///
/// # Errors
/// The database does not answer.
pub async fn requeue_regions(store: &Store, regions: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update sandboxes set requeues = requeues + 1, next_attempt_at = least(next_attempt_at, now())
         where failure is null and not (desired_state = 'terminated' and observed_generation = generation)
           and project_id in (select id from projects where region = any($1))",
    )
    .bind(regions)
    .execute(&store.pool)
    .await?;
    Ok(())
}

/// Ends the back-off of transient failures and pending removals in a region that answers again. The retries are spread
/// over some seconds, to avoid a burst after an outage.
///
/// # Errors
/// The database does not answer.
pub async fn end_backoff(store: &Store, region: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with waiting as (
             update sandboxes set next_attempt_at =
                    least(next_attempt_at, now() + random() * make_interval(secs => $2))
             where failure ->> 'kind' = 'transient'
               and not (desired_state = 'terminated' and observed_generation = generation)
               and project_id in (select id from projects where region = $1)
             returning 1)
         update branches set removal_due_at = least(removal_due_at, now() + random() * make_interval(secs => $2))
         where deleted_at is not null and removal_attempts > 0
           and project_id in (select id from projects where region = $1)",
    )
    .bind(region)
    .bind(RETRY_SPREAD_SECONDS)
    .execute(&store.pool)
    .await?;
    Ok(())
}

/// Makes a terminated sandbox due, because something of it still exists.
///
/// # Errors
/// The database does not answer.
pub async fn requeue_terminated(store: &Store, sandbox: SandboxId) -> Result<(), sqlx::Error> {
    sqlx::query("update sandboxes set requeues = requeues + 1, next_attempt_at = now() where id = $1")
        .bind(sandbox.0)
        .execute(&store.pool)
        .await?;
    Ok(())
}
