//! Shared cluster of an earlier release: one role and one database of the same name for each project.
//! The role's comment names the project.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fsa_driver::{DriverError, Result};
use fsa_model::{FailureKind, ProjectId, VolumeId};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use crate::postgres::{Cluster, ClusterKind, Settings, binaries::installations};

/// The projects' roles, with the project's id from the comment. One whose copy was interrupted has
/// another comment, and is not moved.
const ROLES: &str = "SELECT role.rolname::text, \
       substring(shobj_description(role.oid, 'pg_authid') FROM '^fsa project ([0-9a-f-]{36})$'), \
       role.rolpassword, base.oid IS NOT NULL AS has_database \
     FROM pg_authid role LEFT JOIN pg_database base ON base.datname = role.rolname \
     WHERE shobj_description(role.oid, 'pg_authid') ~ '^fsa project [0-9a-f-]{36}$' \
     ORDER BY 1";

/// No role's name: it has a dot.
const LOCK: &str = ".lock";

/// Ends the connections of a role, and waits up to 10 s for each.
const END_CONNECTIONS: &str = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
     WHERE usename = $1 AND pid <> pg_backend_pid()";

/// A database that is to be moved.
#[derive(Clone, Debug)]
pub struct OldDatabase {
    pub volume: VolumeId,
    pub role: String,
    pub verifier: String,
    /// The role has a database. It may have lost it.
    pub has_database: bool,
}

/// The shared cluster.
pub struct OldCluster {
    pub cluster: Cluster,
    /// The folder of pg_dump and pg_restore: of the newest release, which reads all older ones.
    pub bin: PathBuf,
    /// A file for each moved database.
    marks: PathBuf,
}

impl OldCluster {
    /// Starts the cluster; `None` where the data folder has none.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn open(settings: &Settings) -> Result<Option<Self>> {
        let cluster = Cluster::new(ClusterKind::Projects, settings.clone());
        if !cluster.folder().join("PG_VERSION").exists() {
            return Ok(None);
        }
        cluster.ensure_running().await?;
        let found = installations(settings.bin.as_deref()).await?;
        let bin = found
            .into_iter()
            .map(|found| found.bin)
            .find(|bin| bin.join("pg_dump").is_file());
        let bin = bin.ok_or_else(|| {
            DriverError::new(
                FailureKind::Machine,
                "pg_dump is missing, which moves the projects' databases: install PostgreSQL's client programs \
                 (Debian: apt-get install postgresql-client)",
            )
        })?;
        let marks = settings.data.join(ClusterKind::Projects.name()).join("moved");
        fs::create_dir_all(&marks).map_err(|error| failed("its folder cannot be written", error))?;
        Ok(Some(Self { cluster, bin, marks }))
    }

    pub fn folder(&self) -> &Path {
        self.cluster.folder()
    }

    /// The databases that are not moved.
    pub async fn list(&self) -> Result<Vec<OldDatabase>> {
        let mut connection = self.cluster.connect("postgres").await?;
        let rows: Vec<(String, String, Option<String>, bool)> = sqlx::query_as(ROLES)
            .fetch_all(&mut connection)
            .await
            .map_err(|error| failed("its roles cannot be listed", error))?;
        let databases = rows
            .into_iter()
            .filter_map(|(role, project, verifier, has_database)| {
                let project: ProjectId = project.parse().ok()?;
                Some(OldDatabase {
                    volume: VolumeId::of_main(project),
                    role,
                    // A role without a password cannot sign in; the next reconciliation sets one.
                    verifier: verifier.unwrap_or_else(|| NO_PASSWORD.to_owned()),
                    has_database,
                })
            });
        Ok(databases.filter(|database| !self.is_moved(database)).collect())
    }

    /// Excludes other processes on this data folder from moving, until the result is dropped or the
    /// process ends.
    pub async fn lock(&self) -> Result<fs::File> {
        let path = self.marks.join(LOCK);
        let locked = tokio::task::spawn_blocking(move || {
            let file = fs::File::create(path)?;
            file.lock().map(|()| file)
        });
        locked
            .await
            .map_err(io::Error::other)
            .and_then(|locked| locked)
            .map_err(|error| failed("its lock cannot be taken", error))
    }

    pub fn is_moved(&self, database: &OldDatabase) -> bool {
        self.marks.join(&database.role).exists()
    }

    /// Keeps a project out of its old database, so that nothing is written during the move.
    pub async fn close(&self, database: &OldDatabase) -> Result<()> {
        let mut connection = self.cluster.connect("postgres").await?;
        let closed = async {
            execute(
                &mut connection,
                format!("ALTER ROLE \"{}\" NOLOGIN", database.role),
            )
            .await?;
            sqlx::query(END_CONNECTIONS)
                .bind(&database.role)
                .execute(&mut connection)
                .await
        };
        closed
            .await
            .map(drop)
            .map_err(|error| failed("a database cannot be closed", error))
    }

    pub async fn drop(&self, database: &OldDatabase) -> Result<()> {
        self.close(database).await?;
        let mut connection = self.cluster.connect("postgres").await?;
        for statement in [
            format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", database.role),
            format!("DROP ROLE IF EXISTS \"{}\"", database.role),
        ] {
            execute(&mut connection, statement)
                .await
                .map_err(|error| failed("a database cannot be dropped", error))?;
        }
        Ok(())
    }

    /// Records that a database is moved, and waits for the disk.
    pub fn mark_moved(&self, database: &OldDatabase) -> Result<()> {
        fs::File::create(self.marks.join(&database.role))
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::File::open(&self.marks)?.sync_all())
            .map_err(|error| failed("a move cannot be recorded", error))
    }

    /// Stops the cluster and renames its folder.
    pub async fn put_aside(&self) -> Result<()> {
        self.cluster.stop().await?;
        let aside = self.folder().with_file_name("data.moved-to-volumes");
        match fs::rename(self.folder(), &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("its folder cannot be renamed", error));
            }
            _ => {}
        }
        tracing::info!(
            folder = %aside.display(),
            "every project's database is in a separate server; the shared cluster was stopped and kept in this \
             folder, which can be deleted"
        );
        Ok(())
    }
}

/// A verifier of no password.
const NO_PASSWORD: &str = "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA";

async fn execute(connection: &mut PgConnection, statement: String) -> sqlx::Result<()> {
    connection.execute(AssertSqlSafe(statement)).await.map(drop)
}

/// A failure of the shared cluster.
pub fn failed(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DriverError {
    DriverError::new(
        FailureKind::Transient,
        format!("the shared cluster of the projects' databases: {what}"),
    )
    .because(error)
}
