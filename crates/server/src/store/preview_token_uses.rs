//! Used hand-offs, shared by all replicas.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Store;
use crate::error::Result;

/// Uses up a hand-off. False where it was used before.
///
/// # Errors
/// The database does not answer.
pub async fn take(store: &Store, id: Uuid, until: DateTime<Utc>) -> Result<bool> {
    let done = sqlx::query(
        "with old as (delete from used_hand_offs where until < now())
         insert into used_hand_offs (id, until) values ($1, $2) on conflict do nothing",
    )
    .bind(id)
    .bind(until)
    .execute(&store.pool)
    .await?;
    Ok(done.rows_affected() > 0)
}
