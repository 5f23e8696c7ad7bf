//! Audit log: who did what to which object, from where, with which result.

use chrono::{DateTime, Utc};
use fsa_model::UserId;
use serde::Serialize;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use utoipa::ToSchema;

use super::{Store, caller::Caller};
use crate::error::Result;

/// An entry to be written. It contains no secrets.
#[derive(Clone, Debug)]
pub struct NewEntry<'a> {
    pub user: Option<UserId>,
    /// A stable identifier, such as `environment.reveal`.
    pub action: &'a str,
    /// The object of the action: a kind and an id or name.
    pub object: String,
    /// Where the request came from.
    pub address: &'a str,
    /// `ok`, `refused`, or `broken off` where the client went away first.
    pub result: &'a str,
}

/// An entry as the owner reads it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    pub id: i64,
    pub at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    pub action: String,
    pub object: String,
    pub address: String,
    pub result: String,
}

/// Writes an entry for an action of the caller.
///
/// # Errors
/// Same as [`append`].
pub async fn record(
    connection: &mut PgConnection,
    caller: &Caller,
    action: &str,
    object: String,
) -> Result<()> {
    let entry = NewEntry {
        user: Some(caller.user()),
        action,
        object,
        address: &caller.address().to_string(),
        result: "ok",
    };
    append(connection, entry).await
}

/// Writes an entry.
///
/// # Errors
/// The database does not answer; the audited action must then not happen.
pub async fn append(connection: &mut PgConnection, entry: NewEntry<'_>) -> Result<()> {
    sqlx::query("insert into audit (user_id, action, object, address, result) values ($1, $2, $3, $4, $5)")
        .bind(entry.user.map(|user| user.0))
        .bind(entry.action)
        .bind(entry.object)
        .bind(entry.address)
        .bind(entry.result)
        .execute(connection)
        .await?;
    Ok(())
}

macro_rules! select_entries {
    ($rest:literal) => {
        concat!(
            "select a.id, a.at, a.user_id, u.login, a.action, a.object, a.address, a.result
             from audit a left join users u on u.id = a.user_id ",
            $rest
        )
    };
}

/// The entries before the id `before`, newest first.
///
/// # Errors
/// The database does not answer.
pub async fn before(store: &Store, before: i64, limit: i64) -> Result<Vec<AuditEntry>> {
    let rows = sqlx::query(select_entries!("where a.id < $1 order by a.id desc limit $2"))
        .bind(before)
        .bind(limit)
        .fetch_all(&store.pool)
        .await?;
    read(&rows)
}

/// The entries after the id `after`, oldest first.
///
/// # Errors
/// The database does not answer.
pub async fn after(store: &Store, after: i64, limit: i64) -> Result<Vec<AuditEntry>> {
    let rows = sqlx::query(select_entries!("where a.id > $1 order by a.id limit $2"))
        .bind(after)
        .bind(limit)
        .fetch_all(&store.pool)
        .await?;
    read(&rows)
}

fn read(rows: &[PgRow]) -> Result<Vec<AuditEntry>> {
    Ok(rows.iter().map(audit_entry).collect::<Result<_, _>>()?)
}

/// The entry in a row of `audit`, joined with its user's login.
///
/// # Errors
/// The row lacks a column.
pub(super) fn audit_entry(row: &PgRow) -> Result<AuditEntry, sqlx::Error> {
    Ok(AuditEntry {
        id: row.try_get("id")?,
        at: row.try_get("at")?,
        user_id: row.try_get::<Option<uuid::Uuid>, _>("user_id")?.map(UserId),
        login: row.try_get("login")?,
        action: row.try_get("action")?,
        object: row.try_get("object")?,
        address: row.try_get("address")?,
        result: row.try_get("result")?,
    })
}
