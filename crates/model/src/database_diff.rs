//! Differences between the databases of two snapshots: tables, columns and numbers of rows.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ids::SnapshotId, snapshot::ChangeKind};

/// `GET …/snapshots/{snapshot}/diff/database`: what changed after the snapshot, up to a later one or up to now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseDiff {
    pub from: SnapshotId,
    /// Absent for the database as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<SnapshotId>,
    #[serde(flatten)]
    pub database: DatabaseChanges,
}

/// Differences between two states of a project's databases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseChanges {
    /// Tables that differ, and those whose rows were not compared, by database, schema and name; at most 500.
    pub tables: Vec<TableChange>,
    /// Number of tables that were compared and are equal.
    pub unchanged: u64,
    /// There are more tables than `tables` has, or than were looked at.
    pub truncated: bool,
}

/// A table that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TableChange {
    /// The database that it is in, if that is not the project's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    pub schema: String,
    pub name: String,
    /// Whether the table itself was added, changed or removed.
    pub change: ChangeKind,
    /// Columns that were added, changed or removed, in a table that both states have.
    pub columns: Vec<ColumnChange>,
    /// Absent where the rows were not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowChanges>,
    /// Why the rows were not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_compared: Option<NotCompared>,
}

/// A column that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ColumnChange {
    pub name: String,
    pub change: ChangeKind,
    /// Type, default and `not null` before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Type, default and `not null` now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
}

/// Numbers of rows that differ in the columns that both states have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RowChanges {
    pub inserted: u64,
    /// Rows with the same primary key and another content. In a table without one, such a row counts as deleted and
    /// inserted.
    pub updated: u64,
    pub deleted: u64,
}

/// Why the rows of a table were not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum NotCompared {
    /// It has more rows than are compared.
    TooManyRows,
    /// The time of the comparison was over.
    TimeOver,
    /// PostgreSQL refused to read them.
    Unreadable,
}

impl RowChanges {
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl TableChange {
    /// The table's name for people: with its database and schema where they are not the usual ones.
    #[must_use]
    pub fn title(&self) -> String {
        let schema = (self.schema != "public").then_some(&self.schema);
        let parts = [self.database.as_ref(), schema, Some(&self.name)];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        parts.join(".")
    }
}
