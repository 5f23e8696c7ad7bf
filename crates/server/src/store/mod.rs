//! The control database: all SQL of the control plane, one file per table or use.
//!
//! Look-ups of what belongs to a user take the [`caller::Caller`] and return [`permission::Authorized`], so that a
//! forgotten check does not compile.

pub mod agents;
pub mod associated_data;
pub mod audit;
pub mod backup_leases;
pub mod backups;
pub mod branches;
pub mod caller;
pub mod databases;
pub mod disk;
pub mod events;
pub mod git;
pub mod github;
pub mod key_rotation;
pub mod lease;
pub mod leases;
pub mod login_links;
pub mod members;
pub mod notify;
pub mod observed;
pub mod orphans;
pub mod permission;
pub mod preview_token_uses;
pub mod previews;
pub mod project_access;
pub mod projects;
pub mod quotas;
pub mod removals;
pub mod replicas;
pub mod requeue;
pub mod retention;
pub mod sandboxes;
pub mod sessions;
pub mod snapshot_leases;
pub mod snapshot_schedules;
pub mod snapshots;
pub mod tasks;
pub mod tokens;
pub mod users;
pub mod warnings;

use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::{
    Connection as _, PgPool, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};

use crate::error::Result;

/// The control database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: PgPool,
}

/// A transaction. It rolls back when dropped without a commit.
pub type Transaction = sqlx::PgTransaction<'static>;

/// The maximum time that a request waits for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that has been idle for longer is tested before use.
const PING_AFTER_IDLE: Duration = Duration::from_secs(5);

impl Store {
    /// Connects and migrates the schema (under sqlx's own advisory lock, so that any number of servers may start at
    /// once).
    ///
    /// # Errors
    /// The database cannot be reached, or a migration fails.
    pub async fn open(options: PgConnectOptions, connections: u32) -> Result<Self, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, idle| {
                Box::pin(async move {
                    if idle.idle_for > PING_AFTER_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(options)
            .await?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        Ok(Self { pool })
    }

    /// The pool, for callers that need a dedicated connection to listen on.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Checks whether the database answers.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn ping(&self) -> Result<(), sqlx::Error> {
        sqlx::query("select 1").execute(&self.pool).await.map(drop)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn begin(&self) -> Result<Transaction> {
        Ok(self.pool.begin().await?)
    }
}

/// Parses a text column as one of the model's types.
pub(crate) fn parsed_column<T>(row: &PgRow, column: &str) -> Result<T, sqlx::Error>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.try_get::<&str, _>(column)?
        .parse()
        .map_err(|e| undecodable(column, e))
}

/// Parses a text column as an enumeration of the model.
pub(crate) fn enum_column<T: DeserializeOwned>(row: &PgRow, column: &str) -> Result<T, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    T::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(
        text,
    ))
    .map_err(|e| undecodable(column, e))
}

/// Parses a `jsonb` column as a type of the model.
pub(crate) fn json_column<T: DeserializeOwned>(row: &PgRow, column: &str) -> Result<T, sqlx::Error> {
    // The binary form of jsonb is a version byte and the text.
    let raw = row.try_get_raw(column)?;
    let bytes = raw.as_bytes().map_err(|e| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: e,
    })?;
    serde_json::from_slice(bytes.strip_prefix(&[1]).unwrap_or(bytes)).map_err(|e| undecodable(column, e))
}

/// Same as [`json_column()`], for a nullable column.
pub(crate) fn optional_json_column<T: DeserializeOwned>(
    row: &PgRow,
    column: &str,
) -> Result<Option<T>, sqlx::Error> {
    use sqlx::ValueRef as _;
    if row.try_get_raw(column)?.is_null() {
        return Ok(None);
    }
    json_column(row, column).map(Some)
}

/// The stored text of an enumeration of the model.
pub(crate) fn enum_text(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("an enumeration without fields is serialized as a string, not as {other:?}"),
    }
}

fn undecodable(column: &str, error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(error),
    }
}
