//! Transfer of one database: pg_dump into pg_restore, the role's settings, and the comparison of
//! both sides.

use std::{path::Path, process::Stdio};

use fsa_driver::{DriverError, Result};
use fsa_model::{FailureKind, VolumeId};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
};

use super::{
    super::ProjectDatabases,
    old_cluster::{OldCluster, OldDatabase, failed},
};
use crate::runner::database::SUPERUSER;

/// Bytes of a program's messages that are kept.
const OUTPUT_MAX: u64 = 64 << 10;
/// The port that names the socket of a server that is closed to clients.
const CLOSED_PORT: &str = "1";
/// Settings whose value is a list of names, which is not quoted again (PostgreSQL's guc.h,
/// `GUC_LIST_QUOTE`).
const LISTS: [&str; 5] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
];

/// Relations that no extension made.
const RELATIONS: &str = "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind::text \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') \
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
                       AND d.deptype = 'e') \
     ORDER BY 1";

/// Settings of a role in all databases. Those of a database are in its dump.
const ROLE_SETTINGS: &str = "SELECT unnest(setconfig) FROM pg_db_role_setting s \
     JOIN pg_roles r ON r.oid = s.setrole WHERE s.setdatabase = 0 AND r.rolname = $1";

impl ProjectDatabases {
    /// Copies a database of the shared cluster into the server of its volume, which runs.
    pub(super) async fn transfer(&self, old: &OldCluster, database: &OldDatabase) -> Result<()> {
        let role = &database.role;
        let unreachable = |error: sqlx::Error| failed("the new server does not answer", error);
        let mut new = self
            .sockets
            .connect(database.volume, "postgres")
            .await
            .map_err(unreachable)?;
        let mut source = old.cluster.connect("postgres").await?;
        for setting in role_settings(&mut source, role).await.map_err(unreachable)? {
            let statement = format!("ALTER ROLE \"{role}\" SET {setting}");
            new.execute(AssertSqlSafe(statement)).await.map_err(unreachable)?;
        }
        if !database.has_database {
            return Ok(());
        }
        // The dump makes the database with its own settings.
        new.execute(AssertSqlSafe(format!(
            "DROP DATABASE IF EXISTS \"{role}\" WITH (FORCE)"
        )))
        .await
        .map_err(unreachable)?;
        dump_and_restore(old, database, &self.socket_path(database.volume)).await?;
        let mut there = self
            .sockets
            .connect(database.volume, role)
            .await
            .map_err(unreachable)?;
        let mut here = old.cluster.connect(role).await?;
        let (before, after) = (
            contents(&mut here).await.map_err(unreachable)?,
            contents(&mut there).await.map_err(unreachable)?,
        );
        for connection in [here, there, new, source] {
            let _ = connection.close().await;
        }
        if before != after {
            let differs: Vec<_> = before
                .iter()
                .filter(|relation| !after.contains(relation))
                .take(5)
                .collect();
            return Err(DriverError::new(
                FailureKind::Machine,
                format!("the database {role} was not copied whole: {differs:?}"),
            ));
        }
        Ok(())
    }

    pub(in crate::project_databases) fn socket_path(&self, volume: VolumeId) -> std::path::PathBuf {
        self.folder
            .join(crate::runner::layout::SOCKETS)
            .join(volume.to_string())
    }
}

async fn dump_and_restore(old: &OldCluster, database: &OldDatabase, socket: &Path) -> Result<()> {
    let broken = |error: std::io::Error| failed("pg_dump or pg_restore cannot be run", error);
    let mut dump = program(&old.bin.join("pg_dump"))
        .args([
            "--format=custom",
            "--compress=0",
            "--create",
            "--port=5432",
            "--host",
        ])
        .arg(old.cluster.socket_folder())
        .args(["--username", SUPERUSER, "--dbname", &database.role])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(broken)?;
    let dumped: Stdio = dump
        .stdout
        .take()
        .ok_or_else(|| std::io::Error::other("pg_dump has no output"))
        .and_then(TryInto::try_into)
        .map_err(broken)?;
    let restore = program(&old.bin.join("pg_restore"))
        .args(["--create", "--exit-on-error", "--port", CLOSED_PORT, "--host"])
        .arg(socket)
        .args(["--username", SUPERUSER, "--dbname", "postgres"])
        .stdin(dumped)
        .stdout(Stdio::null())
        .spawn()
        .map_err(broken)?;
    let (dump, restore) = tokio::join!(end(dump), end(restore));
    for (name, ended) in [("pg_restore", restore), ("pg_dump", dump)] {
        let messages = ended.map_err(broken)?;
        if let Some(messages) = messages {
            return Err(DriverError::new(
                FailureKind::Machine,
                format!("{name} could not move the database {}: {messages}", database.role),
            ));
        }
    }
    Ok(())
}

pub(in crate::project_databases) fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .env("PGCONNECT_TIMEOUT", "20")
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The messages of a program that failed.
pub(in crate::project_databases) async fn end(mut child: Child) -> std::io::Result<Option<String>> {
    let mut messages = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(OUTPUT_MAX).read_to_end(&mut messages).await?;
    }
    let status = child.wait().await?;
    let text = String::from_utf8_lossy(&messages);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    Ok((!status.success()).then(|| lines.join(" · ")))
}

/// Relations with their numbers of rows, where they have any of their own.
async fn contents(connection: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    let relations: Vec<(String, String)> = sqlx::query_as(RELATIONS).fetch_all(&mut *connection).await?;
    let mut contents = Vec::with_capacity(relations.len());
    for (name, kind) in relations {
        let rows = match kind.as_str() {
            "r" | "m" => {
                let count = AssertSqlSafe(format!("SELECT count(*) FROM {name}"));
                // A materialized view that was never filled cannot be counted.
                sqlx::query_scalar(count)
                    .fetch_one(&mut *connection)
                    .await
                    .unwrap_or(-1)
            }
            _ => 0,
        };
        contents.push((format!("{name} ({kind})"), rows));
    }
    Ok(contents)
}

/// Settings of a role, as `name TO value`. The cluster's own are left out.
async fn role_settings(connection: &mut PgConnection, role: &str) -> sqlx::Result<Vec<String>> {
    let settings: Vec<String> = sqlx::query_scalar(ROLE_SETTINGS)
        .bind(role)
        .fetch_all(connection)
        .await?;
    Ok(settings
        .iter()
        .filter_map(|setting| assignment(setting))
        .collect())
}

fn assignment(setting: &str) -> Option<String> {
    let (name, value) = setting.split_once('=')?;
    let known = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
    // The shared cluster set it for each role.
    if !known || name == "log_min_messages" {
        return None;
    }
    Some(if LISTS.contains(&name) && !value.is_empty() {
        format!("{name} TO {value}")
    } else {
        format!("{name} TO '{}'", value.replace('\'', "''"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_assigned_as_they_were() {
        assert_eq!(
            assignment("search_path=\"$user\", public").as_deref(),
            Some("search_path TO \"$user\", public")
        );
        assert_eq!(
            assignment("application_name=it's").as_deref(),
            Some("application_name TO 'it''s'")
        );
        assert_eq!(assignment("log_min_messages=fatal"), None);
        assert_eq!(assignment("a; DROP=1"), None);
    }
}
