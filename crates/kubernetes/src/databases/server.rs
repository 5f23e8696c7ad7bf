//! One role and one database on a PostgreSQL server that we have an account on: what is looked
//! for, and what is said to make and to remove them. Used with a server that is shared by all
//! projects, and with the own server of each.
//!
//! Ours is a role whose comment names its project, and a database that such a role owns. Only an
//! account that may make roles can write that comment, so nothing of others is ever touched. The
//! account need not be a superuser: CREATEROLE and CREATEDB are enough.

use fsa_driver::{ObservedDatabase, scram};
use fsa_model::DatabaseSpec;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};

/// A role's connections at once.
const CONNECTION_LIMIT: u32 = 20;

const LOOK: &str = "SELECT role.oid IS NOT NULL AS has_role, \
       coalesce(role.rolcanlogin, false) AS may_login, \
       shobj_description(role.oid, 'pg_authid') AS mark, \
       base.oid IS NOT NULL AS has_database, \
       coalesce(base.datdba = role.oid, false) AS owned, \
       coalesce(NOT has_database_privilege('public', base.oid, 'CONNECT'), false) AS closed \
     FROM (SELECT $1::name AS name) wanted \
     LEFT JOIN pg_roles role ON role.rolname = wanted.name \
     LEFT JOIN pg_database base ON base.datname = wanted.name";

const INVENTORY: &str = "SELECT role.rolname::text FROM pg_roles role \
     WHERE shobj_description(role.oid, 'pg_authid') LIKE 'fsa project %' ORDER BY 1";

#[derive(Debug, sqlx::FromRow)]
struct Found {
    has_role: bool,
    may_login: bool,
    mark: Option<String>,
    has_database: bool,
    owned: bool,
    closed: bool,
}

/// How a database is, before anybody has tried to sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Absent,
    Partial,
    Made,
    /// Something of its name that is not ours.
    Foreign,
}

/// Looks at the role and the database of `spec`.
///
/// # Errors
/// The server's.
pub async fn look(connection: &mut PgConnection, spec: &DatabaseSpec) -> sqlx::Result<State> {
    Ok(judge(&found(connection, spec).await?, &mark(spec)))
}

async fn found(connection: &mut PgConnection, spec: &DatabaseSpec) -> sqlx::Result<Found> {
    sqlx::query_as(LOOK).bind(spec.role()).fetch_one(connection).await
}

fn judge(found: &Found, mark: &str) -> State {
    match (found.has_role, found.has_database) {
        (false, false) => State::Absent,
        (false, true) => State::Foreign,
        (true, _) if found.mark.as_deref() != Some(mark) => State::Foreign,
        (true, true) if !found.owned => State::Foreign,
        (true, true) if found.may_login && found.closed => State::Made,
        (true, _) => State::Partial,
    }
}

/// Makes what is missing, and sets the password. The caller has seen that nothing is foreign.
///
/// # Errors
/// The server's.
pub async fn make(
    connection: &mut PgConnection,
    spec: &DatabaseSpec,
    template: Option<&str>,
) -> sqlx::Result<()> {
    let found = found(connection, spec).await?;
    let (role, verifier) = (name(&spec.role()), text(&scram::verifier(&spec.password)));
    let rights =
        format!("LOGIN NOCREATEDB NOCREATEROLE CONNECTION LIMIT {CONNECTION_LIMIT} PASSWORD {verifier}");
    if found.has_role {
        run(connection, format!("ALTER ROLE {role} {rights}")).await?;
    } else {
        // One text is one transaction: role and mark, both or none. To give it a database one must
        // be of it, where one is no superuser.
        run(
            connection,
            format!(
                "CREATE ROLE {role} {rights}; COMMENT ON ROLE {role} IS {}; GRANT {role} TO CURRENT_USER",
                text(&mark(spec))
            ),
        )
        .await?;
    }
    if !found.has_database {
        let template = template.map(|source| format!(" TEMPLATE {}", name(source)));
        run(
            connection,
            format!(
                "CREATE DATABASE {role} OWNER {role}{}",
                template.unwrap_or_default()
            ),
        )
        .await?;
    }
    run(connection, format!("REVOKE ALL ON DATABASE {role} FROM PUBLIC")).await
}

/// Removes both. The caller has seen that they are ours.
///
/// # Errors
/// The server's.
pub async fn remove(connection: &mut PgConnection, spec: &DatabaseSpec) -> sqlx::Result<()> {
    let role = name(&spec.role());
    if found(connection, spec).await?.has_role {
        // So that an application that connects again and again does not come between.
        run(connection, format!("ALTER ROLE {role} NOLOGIN")).await?;
    }
    run(connection, format!("DROP DATABASE IF EXISTS {role} WITH (FORCE)")).await?;
    run(connection, format!("DROP ROLE IF EXISTS {role}")).await
}

/// Ends the connections to a database and lets in no more, or lets in again.
///
/// # Errors
/// The server's.
pub async fn close(connection: &mut PgConnection, spec: &DatabaseSpec, closed: bool) -> sqlx::Result<()> {
    let role = name(&spec.role());
    run(
        connection,
        format!("ALTER DATABASE {role} ALLOW_CONNECTIONS {}", !closed),
    )
    .await?;
    if closed {
        sqlx::query("SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()")
            .bind(spec.role())
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Said in a copied database: its objects go to the new owner.
///
/// # Errors
/// The server's.
pub async fn hand_over(
    connection: &mut PgConnection,
    from: &DatabaseSpec,
    to: &DatabaseSpec,
) -> sqlx::Result<()> {
    let (from, to) = (name(&from.role()), name(&to.role()));
    // It takes the shared source database along, which goes back in the same transaction.
    run(
        connection,
        format!("REASSIGN OWNED BY {from} TO {to}; ALTER DATABASE {from} OWNER TO {from}"),
    )
    .await
}

/// The roles with our mark.
///
/// # Errors
/// The server's.
pub async fn inventory(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(INVENTORY).fetch_all(connection).await
}

/// Whether the project itself can sign in.
pub async fn admits(options: &PgConnectOptions) -> ObservedDatabase {
    match PgConnection::connect_with(options).await {
        Ok(connection) => {
            let _ = connection.close().await;
            ObservedDatabase::Ready
        }
        Err(_) => ObservedDatabase::Partial,
    }
}

/// Whether somebody else has just done what was tried (unique_violation, duplicate_object,
/// duplicate_database, tuple concurrently updated, source database in use).
#[must_use]
pub fn is_race(error: &sqlx::Error) -> bool {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    matches!(
        code.as_deref(),
        Some("23505" | "42710" | "42P04" | "40001" | "40P01" | "55006" | "XX000")
    )
}

fn mark(spec: &DatabaseSpec) -> String {
    format!("fsa project {}", spec.project)
}

async fn run(connection: &mut PgConnection, statement: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await
        .map(drop)
}

fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Found {
        Found {
            has_role: true,
            may_login: true,
            mark: Some("fsa project 7".into()),
            has_database: true,
            owned: true,
            closed: true,
        }
    }

    #[test]
    fn only_what_carries_the_projects_mark_is_ours() {
        let judged = |found: Found| judge(&found, "fsa project 7");
        assert_eq!(judged(made()), State::Made);
        assert_eq!(
            judged(Found {
                closed: false,
                ..made()
            }),
            State::Partial
        );
        assert_eq!(
            judged(Found {
                has_database: false,
                owned: false,
                ..made()
            }),
            State::Partial
        );
        for foreign in [
            Found { mark: None, ..made() },
            Found {
                mark: Some("fsa project 8".into()),
                ..made()
            },
            Found {
                owned: false,
                ..made()
            },
            Found {
                has_role: false,
                ..made()
            },
        ] {
            assert_eq!(judged(foreign), State::Foreign);
        }
    }
}
