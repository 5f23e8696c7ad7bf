//! Template database of the projects' databases.
//!
//! A copy costs time for its bytes and files. PostgreSQL's own template has 7.2 MB in 298 files;
//! without the descriptions of built-in objects (which `\df+` shows) and packed by VACUUM FULL (no
//! free space, no visibility maps) it has 5.8 MB in 224, and CREATE DATABASE takes about a third
//! less.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::{
    Cluster,
    error::{PostgresError, Result},
};

/// Its name; the number grows with each change to [`CONTENT`].
pub const TEMPLATE: &str = "fsa_template_1";
const MAKING: &str = "fsa_template_making";
const TIMEOUT: Duration = Duration::from_secs(120);

/// Statements in the new template. A project's role owns its database and so, as
/// `pg_database_owner`, its schema `public` (PostgreSQL 15 does the same by itself).
const CONTENT: [&str; 5] = [
    "ALTER SCHEMA public OWNER TO pg_database_owner",
    "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    "GRANT USAGE ON SCHEMA public TO PUBLIC",
    "DELETE FROM pg_catalog.pg_description",
    "VACUUM (FULL, FREEZE)",
];

/// Makes it where it is missing. `administration` is connected to the database `postgres`.
pub(super) async fn ensure(cluster: &Cluster, administration: &mut PgConnection) -> Result<()> {
    tokio::time::timeout(TIMEOUT, make(cluster, administration))
        .await
        .map_err(|_| PostgresError::Slow {
            what: "making the template of the projects' databases".to_owned(),
            seconds: TIMEOUT.as_secs(),
            advice: "the disk may be slow or busy".to_owned(),
        })?
        .map_err(PostgresError::sql(
            "the template of the projects' databases cannot be created",
        ))
}

/// Whether it exists. It is renamed last, so then it is complete.
pub(super) async fn present(administration: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(TEMPLATE)
        .fetch_one(administration)
        .await
}

async fn make(cluster: &Cluster, administration: &mut PgConnection) -> sqlx::Result<()> {
    for statement in [
        format!("DROP DATABASE IF EXISTS {MAKING} WITH (FORCE)"),
        format!("CREATE DATABASE {MAKING} TEMPLATE template0"),
    ] {
        administration.execute(AssertSqlSafe(statement)).await?;
    }
    let mut inside = PgConnection::connect_with(&cluster.connect_options(MAKING)).await?;
    for statement in CONTENT {
        inside.execute(statement).await?;
    }
    inside.close().await?;
    for statement in [
        "REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC".to_owned(),
        format!("ALTER DATABASE {MAKING} IS_TEMPLATE true ALLOW_CONNECTIONS false"),
        format!("ALTER DATABASE {MAKING} RENAME TO {TEMPLATE}"),
    ] {
        administration.execute(AssertSqlSafe(statement)).await?;
    }
    Ok(())
}
