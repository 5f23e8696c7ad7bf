//! Databases, tables and columns of a copied database, read from PostgreSQL's catalogs; and what differs.

use std::collections::BTreeMap;

use fsa_model::{database_diff::ColumnChange, snapshot::ChangeKind};
use sqlx::{Executor as _, PgConnection, Row as _};

use crate::runner::database::MARK;

/// Values are shown the same way whatever the project has set.
const SETTINGS: &str = "SET search_path = pg_catalog; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; \
                        SET IntervalStyle = 'postgres'; SET extra_float_digits = 1; SET bytea_output = 'hex'; \
                        SET default_transaction_read_only = on; SET max_parallel_workers_per_gather = 0";

/// Columns of all tables of a database. The first join keeps tables without columns. Partitions are read through their
/// table.
const COLUMNS: &str = "SELECT n.nspname::text AS schema, c.relname::text AS name, c.reltuples::float8 AS rows, \
       a.attname::text AS column_name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null, \
       pg_get_expr(d.adbin, d.adrelid) AS expression, a.attgenerated::text AS generated, \
       coalesce(array_position(i.indkey::int2[], a.attnum), -1) AS key_position \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
     LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
     LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
     WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' \
       AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' \
     ORDER BY n.nspname, c.relname, a.attname LIMIT 50000";

/// A table's schema and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

/// A table, as far as it is compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub columns: BTreeMap<String, Column>,
    /// Columns of the primary key, in its order.
    pub key: Vec<String>,
    /// PostgreSQL's estimate; below 0 where it has none.
    pub estimated_rows: f64,
}

/// A column, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    pub data_type: String,
    /// The type with `not null` and the default.
    pub definition: String,
}

/// The databases of a server.
pub struct DatabaseNames {
    /// Without templates and PostgreSQL's own.
    pub all: Vec<String>,
    /// The project's own: that of its role's name.
    pub own: Option<String>,
}

pub async fn databases(connection: &mut PgConnection) -> sqlx::Result<DatabaseNames> {
    let all = sqlx::query_scalar(
        "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate AND datname <> 'postgres' \
         ORDER BY 1",
    )
    .fetch_all(&mut *connection)
    .await?;
    let own = sqlx::query_scalar(
        "SELECT r.rolname::text FROM pg_roles r JOIN pg_database d ON d.datname = r.rolname \
         WHERE shobj_description(r.oid, 'pg_authid') = $1 ORDER BY 1 LIMIT 1",
    )
    .bind(MARK)
    .fetch_optional(connection)
    .await?;
    Ok(DatabaseNames { all, own })
}

pub async fn tables(connection: &mut PgConnection) -> sqlx::Result<BTreeMap<TableName, Table>> {
    connection.execute(SETTINGS).await?;
    let mut tables: BTreeMap<TableName, Table> = BTreeMap::new();
    let mut keys: BTreeMap<TableName, BTreeMap<i32, String>> = BTreeMap::new();
    for row in sqlx::query(COLUMNS).fetch_all(connection).await? {
        let name = TableName {
            schema: row.try_get("schema")?,
            table: row.try_get("name")?,
        };
        let table = tables.entry(name.clone()).or_default();
        table.estimated_rows = row.try_get("rows")?;
        let Some(column) = row.try_get::<Option<String>, _>("column_name")? else {
            continue;
        };
        let data_type: String = row.try_get("type")?;
        let expression: Option<String> = row.try_get("expression")?;
        let generated: String = row.try_get("generated")?;
        let definition = definition(
            &data_type,
            row.try_get("not_null")?,
            expression.as_deref(),
            &generated,
        );
        let position: i32 = row.try_get("key_position")?;
        if position >= 0 {
            keys.entry(name).or_default().insert(position, column.clone());
        }
        table.columns.insert(
            column,
            Column {
                data_type,
                definition,
            },
        );
    }
    for (name, key) in keys {
        if let Some(table) = tables.get_mut(&name) {
            table.key = key.into_values().collect();
        }
    }
    Ok(tables)
}

fn definition(data_type: &str, not_null: bool, expression: Option<&str>, generated: &str) -> String {
    let mut text = data_type.to_owned();
    if not_null {
        text.push_str(" not null");
    }
    if let Some(expression) = expression {
        text.push_str(if generated.is_empty() {
            " default "
        } else {
            " generated as "
        });
        text.extend(expression.chars().take(200));
    }
    text
}

/// Pure: the columns that differ, by name.
pub fn column_changes(before: &Table, after: &Table) -> Vec<ColumnChange> {
    let mut names: Vec<&String> = before.columns.keys().chain(after.columns.keys()).collect();
    names.sort();
    names.dedup();
    let mut changes = Vec::new();
    for name in names {
        let definition = |table: &Table| table.columns.get(name).map(|column| column.definition.clone());
        let (then, now) = (definition(before), definition(after));
        let change = match (&then, &now) {
            (None, _) => ChangeKind::Added,
            (_, None) => ChangeKind::Removed,
            _ if then == now => continue,
            _ => ChangeKind::Changed,
        };
        changes.push(ColumnChange {
            name: name.clone(),
            change,
            before: then,
            now,
        });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[(&str, &str)]) -> Table {
        let column = |(name, definition): &(&str, &str)| {
            let column = Column {
                data_type: (*definition).into(),
                definition: (*definition).into(),
            };
            ((*name).to_owned(), column)
        };
        Table {
            columns: columns.iter().map(column).collect(),
            ..Table::default()
        }
    }

    #[test]
    fn columns_are_added_changed_and_removed_by_their_names() {
        let before = table(&[("id", "bigint"), ("name", "text"), ("old", "text")]);
        let after = table(&[("id", "bigint"), ("name", "text not null"), ("new", "text")]);

        let changes = column_changes(&before, &after);

        let found: Vec<_> = changes
            .iter()
            .map(|one| (one.name.as_str(), one.change))
            .collect();
        assert_eq!(
            found,
            [
                ("name", ChangeKind::Changed),
                ("new", ChangeKind::Added),
                ("old", ChangeKind::Removed)
            ]
        );
        assert_eq!(changes[0].before.as_deref(), Some("text"));
        assert_eq!(changes[0].now.as_deref(), Some("text not null"));
        assert_eq!(column_changes(&after, &after), []);
    }

    #[test]
    fn a_definition_has_the_type_and_what_is_beside_it() {
        assert_eq!(
            definition("text", true, Some("'x'::text"), ""),
            "text not null default 'x'::text"
        );
        assert_eq!(
            definition("int", false, Some("a + 1"), "s"),
            "int generated as a + 1"
        );
    }
}
