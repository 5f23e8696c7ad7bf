//! Rows of a table in two databases: both are read in the order of their primary keys, as one hash for each row, and
//! merged. Nothing of a table is kept in memory but the two rows that are compared.

use std::cmp::Ordering;

use fsa_model::database_diff::{NotCompared, RowChanges};
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use tokio::time::Instant;

use super::{
    Rows,
    schema::{Table, TableName},
};

/// Rows of one state of a table that are compared: about twenty seconds.
const ROWS_MAX: u64 = 1_000_000;

/// A row: its key, or its content in a table without one, and a hash of its content.
type Row = (String, i64);

/// Compares the rows of a table that one or both of the databases have.
pub async fn compare(
    before: Option<(&mut PgConnection, &Table)>,
    after: Option<(&mut PgConnection, &Table)>,
    name: &TableName,
    deadline: Instant,
) -> Rows {
    let both = [&before, &after].map(|one| one.as_ref().map(|(_, table)| *table));
    let tables: Vec<&Table> = both.into_iter().flatten().collect();
    if tables.iter().any(|table| table.estimated_rows > ROWS_MAX as f64) {
        return Err(NotCompared::TooManyRows);
    }
    let query = query(&tables, name);
    match tokio::time::timeout_at(deadline, merge(before, after, &query)).await {
        Ok(rows) => rows,
        Err(_) => Err(NotCompared::TimeOver),
    }
}

async fn merge(
    before: Option<(&mut PgConnection, &Table)>,
    after: Option<(&mut PgConnection, &Table)>,
    query: &str,
) -> Rows {
    let mut before = Source::new(before, query);
    let mut after = Source::new(after, query);
    let mut changes = RowChanges::default();
    let (mut then, mut now) = (before.next().await?, after.next().await?);
    loop {
        let order = match (&then, &now) {
            (None, None) => return Ok(changes),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.0.as_bytes().cmp(other.0.as_bytes()),
        };
        match order {
            Ordering::Less => changes.deleted += 1,
            Ordering::Greater => changes.inserted += 1,
            Ordering::Equal => {
                let hash = |row: &Option<Row>| row.as_ref().map(|(_, hash)| *hash);
                changes.updated += u64::from(hash(&then) != hash(&now));
            }
        }
        if order.is_le() {
            then = before.next().await?;
        }
        if order.is_ge() {
            now = after.next().await?;
        }
    }
}

/// The rows of one database, or none where it does not have the table.
struct Source<'a> {
    rows: Option<futures_util::stream::BoxStream<'a, sqlx::Result<sqlx::postgres::PgRow>>>,
    read: u64,
}

impl<'a> Source<'a> {
    fn new(table: Option<(&'a mut PgConnection, &Table)>, query: &str) -> Self {
        Self {
            rows: table.map(|(connection, _)| sqlx::query(AssertSqlSafe(query.to_owned())).fetch(connection)),
            read: 0,
        }
    }

    async fn next(&mut self) -> Result<Option<Row>, NotCompared> {
        let Some(rows) = &mut self.rows else {
            return Ok(None);
        };
        let unreadable = |error: sqlx::Error| {
            tracing::info!(%error, "the rows of a table could not be read");
            NotCompared::Unreadable
        };
        let Some(row) = rows.try_next().await.map_err(unreadable)? else {
            return Ok(None);
        };
        self.read += 1;
        if self.read > ROWS_MAX {
            return Err(NotCompared::TooManyRows);
        }
        let row = row.try_get("key").and_then(|key| Ok((key, row.try_get("hash")?)));
        row.map(Some).map_err(unreadable)
    }
}

/// Pure: the query of the rows. It reads the columns that all states of the table have with the same type. Keys are
/// ordered by their bytes, so both servers agree on the order.
fn query(tables: &[&Table], name: &TableName) -> String {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let is_common = |column: &str| {
        let mut types = tables
            .iter()
            .map(|table| table.columns.get(column).map(|column| &column.data_type));
        let first = types.next().flatten();
        first.is_some() && types.all(|other| other == first)
    };
    let row = |columns: &mut dyn Iterator<Item = &String>| {
        let columns: Vec<String> = columns.map(|column| format!("t.{}", quote(column))).collect();
        format!("ROW({})::text", columns.join(", "))
    };
    let all = tables.first().map(|table| &table.columns);
    let content = row(&mut all
        .into_iter()
        .flat_map(|columns| columns.keys())
        .filter(|column| is_common(column)));
    let keys: Vec<&Vec<String>> = tables.iter().map(|table| &table.key).collect();
    let key = match keys.first() {
        Some(key)
            if !key.is_empty()
                && keys.iter().all(|other| other == key)
                && key.iter().all(|column| is_common(column)) =>
        {
            row(&mut key.iter())
        }
        _ => content.clone(),
    };
    // The key of a table without a primary key is all of a row: its hash is shorter.
    let key = match key == content {
        true => format!("md5({key})"),
        false => key,
    };
    format!(
        "SELECT ({key}) COLLATE \"C\" AS key, hashtextextended({content}, 0) AS hash FROM {}.{} t ORDER BY 1, 2 LIMIT {}",
        quote(&name.schema),
        quote(&name.table),
        ROWS_MAX + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project_databases::compare::schema::Column;

    fn table(columns: &[(&str, &str)], key: &[&str]) -> Table {
        let column = |(name, data_type): &(&str, &str)| {
            let column = Column {
                data_type: (*data_type).into(),
                definition: (*data_type).into(),
            };
            ((*name).to_owned(), column)
        };
        Table {
            columns: columns.iter().map(column).collect(),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            estimated_rows: -1.0,
        }
    }

    fn name() -> TableName {
        TableName {
            schema: "public".into(),
            table: "a\"b".into(),
        }
    }

    #[test]
    fn rows_are_read_by_their_key_in_the_columns_that_both_states_have() {
        let before = table(&[("id", "bigint"), ("name", "text"), ("old", "text")], &["id"]);
        let after = table(&[("id", "bigint"), ("name", "text"), ("new", "text")], &["id"]);
        assert_eq!(
            query(&[&before, &after], &name()),
            "SELECT (ROW(t.\"id\")::text) COLLATE \"C\" AS key, \
             hashtextextended(ROW(t.\"id\", t.\"name\")::text, 0) AS hash FROM \"public\".\"a\"\"b\" t ORDER BY 1, 2 \
             LIMIT 1000001"
        );
    }

    #[test]
    fn rows_without_a_common_key_are_ordered_by_all_of_them() {
        let keyless = table(&[("a", "text")], &[]);
        assert!(query(&[&keyless], &name()).starts_with("SELECT (md5(ROW(t.\"a\")::text)) COLLATE"));
        // The key's type has changed.
        let before = table(&[("id", "integer"), ("a", "text")], &["id"]);
        let after = table(&[("id", "bigint"), ("a", "text")], &["id"]);
        assert!(query(&[&before, &after], &name()).contains("md5(ROW(t.\"a\")::text)"));
        // Nothing in common: as many rows as there are.
        let other = table(&[("b", "text")], &[]);
        assert!(query(&[&keyless, &other], &name()).contains("md5(ROW()::text)"));
    }
}
