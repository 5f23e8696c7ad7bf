//! Comparison of the databases of two snapshots. Each is copied into a volume that is thrown away, and read there by a
//! server of its own, so the project is not touched: no lock, no load on its server.
//!
//! A copy is recorded as one ([`COMPARED`]) before its files are there. What a process leaves that was killed is
//! removed when the next one starts.

mod rows;
mod schema;

use std::{collections::BTreeMap, time::Duration};

use fsa_driver::{DatabaseSnapshot, DriverError, Result};
use fsa_model::{
    FailureKind, VolumeId,
    database_diff::{DatabaseChanges, NotCompared, RowChanges, TableChange},
    snapshot::ChangeKind,
};
use sqlx::PgConnection;
use tokio::time::Instant;

use self::schema::{DatabaseNames, Table, TableName};
use super::ProjectDatabases;
use crate::{
    protocol::{Request, StopWhen},
    runner::database::COMPARED,
};

/// Tables that are listed.
const TABLES_MAX: usize = 500;
/// Databases that are compared.
const DATABASES_MAX: usize = 10;
/// Attempts of a start: the recovery of a large database may take longer than one request.
const STARTS: u32 = 5;
/// How long rows are read.
const ROWS: Duration = Duration::from_secs(60);
/// How long all of a comparison may take, without the removal.
const TOTAL: Duration = Duration::from_secs(240);
/// Timeout of a copy or a removal.
const FILES: Duration = Duration::from_secs(300);

impl ProjectDatabases {
    /// Compares two snapshots.
    pub(super) async fn compare_snapshots(
        &self,
        before: DatabaseSnapshot,
        after: DatabaseSnapshot,
    ) -> Result<DatabaseChanges> {
        let copies = [VolumeId::generate(), VolumeId::generate()];
        let compared = async {
            tokio::try_join!(
                self.start_copy(before, copies[0]),
                self.start_copy(after, copies[1])
            )?;
            self.compare_copies(copies, Instant::now() + ROWS).await
        };
        let compared = match tokio::time::timeout(TOTAL, compared).await {
            Ok(compared) => compared,
            Err(_) => Err(DriverError::new(
                FailureKind::Transient,
                "the databases are too large to be compared in the time that there is",
            )),
        };
        for copy in copies {
            self.remove_copy(copy).await;
        }
        compared
    }

    async fn start_copy(&self, from: DatabaseSnapshot, to: VolumeId) -> Result<()> {
        let request = Request::CopySnapshotDatabase {
            from: from.volume,
            snapshot: from.snapshot,
            to,
        };
        self.client.done(request, &[], FILES).await?;
        for attempt in 1.. {
            match self.request_start(to).await {
                Err(error) if error.failure.kind == FailureKind::Transient && attempt < STARTS => {}
                started => return started.map(drop),
            }
        }
        Ok(())
    }

    /// Removes a copy with its server. What cannot be removed now is when the server starts again.
    async fn remove_copy(&self, copy: VolumeId) {
        let removed = async {
            self.request_stop(copy, StopWhen::Always).await?;
            self.request_remove(copy).await?;
            self.client
                .done(Request::RemoveVolume { volume: copy }, &[], FILES)
                .await
        };
        if let Err(error) = removed.await {
            tracing::warn!(volume = %copy, %error, "the copy of a compared database could not be removed");
        }
    }

    /// Removes the copies of comparisons that were interrupted.
    ///
    /// # Errors
    /// The runner does not answer.
    pub async fn remove_interrupted_comparisons(&self) -> Result<()> {
        for server in self.request_list().await? {
            if server.setup.role == COMPARED {
                self.remove_copy(server.volume).await;
            }
        }
        Ok(())
    }

    async fn databases_of(&self, copy: VolumeId) -> sqlx::Result<DatabaseNames> {
        let mut connection = self.sockets.connect(copy, "template1").await?;
        schema::databases(&mut connection).await
    }

    /// A connection to a database, where the copy has it.
    async fn open_copy(
        &self,
        copy: VolumeId,
        database: &String,
        has: &DatabaseNames,
    ) -> sqlx::Result<Option<PgConnection>> {
        match has.all.contains(database) {
            true => self.sockets.connect(copy, database).await.map(Some),
            false => Ok(None),
        }
    }

    async fn compare_copies(&self, copies: [VolumeId; 2], deadline: Instant) -> Result<DatabaseChanges> {
        let read = async {
            let (before, after) =
                tokio::try_join!(self.databases_of(copies[0]), self.databases_of(copies[1]))?;
            let mut changes = DatabaseChanges::default();
            let mut all: Vec<&String> = before.all.iter().chain(&after.all).collect();
            all.sort();
            all.dedup();
            changes.truncated = all.len() > DATABASES_MAX;
            for name in all.into_iter().take(DATABASES_MAX) {
                let (mut one, mut other) = tokio::try_join!(
                    self.open_copy(copies[0], name, &before),
                    self.open_copy(copies[1], name, &after)
                )?;
                let shown = (Some(name) != after.own.as_ref().or(before.own.as_ref())).then(|| name.clone());
                compare_database(&mut one, &mut other, shown, &mut changes, deadline).await?;
            }
            Ok::<_, sqlx::Error>(changes)
        };
        let failed = |error: sqlx::Error| {
            DriverError::new(
                FailureKind::Transient,
                "the database of a snapshot could not be read",
            )
            .because(error)
        };
        read.await.map_err(failed)
    }
}

async fn compare_database(
    before: &mut Option<PgConnection>,
    after: &mut Option<PgConnection>,
    database: Option<String>,
    changes: &mut DatabaseChanges,
    deadline: Instant,
) -> sqlx::Result<()> {
    let (then, now) = tokio::try_join!(tables(before), tables(after))?;
    let mut names: Vec<&TableName> = then.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (earlier, later) = (then.get(name), now.get(name));
        let columns = match (earlier, later) {
            (Some(earlier), Some(later)) => schema::column_changes(earlier, later),
            _ => Vec::new(),
        };
        let rows = rows::compare(
            before.as_mut().zip(earlier),
            after.as_mut().zip(later),
            name,
            deadline,
        )
        .await;
        let change = match (earlier, later) {
            (None, _) => ChangeKind::Added,
            (_, None) => ChangeKind::Removed,
            _ if columns.is_empty() && rows.is_ok_and(RowChanges::is_empty) => {
                changes.unchanged += 1;
                continue;
            }
            _ => ChangeKind::Changed,
        };
        if changes.tables.len() >= TABLES_MAX {
            changes.truncated = true;
            return Ok(());
        }
        changes.tables.push(TableChange {
            database: database.clone(),
            schema: name.schema.clone(),
            name: name.table.clone(),
            change,
            columns,
            rows: rows.ok(),
            not_compared: rows.err(),
        });
    }
    Ok(())
}

async fn tables(connection: &mut Option<PgConnection>) -> sqlx::Result<BTreeMap<TableName, Table>> {
    match connection {
        Some(connection) => schema::tables(connection).await,
        None => Ok(BTreeMap::new()),
    }
}

/// Rows that differ, or why they were not compared.
type Rows = std::result::Result<RowChanges, NotCompared>;
