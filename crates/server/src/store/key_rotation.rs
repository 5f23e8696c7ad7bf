//! Key rotation of encrypted values, over one list of all encrypted columns. It checks at startup that all of them can
//! be decrypted, and encrypts them with a new key while the server runs.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Row as _};
use tokio_util::sync::CancellationToken;

use super::Store;
use crate::encryption::{AssociatedData, KeyRing};

/// The number of values encrypted again between two checks of the stop signal.
const BATCH: i64 = 100;

/// A column of encrypted values. The strings go into SQL statements verbatim.
struct Column {
    table: &'static str,
    column: &'static str,
    /// The SQL expression of a value's [`AssociatedData::row`].
    row: &'static str,
}

/// All encrypted columns. [`super::associated_data`] has their associated data, and a test compares the list with the
/// schema.
const COLUMNS: [Column; 10] = [
    column("projects", "environment", "id::text"),
    column("branches", "environment", "volume_id::text"),
    column("databases", "password", "project_id::text"),
    column("sandboxes", "control_token", "id::text"),
    column("sandboxes", "request_environment", "id::text"),
    column("agent_credentials", "variables", "user_id::text"),
    column("git_credentials", "password", "project_id::text"),
    column("github_accounts", "token", "user_id::text"),
    column("github_accounts", "refresh_token", "user_id::text"),
    column("github_sign_ins", "verifier", "encode(state_hash, 'hex')"),
];

const fn column(table: &'static str, column: &'static str, row: &'static str) -> Column {
    Column { table, column, row }
}

/// The names of the encrypted columns, `table.column`.
pub fn columns() -> impl Iterator<Item = String> {
    COLUMNS
        .iter()
        .map(|column| format!("{}.{}", column.table, column.column))
}

/// Why the stored secrets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableSecrets {
    #[error(
        "{count} stored secrets are encrypted with keys that the key file does not have ({keys}); restore the key file \
         that they were encrypted with from a backup (it may have several lines), because without it they are lost"
    )]
    UnknownKeys { count: i64, keys: String },
    #[error(
        "a stored secret of {column} cannot be decrypted although its key exists; the database or the key file is damaged: \
         restore both from the same backup"
    )]
    Damaged { column: String },
    #[error("the control database did not list its secrets: {0}")]
    Database(#[from] sqlx::Error),
}

/// The number of values encrypted with each key.
///
/// # Errors
/// The database does not answer.
pub async fn keys(store: &Store) -> Result<BTreeMap<Vec<u8>, i64>, sqlx::Error> {
    let values: Vec<String> = COLUMNS
        .iter()
        .map(|column| format!("select {} as value from {}", column.column, column.table))
        .collect();
    // An encrypted value begins with its version and the key's id.
    let query = format!(
        "select substring(value from 2 for 4) as key, count(*) as count
         from ({}) as all_values where value is not null group by 1",
        values.join(" union all ")
    );
    let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&store.pool).await?;
    rows.iter()
        .map(|row| Ok((row.try_get("key")?, row.try_get("count")?)))
        .collect()
}

/// Checks, before the server serves requests, that every stored secret can be decrypted: that its key exists, and for
/// one value of each column that the key is the correct one.
///
/// # Errors
/// [`UnusableSecrets`].
pub async fn check(store: &Store, key_ring: &KeyRing) -> Result<(), UnusableSecrets> {
    let unknown: Vec<(Vec<u8>, i64)> = keys(store)
        .await?
        .into_iter()
        .filter(|(key, _)| !key_ring.has(key))
        .collect();
    if !unknown.is_empty() {
        return Err(UnusableSecrets::UnknownKeys {
            count: unknown.iter().map(|(_, count)| count).sum(),
            keys: unknown
                .iter()
                .map(|(key, _)| hex::encode(key))
                .collect::<Vec<_>>()
                .join(", "),
        });
    }
    for column in &COLUMNS {
        let query = format!(
            "select {} as row, {} as value from {} where {} is not null limit 1",
            column.row, column.column, column.table, column.column
        );
        let sample = sqlx::query(AssertSqlSafe(query))
            .fetch_optional(&store.pool)
            .await?;
        let Some(sample) = sample else { continue };
        let (row, value): (String, Vec<u8>) = (sample.try_get("row")?, sample.try_get("value")?);
        if key_ring.decrypt(column.associated_data(&row), &value).is_err() {
            return Err(UnusableSecrets::Damaged {
                column: format!("{}.{}", column.table, column.column),
            });
        }
    }
    Ok(())
}

impl Column {
    fn associated_data<'a>(&self, row: &'a str) -> AssociatedData<'a> {
        AssociatedData {
            table: self.table,
            column: self.column,
            row,
        }
    }
}

/// Encrypts with the newest key the values that another key encrypted, concurrently with other writes: a value that
/// changes meanwhile keeps the change. Several servers may run it at once; each continues what another left undone.
///
/// # Errors
/// The database does not answer; values done so far stay done.
pub async fn reencrypt(
    store: &Store,
    key_ring: &KeyRing,
    stop: &CancellationToken,
) -> Result<u64, sqlx::Error> {
    let mut done = 0;
    for column in &COLUMNS {
        let (table, name, row) = (column.table, column.column, column.row);
        let select = format!(
            "select {row} as row, {name} as value from {table}
             where {row} > $1 and substring({name} from 2 for 4) <> $2 order by 1 limit {BATCH}"
        );
        let update = format!("update {table} set {name} = $3 where {row} = $1 and {name} = $2");
        let mut last = String::new();
        while !stop.is_cancelled() {
            let rows = sqlx::query(AssertSqlSafe(select.as_str()))
                .bind(&last)
                .bind(&key_ring.current()[..])
                .fetch_all(&store.pool)
                .await?;
            if rows.is_empty() {
                break;
            }
            for encrypted in rows {
                let value: Vec<u8> = encrypted.try_get("value")?;
                last = encrypted.try_get("row")?;
                let associated_data = column.associated_data(&last);
                match key_ring.decrypt(associated_data, &value) {
                    Ok(secret) => {
                        let changed = sqlx::query(AssertSqlSafe(update.as_str()))
                            .bind(&last)
                            .bind(&value)
                            .bind(key_ring.encrypt(associated_data, &secret))
                            .execute(&store.pool)
                            .await?;
                        done += changed.rows_affected();
                    }
                    Err(error) => tracing::error!(%error, row = last, "a value cannot be re-encrypted"),
                }
            }
        }
    }
    Ok(done)
}
