//! Setup of a server that has started: the project's role and database, by SQL as the bootstrap
//! superuser. [`plan`] decides from one row of the catalogs; the rest runs its statements.
//!
//! Names are letters, digits and `_` only (the runner checks them); they are quoted nevertheless.

use std::time::Duration;

use fsa_model::VolumeId;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::connection::Sockets;
use crate::{protocol::DatabaseSetup, runner::database::MARK};

/// For all statements.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Role and database named `$1`, and the name of the role that carries the comment `$2`: the
/// template's, or that of the server which this one is a copy of.
const STATE: &str = "SELECT \
       (SELECT rolname::text FROM pg_roles WHERE shobj_description(oid, 'pg_authid') = $2 \
        ORDER BY rolname = requested.name DESC, rolname LIMIT 1) AS marked, \
       role.oid IS NOT NULL AS has_role, \
       coalesce(role.rolcanlogin AND role.rolsuper, false) AS is_superuser, \
       role.rolpassword AS verifier, \
       base.oid IS NOT NULL AS has_database, \
       coalesce(base.datallowconn AND base.datconnlimit = -1, false) AS allows_connections, \
       coalesce(base.datconnlimit = -2, false) AS broken \
     FROM (SELECT $1::name AS name) requested \
     LEFT JOIN pg_authid role ON role.rolname = requested.name \
     LEFT JOIN pg_database base ON base.datname = requested.name";

/// The databases of a server.
const DATABASES: &str = "SELECT datname::text FROM pg_database";

/// One row of [`STATE`].
#[derive(Clone, Debug, Default, sqlx::FromRow)]
struct StateRow {
    marked: Option<String>,
    has_role: bool,
    is_superuser: bool,
    verifier: Option<String>,
    has_database: bool,
    allows_connections: bool,
    /// A drop was interrupted: PostgreSQL refuses all connections (`datconnlimit` -2).
    broken: bool,
}

/// Brings role and database of a server that runs to what `setup` says.
///
/// # Errors
/// The server does not answer, or refuses.
pub async fn apply(sockets: &Sockets, volume: VolumeId, setup: &DatabaseSetup) -> sqlx::Result<()> {
    tokio::time::timeout(TIMEOUT, apply_statements(sockets, volume, setup))
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Writes what the server has in memory to its files, so that a copy of them is ready sooner.
///
/// # Errors
/// It does not run, or does not finish in time.
pub async fn checkpoint(sockets: &Sockets, volume: VolumeId) -> sqlx::Result<()> {
    let write = async {
        let mut connection = sockets.connect(volume, "template1").await?;
        connection.execute("CHECKPOINT").await?;
        connection.close().await
    };
    tokio::time::timeout(TIMEOUT, write)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

async fn apply_statements(sockets: &Sockets, volume: VolumeId, setup: &DatabaseSetup) -> sqlx::Result<()> {
    let mut connection = sockets.connect(volume, "template1").await?;
    let row: StateRow = sqlx::query_as(STATE)
        .bind(&setup.role)
        .bind(MARK)
        .fetch_one(&mut connection)
        .await?;
    let databases: Vec<String> = sqlx::query_scalar(DATABASES).fetch_all(&mut connection).await?;
    let statements = plan(&row, &databases, setup);
    if !statements.is_empty() {
        // Whatever a crash undoes is done again at the next start.
        connection.execute("SET synchronous_commit = off").await?;
    }
    for statement in statements {
        connection.execute(AssertSqlSafe(statement)).await?;
    }
    connection.close().await
}

/// The statements that are needed, in order.
fn plan(row: &StateRow, databases: &[String], setup: &DatabaseSetup) -> Vec<String> {
    let role = quoted(&setup.role);
    let mut statements = Vec::new();
    let former = row.marked.as_ref().filter(|marked| **marked != setup.role);
    let mut has_database = row.has_database;
    match former {
        Some(former) if !row.has_role => {
            statements.push(format!("ALTER ROLE {} RENAME TO {role}", quoted(former)));
            if !has_database && databases.contains(former) {
                statements.push(format!("ALTER DATABASE {} RENAME TO {role}", quoted(former)));
                has_database = true;
            }
        }
        _ if !row.has_role => statements.push(format!("CREATE ROLE {role}")),
        _ => {}
    }
    if !row.has_role || !row.is_superuser || row.verifier.as_ref() != Some(&setup.verifier) {
        statements.push(format!(
            "ALTER ROLE {role} SUPERUSER LOGIN PASSWORD '{}'",
            setup.verifier.replace('\'', "''")
        ));
    }
    if row.marked.is_none() {
        statements.push(format!("COMMENT ON ROLE {role} IS '{MARK}'"));
    }
    if row.broken {
        statements.push(format!("DROP DATABASE IF EXISTS {role} WITH (FORCE)"));
        has_database = false;
    }
    if !has_database {
        statements.push(format!("CREATE DATABASE {role} OWNER {role}"));
    } else if row.has_database && !row.allows_connections {
        statements.push(format!(
            "ALTER DATABASE {role} ALLOW_CONNECTIONS true CONNECTION LIMIT -1"
        ));
    }
    statements
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use fsa_model::Size;

    use super::*;

    fn setup() -> DatabaseSetup {
        DatabaseSetup {
            role: "todo".into(),
            verifier: "SCRAM-SHA-256$v".into(),
            resources: Size::Micro.resources(),
        }
    }

    fn ready() -> StateRow {
        StateRow {
            marked: Some("todo".into()),
            has_role: true,
            is_superuser: true,
            verifier: Some("SCRAM-SHA-256$v".into()),
            has_database: true,
            allows_connections: true,
            broken: false,
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_new_server_or_a_copy_gets_its_names_without_a_new_database() {
        for former in ["fsa_project", "source"] {
            let row = StateRow {
                marked: Some(former.into()),
                ..StateRow::default()
            };
            assert_eq!(
                plan(&row, &names(&["postgres", former]), &setup()),
                [
                    format!("ALTER ROLE \"{former}\" RENAME TO \"todo\""),
                    format!("ALTER DATABASE \"{former}\" RENAME TO \"todo\""),
                    "ALTER ROLE \"todo\" SUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$v'".to_owned(),
                ]
            );
        }
    }

    #[test]
    fn a_server_that_is_as_it_should_be_needs_nothing() {
        assert!(plan(&ready(), &names(&["todo"]), &setup()).is_empty());
    }

    #[test]
    fn only_what_has_changed_is_repaired() {
        let password = "ALTER ROLE \"todo\" SUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$v'";
        for (row, expected) in [
            (
                StateRow {
                    verifier: Some("another".into()),
                    ..ready()
                },
                vec![password],
            ),
            (
                StateRow {
                    is_superuser: false,
                    ..ready()
                },
                vec![password],
            ),
            (
                StateRow {
                    marked: None,
                    ..ready()
                },
                vec!["COMMENT ON ROLE \"todo\" IS 'fsa project'"],
            ),
            (
                StateRow {
                    allows_connections: false,
                    ..ready()
                },
                vec!["ALTER DATABASE \"todo\" ALLOW_CONNECTIONS true CONNECTION LIMIT -1"],
            ),
            (
                StateRow {
                    has_database: false,
                    ..ready()
                },
                vec!["CREATE DATABASE \"todo\" OWNER \"todo\""],
            ),
            (
                StateRow {
                    broken: true,
                    allows_connections: false,
                    ..ready()
                },
                vec![
                    "DROP DATABASE IF EXISTS \"todo\" WITH (FORCE)",
                    "CREATE DATABASE \"todo\" OWNER \"todo\"",
                ],
            ),
        ] {
            assert_eq!(plan(&row, &names(&["todo"]), &setup()), expected, "{row:?}");
        }
    }
}
