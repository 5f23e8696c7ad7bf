//! SQL statements for the projects cluster. Names come from [`fsa_model::spec::role_of`] and hold
//! letters, digits and `_` only; they are quoted nevertheless. Several statements in one text are
//! one transaction (PostgreSQL's manual, 55.2.2.1), which no failure leaves open.

use fsa_model::ProjectId;

use crate::postgres::TEMPLATE;

/// The state of the role and the database named `$1`, in one row ([`super::state::DatabaseRow`]).
pub const STATE: &str = "SELECT role.oid IS NOT NULL AS has_role, \
       coalesce(role.rolcanlogin AND NOT (role.rolsuper OR role.rolcreatedb OR role.rolcreaterole \
           OR role.rolreplication OR role.rolbypassrls), false) AS may_login, \
       role.rolpassword AS verifier, \
       shobj_description(role.oid, 'pg_authid') AS mark, \
       base.oid IS NOT NULL AS has_database, \
       coalesce(base.datdba = role.oid, false) AS owned, \
       coalesce(base.datallowconn AND base.datconnlimit = -1, false) AS allows_connections, \
       coalesce(base.datconnlimit = -2, false) AS broken, \
       coalesce(NOT has_database_privilege('public', base.oid, 'CONNECT'), false) AS closed \
     FROM (SELECT $1::name AS name) requested \
     LEFT JOIN pg_authid role ON role.rolname = requested.name \
     LEFT JOIN pg_database base ON base.datname = requested.name";

/// The roles with our comment, complete or not.
pub const INVENTORY: &str = "SELECT role.rolname::text FROM pg_authid role \
     WHERE shobj_description(role.oid, 'pg_authid') LIKE 'fsa project %' ORDER BY 1";

/// Bytes of the database named `$1`.
pub const SIZE: &str = "SELECT pg_database_size(oid) FROM pg_database WHERE datname = $1";

/// Ends the connections to a database, and waits up to 10 s for each.
pub const END_CONNECTIONS: &str = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
     WHERE datname = $1 AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker'";

/// The comment of a project's role.
pub fn mark(project: ProjectId) -> String {
    format!("fsa project {project}")
}

/// The comment of a role whose database is being copied from another.
pub fn copying(mark: &str) -> String {
    format!("{mark} copying")
}

/// Role and comment, both or none. Not flushed by itself: CREATE DATABASE, which follows, flushes
/// it; after a crash in between, the role is missing and made again. The role's statements are not
/// logged, so no project can fill the server's log.
pub fn create_role(role: &str, project: ProjectId, verifier: &str, connections: u32, copy: bool) -> String {
    let mark = mark(project);
    let mark = if copy { copying(&mark) } else { mark };
    let name = name(role);
    format!(
        "SET LOCAL synchronous_commit = off; \
         CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS \
         CONNECTION LIMIT {connections} PASSWORD {verifier}; \
         COMMENT ON ROLE {name} IS {mark}; \
         ALTER ROLE {name} SET log_min_messages = fatal",
        verifier = text(verifier),
        mark = text(&mark),
    )
}

pub fn alter_role(role: &str, verifier: &str, connections: u32) -> String {
    format!(
        "ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS \
         CONNECTION LIMIT {connections} PASSWORD {}",
        name(role),
        text(verifier)
    )
}

/// Atomic: PostgreSQL removes what a crash leaves.
pub fn create_database(role: &str, source: Option<&str>) -> String {
    let name_ = name(role);
    format!(
        "CREATE DATABASE {name_} OWNER {name_} TEMPLATE {}",
        name(source.unwrap_or(TEMPLATE))
    )
}

/// Only its owner may connect.
pub fn close_database(role: &str) -> String {
    let name = name(role);
    format!(
        "ALTER DATABASE {name} ALLOW_CONNECTIONS true CONNECTION LIMIT -1; \
         REVOKE ALL ON DATABASE {name} FROM PUBLIC"
    )
}

pub fn allow_connections(role: &str, admitted: bool) -> String {
    format!("ALTER DATABASE {} ALLOW_CONNECTIONS {admitted}", name(role))
}

/// Run in a copied database: its objects go to the new owner, and no privilege of the old one
/// stays, which would keep its role from ever being dropped. REASSIGN OWNED also reassigns the
/// source database, a shared object; the same transaction gives it back.
pub fn reassign_ownership(from: &str, to: &str) -> String {
    let (from, to) = (name(from), name(to));
    format!(
        "REASSIGN OWNED BY {from} TO {to}; DROP OWNED BY {from}; \
         ALTER DATABASE {from} OWNER TO {from}"
    )
}

pub fn finish_copy(role: &str, project: ProjectId) -> String {
    format!("COMMENT ON ROLE {} IS {}", name(role), text(&mark(project)))
}

/// So that an application that reconnects in a loop cannot interfere.
pub fn disallow_login(role: &str) -> String {
    format!("ALTER ROLE {} NOLOGIN", name(role))
}

pub fn drop_database(role: &str) -> String {
    format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", name(role))
}

pub fn drop_role(role: &str) -> String {
    format!("DROP ROLE IF EXISTS {}", name(role))
}

fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
