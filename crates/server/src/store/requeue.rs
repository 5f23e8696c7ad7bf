//! That somebody should look at a sandbox again, in its row. Losing a requeue may only cost time.

use std::collections::HashSet;

use fsa_model::{ProjectId, SandboxId};
use uuid::Uuid;

use super::Store;

/// Seconds over which what waited for a region is tried again.
const RUSH: f64 = 3.0;

/// Asks that these sandboxes be looked at, and tells whether there is anything to look at. One that failed keeps its
/// back-off, unless `even_failed`.
///
/// # Errors
/// The database does not answer.
pub async fn requeue(store: &Store, sandboxes: &[SandboxId], even_failed: bool) -> Result<bool, sqlx::Error> {
    let ids: Vec<Uuid> = sandboxes.iter().map(|id| id.0).collect();
    let requeued = sqlx::query(
        "with quick as materialized (select set_config('synchronous_commit', 'off', true))
         update sandboxes set requeues = requeues + 1,
                next_attempt_at = case when failure is null or $2
                    then least(next_attempt_at, now()) else next_attempt_at end
         from quick
         where id = any($1) and not (desired_state = 'terminated' and observed_generation = generation)",
    )
    .bind(ids)
    .bind(even_failed)
    .execute(&store.pool)
    .await?;
    Ok(requeued.rows_affected() > 0)
}

/// Asks that the sandboxes of these projects be looked at, and tells whether there are any. One that failed keeps its
/// back-off.
///
/// # Errors
/// The database does not answer.
pub async fn requeue_projects(store: &Store, projects: &HashSet<ProjectId>) -> Result<bool, sqlx::Error> {
    let ids: Vec<Uuid> = projects.iter().map(|id| id.0).collect();
    let requeued = sqlx::query(
        "with quick as materialized (select set_config('synchronous_commit', 'off', true))
         update sandboxes set requeues = requeues + 1, next_attempt_at = least(next_attempt_at, now())
         from quick
         where project_id = any($1) and failure is null
           and not (desired_state = 'terminated' and observed_generation = generation)",
    )
    .bind(ids)
    .execute(&store.pool)
    .await?;
    Ok(requeued.rows_affected() > 0)
}

/// Asks that every sandbox of these regions be looked at that is not gone for good.
///
/// # Errors
/// The database does not answer.
pub async fn requeue_everything(store: &Store, regions: &[String]) -> Result<(), sqlx::Error> {
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

/// A region answers again: what is in passing failure there, or waits to be removed, does not sit out its
/// back-off. Spread over some seconds, so that an outage does not end in a rush.
///
/// # Errors
/// The database does not answer.
pub async fn requeue_answers(store: &Store, region: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with waiting as (
             update sandboxes set next_attempt_at =
                    least(next_attempt_at, now() + random() * make_interval(secs => $2))
             where failure ->> 'kind' = 'transient'
               and not (desired_state = 'terminated' and observed_generation = generation)
               and project_id in (select id from projects where region = $1)
             returning 1)
         update projects set removal_due_at = least(removal_due_at, now() + random() * make_interval(secs => $2))
         where deleted_at is not null and removal_attempts > 0 and region = $1",
    )
    .bind(region)
    .bind(RUSH)
    .execute(&store.pool)
    .await?;
    Ok(())
}

/// Makes a sandbox due of which something is there although it was terminated.
///
/// # Errors
/// The database does not answer.
pub async fn revive(store: &Store, sandbox: SandboxId) -> Result<(), sqlx::Error> {
    sqlx::query("update sandboxes set requeues = requeues + 1, next_attempt_at = now() where id = $1")
        .bind(sandbox.0)
        .execute(&store.pool)
        .await?;
    Ok(())
}
