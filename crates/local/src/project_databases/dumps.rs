//! Dumps of the databases of a volume's server for backups: pg_dump and pg_restore of the server's release or a newer one,
//! as processes of `fsa serve` that see the server's socket.

use std::{os::fd::OwnedFd, path::PathBuf, process::Stdio, time::Duration};

use async_trait::async_trait;
use fsa_driver::{DriverError, Result, backup::DatabaseDumps};
use fsa_model::{DatabaseSpec, FailureKind, VolumeId};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::time::timeout;

use super::{
    ProjectDatabases,
    upgrade::transfer::{end, program},
};
use crate::{postgres::binaries::installations, protocol::StopWhen, runner::database::SUPERUSER};

/// Timeout of a dump or its restore. The other side may be storage over the network.
const TRANSFER: Duration = Duration::from_secs(6 * 3600);
/// Timeout of a statement.
const STATEMENT: Duration = Duration::from_secs(60);

/// The databases that programs made; `postgres` is made by initdb.
const NAMES: &str = "SELECT datname::text FROM pg_database \
     WHERE datallowconn AND NOT datistemplate AND datname <> 'postgres' ORDER BY datname <> $1, datname";

#[async_trait]
impl DatabaseDumps for ProjectDatabases {
    async fn names(&self, database: &DatabaseSpec) -> Result<Vec<String>> {
        let volume = database.volume;
        let Some(observed) = self.request_observe(volume).await? else {
            return Ok(Vec::new());
        };
        if observed.major.is_none() {
            return Ok(Vec::new());
        }
        if observed.lost {
            return Err(DriverError::new(
                FailureKind::Input,
                "the files of the project's database are missing, so it cannot be backed up",
            ));
        }
        self.start_server(volume).await?;
        let names = async {
            let mut connection = self.sockets.connect(volume, "template1").await?;
            let names: Vec<String> = sqlx::query_scalar(NAMES)
                .bind(&observed.setup.role)
                .fetch_all(&mut connection)
                .await?;
            connection.close().await?;
            sqlx::Result::Ok(names)
        };
        bounded(names).await
    }

    async fn dump(&self, database: &DatabaseSpec, name: &str, output: OwnedFd) -> Result<()> {
        self.start_server(database.volume).await?;
        let bin = self.programs(database.volume).await?;
        let child = program(&bin.join("pg_dump"))
            // The repository compresses, and finds equal parts in what is not compressed.
            .args(["--format=custom", "--compress=0", "--port=5432", "--host"])
            .arg(self.socket_path(database.volume))
            .args(["--username", SUPERUSER, "--dbname"])
            .arg(connection_string(name))
            .stdout(Stdio::from(output))
            .spawn()
            .map_err(|error| not_run("pg_dump", error))?;
        finished("pg_dump", name, end(child)).await
    }

    async fn load(&self, database: &DatabaseSpec, other: Option<&str>, input: OwnedFd) -> Result<()> {
        let role = database.role();
        let name = other.unwrap_or(&role);
        let volume = database.volume;
        self.start_server(volume).await?;
        let bin = self.programs(volume).await?;
        let create = async {
            let mut connection = self.sockets.connect(volume, "template1").await?;
            for statement in [
                format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name)),
                format!(
                    "CREATE DATABASE {} OWNER {} TEMPLATE template0",
                    quoted(name),
                    quoted(&role)
                ),
            ] {
                connection.execute(AssertSqlSafe(statement)).await?;
            }
            connection.close().await
        };
        bounded(create).await?;
        let child = program(&bin.join("pg_restore"))
            // The roles of the project that was backed up have other names.
            .args(["--no-owner", "--no-privileges", "--exit-on-error", "--role"])
            .arg(&role)
            .args(["--port=5432", "--host"])
            .arg(self.socket_path(volume))
            .args(["--username", SUPERUSER, "--dbname"])
            .arg(connection_string(name))
            .stdin(Stdio::from(input))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| not_run("pg_restore", error))?;
        finished("pg_restore", name, end(child)).await
    }

    async fn discard(&self, database: &DatabaseSpec) -> Result<()> {
        let _lock = self.changes.lock(&database.volume).await;
        if self.request_observe(database.volume).await?.is_none() {
            return Ok(());
        }
        self.request_stop(database.volume, StopWhen::Always).await?;
        self.request_remove(database.volume).await
    }
}

impl ProjectDatabases {
    /// The folder of the programs for a server that runs.
    async fn programs(&self, volume: VolumeId) -> Result<PathBuf> {
        let major = self
            .request_observe(volume)
            .await?
            .and_then(|server| server.major)
            .unwrap_or_default();
        let found = installations(self.programs.get().map(PathBuf::as_path)).await?;
        // The oldest that is new enough: the list begins with the newest.
        let suitable = found
            .into_iter()
            .rfind(|found| found.major >= major && found.bin.join("pg_dump").is_file());
        suitable.map(|found| found.bin).ok_or_else(|| {
            DriverError::new(
                FailureKind::Machine,
                format!(
                    "pg_dump of PostgreSQL {major} is missing: install the package postgresql-client-{major}"
                ),
            )
        })
    }
}

/// The value of `--dbname`, where a name with `=` would be parsed (libpq, "Connection Strings").
fn connection_string(name: &str) -> String {
    format!("dbname='{}'", name.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn not_run(what: &str, error: std::io::Error) -> DriverError {
    DriverError::new(FailureKind::Machine, format!("{what} cannot be run")).because(error)
}

async fn finished(
    what: &str,
    name: &str,
    ended: impl Future<Output = std::io::Result<Option<String>>>,
) -> Result<()> {
    let messages = timeout(TRANSFER, ended)
        .await
        .map_err(|_| {
            let hours = TRANSFER.as_secs() / 3600;
            DriverError::new(
                FailureKind::Transient,
                format!("{what} did not end within {hours} hours"),
            )
        })?
        .map_err(|error| not_run(what, error))?;
    match messages {
        None => Ok(()),
        Some(messages) => Err(DriverError::new(
            FailureKind::Input,
            format!("{what} failed for the database {name}: {messages}"),
        )),
    }
}

async fn bounded<T>(work: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
    let failed = |error: sqlx::Error| {
        DriverError::new(
            FailureKind::Transient,
            format!("the project's database does not answer ({error}); its log has the reason"),
        )
    };
    match timeout(STATEMENT, work).await {
        Ok(done) => done.map_err(failed),
        Err(_) => Err(failed(sqlx::Error::PoolTimedOut)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_name_and_no_option() {
        assert_eq!(connection_string("shop"), "dbname='shop'");
        assert_eq!(connection_string("a' host='x\\"), "dbname='a\\' host=\\'x\\\\'");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
