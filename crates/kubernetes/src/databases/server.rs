//! SQL statements for one project's role and database: observe, create, copy, remove. Used with a server that all
//! projects share, and with a server per project.
//!
//! A role is ours if its comment (the mark) names its project, and a database is ours if such a role owns it. Only an
//! account that may create roles can write that comment, so objects of others are never touched. The account need not
//! be a superuser: CREATEROLE and CREATEDB are enough.

use fsa_driver::{ObservedDatabase, scram};
use fsa_model::DatabaseSpec;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};

/// Concurrent connections of a role.
const CONNECTION_LIMIT: u32 = 20;

const OBSERVE: &str = "SELECT role.oid IS NOT NULL AS has_role, \
       coalesce(role.rolcanlogin, false) AS may_login, \
       shobj_description(role.oid, 'pg_authid') AS mark, \
       base.oid IS NOT NULL AS has_database, \
       coalesce(base.datdba = role.oid, false) AS owned, \
       coalesce(NOT has_database_privilege('public', base.oid, 'CONNECT'), false) AS closed \
     FROM (SELECT $1::name AS name) given \
     LEFT JOIN pg_roles role ON role.rolname = given.name \
     LEFT JOIN pg_database base ON base.datname = given.name";

const INVENTORY: &str = "SELECT role.rolname::text FROM pg_roles role \
     WHERE shobj_description(role.oid, 'pg_authid') LIKE 'fsa project %' ORDER BY 1";

#[derive(Debug, sqlx::FromRow)]
struct CatalogRow {
    has_role: bool,
    may_login: bool,
    mark: Option<String>,
    has_database: bool,
    owned: bool,
    closed: bool,
}

/// The state of a role and its database according to the catalog, without a sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Absent,
    Partial,
    Created,
    /// A role or database of this name that is not ours.
    Foreign,
}

/// Observes the role and the database of `spec`.
///
/// # Errors
/// The server's.
pub async fn observe(connection: &mut PgConnection, spec: &DatabaseSpec) -> sqlx::Result<State> {
    Ok(classify(&catalog_row(connection, spec).await?, &mark(spec)))
}

async fn catalog_row(connection: &mut PgConnection, spec: &DatabaseSpec) -> sqlx::Result<CatalogRow> {
    sqlx::query_as(OBSERVE)
        .bind(spec.role())
        .fetch_one(connection)
        .await
}

fn classify(row: &CatalogRow, mark: &str) -> State {
    match (row.has_role, row.has_database) {
        (false, false) => State::Absent,
        (false, true) => State::Foreign,
        (true, _) if row.mark.as_deref() != Some(mark) => State::Foreign,
        (true, true) if !row.owned => State::Foreign,
        (true, true) if row.may_login && row.closed => State::Created,
        (true, _) => State::Partial,
    }
}

/// Creates what is missing, and sets the password. The caller has checked that nothing is foreign.
///
/// # Errors
/// The server's.
pub async fn create(
    connection: &mut PgConnection,
    spec: &DatabaseSpec,
    template: Option<&str>,
) -> sqlx::Result<()> {
    let row = catalog_row(connection, spec).await?;
    let (role, verifier) = (
        identifier(&spec.role()),
        literal(&scram::verifier(&spec.password)),
    );
    let options =
        format!("LOGIN NOCREATEDB NOCREATEROLE CONNECTION LIMIT {CONNECTION_LIMIT} PASSWORD {verifier}");
    if row.has_role {
        run(connection, format!("ALTER ROLE {role} {options}")).await?;
    } else {
        // One query string is one transaction: role and mark, both or none. Only a member of the role, or a superuser,
        // may create a database that it owns.
        run(
            connection,
            format!(
                "CREATE ROLE {role} {options}; COMMENT ON ROLE {role} IS {}; GRANT {role} TO CURRENT_USER",
                literal(&mark(spec))
            ),
        )
        .await?;
    }
    if !row.has_database {
        let template = template.map(|source| format!(" TEMPLATE {}", identifier(source)));
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

/// Removes both. The caller has checked that they are ours.
///
/// # Errors
/// The server's.
pub async fn remove(connection: &mut PgConnection, spec: &DatabaseSpec) -> sqlx::Result<()> {
    let role = identifier(&spec.role());
    if catalog_row(connection, spec).await?.has_role {
        // An application that reconnects in a loop would keep the database in use.
        run(connection, format!("ALTER ROLE {role} NOLOGIN")).await?;
    }
    run(connection, format!("DROP DATABASE IF EXISTS {role} WITH (FORCE)")).await?;
    run(connection, format!("DROP ROLE IF EXISTS {role}")).await
}

/// Closes a database (ends its connections and refuses new ones), or opens it again.
///
/// # Errors
/// The server's.
pub async fn set_closed(
    connection: &mut PgConnection,
    spec: &DatabaseSpec,
    closed: bool,
) -> sqlx::Result<()> {
    let role = identifier(&spec.role());
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

/// Gives all objects in a copied database to the new owner. `connection` is to that database.
///
/// # Errors
/// The server's.
pub async fn transfer_ownership(
    connection: &mut PgConnection,
    from: &DatabaseSpec,
    to: &DatabaseSpec,
) -> sqlx::Result<()> {
    let (from, to) = (identifier(&from.role()), identifier(&to.role()));
    // REASSIGN OWNED includes the source database itself, a shared object; the same transaction returns it.
    run(
        connection,
        format!("REASSIGN OWNED BY {from} TO {to}; ALTER DATABASE {from} OWNER TO {from}"),
    )
    .await
}

/// The names of the roles with our mark.
///
/// # Errors
/// The server's.
pub async fn inventory(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(INVENTORY).fetch_all(connection).await
}

/// Whether the project's own role can sign in.
pub async fn can_sign_in(options: &PgConnectOptions) -> ObservedDatabase {
    match PgConnection::connect_with(options).await {
        Ok(connection) => {
            let _ = connection.close().await;
            ObservedDatabase::Ready
        }
        Err(_) => ObservedDatabase::Partial,
    }
}

/// Whether a concurrent statement caused the error (unique_violation, duplicate_object, duplicate_database, tuple
/// concurrently updated, source database in use).
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

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created() -> CatalogRow {
        CatalogRow {
            has_role: true,
            may_login: true,
            mark: Some("fsa project 7".into()),
            has_database: true,
            owned: true,
            closed: true,
        }
    }

    #[test]
    fn only_a_role_with_the_projects_mark_is_ours() {
        let classified = |row: CatalogRow| classify(&row, "fsa project 7");
        assert_eq!(classified(created()), State::Created);
        assert_eq!(
            classified(CatalogRow {
                closed: false,
                ..created()
            }),
            State::Partial
        );
        assert_eq!(
            classified(CatalogRow {
                has_database: false,
                owned: false,
                ..created()
            }),
            State::Partial
        );
        for foreign in [
            CatalogRow {
                mark: None,
                ..created()
            },
            CatalogRow {
                mark: Some("fsa project 8".into()),
                ..created()
            },
            CatalogRow {
                owned: false,
                ..created()
            },
            CatalogRow {
                has_role: false,
                ..created()
            },
        ] {
            assert_eq!(classified(foreign), State::Foreign);
        }
    }
}
