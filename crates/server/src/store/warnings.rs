//! Warnings of a data plane about a sandbox: reported as an event the first time, then at each tenfold count.

use fsa_driver::Warning;
use fsa_model::event::EventKind;
use serde_json::json;
use sqlx::Row as _;

use super::{Store, enum_text};

/// Days after which warnings of other sources are deleted when a new warning of their sandbox arrives.
const RETENTION_DAYS: i32 = 7;

/// Reports a warning as an event, unless it was reported. Returns whether it was reported now. Ignores a sandbox
/// without a row.
///
/// # Errors
/// The database does not answer.
pub async fn report(store: &Store, warning: &Warning, message: &str) -> Result<bool, sqlx::Error> {
    let count = i32::try_from(warning.count).unwrap_or(i32::MAX);
    sqlx::query(
        "with old as (
             delete from warnings where sandbox_id = $1 and source <> $3 and since < now() - make_interval(days => $9)),
         new as (
             insert into warnings (sandbox_id, source, cause, reported_count)
             select id, $3, $4, $5 from sandboxes where id = $1 and resource = $2
             on conflict (sandbox_id, source, cause) do update set reported_count = excluded.reported_count
                 where excluded.reported_count >= warnings.reported_count::bigint * 10
             returning sandbox_id),
         reported as (
             insert into events (project_id, owner_id, sandbox_id, kind, message, data)
             select p.id, p.owner_id, s.id, $6, $7, $8
             from new join sandboxes s on s.id = new.sandbox_id join projects p on p.id = s.project_id
             returning 1)
         select exists (select 1 from reported)",
    )
    .bind(warning.sandbox.id.0)
    .bind(warning.sandbox.resource.as_str())
    .bind(&warning.source)
    .bind(warning.cause)
    .bind(count)
    .bind(enum_text(&EventKind::Warned))
    .bind(message)
    .bind(json!({
        "cause": warning.cause,
        "count": warning.count,
        "failure": warning.failure,
        "kubernetesStatus": warning.failure.kubernetes_status,
    }))
    .bind(RETENTION_DAYS)
    .fetch_one(&store.pool)
    .await?
    .try_get(0)
}
