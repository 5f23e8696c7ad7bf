//! Project databases in the projects cluster: one role and one database each, both named by
//! [`DatabaseSpec::role`].
//!
//! **Ownership.** Each role carries a comment that names its project. Only a superuser can write
//! one (unlike a database's, which its owner may change), and it is written in one transaction
//! with the role. A database is ours when such a role owns it; anything else of the same name is
//! neither used nor dropped.
//!
//! **Isolation.** `pg_hba.conf` allows a role only the database of the same name, only the owner
//! has CONNECT on it, and a sandbox reaches only the database proxy, which allows one role.
//! Every role can read the catalogs that all databases of a cluster share (names of databases and
//! roles); PostgreSQL does not restrict that.

mod state;
mod statements;

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use fsa_driver::{Databases, DriverError, ObservedDatabase, Result, scram};
use fsa_model::{
    DatabaseSpec, FailureKind, ResourceName,
    spec::{Credentials, role_of},
};
use parking_lot::Mutex;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool, Postgres, pool::PoolConnection,
    postgres::PgPoolOptions,
};
use state::{DatabaseRow, DatabaseState};

use crate::postgres::Cluster;

/// Concurrent connections of a role.
const CONNECTION_LIMIT: u32 = 20;
/// CREATE DATABASE is CPU-bound: more at once would only take longer each.
const CONNECTIONS: u32 = 6;
/// Includes a queue of creations.
const ACQUIRE: Duration = Duration::from_secs(60);
/// For one operation, without the wait for a connection. A drop or a copy starts with a
/// checkpoint, which writes the changes of all databases.
const TIMEOUT: Duration = Duration::from_secs(120);
/// For a copy, whose duration depends on the size of the database. A copy that times out leaves
/// the source closed; the next observation reports that, and it is repaired.
const COPY_TIMEOUT: Duration = Duration::from_secs(900);
/// Two concurrent creations of the same database conflict at most once per statement.
const ATTEMPTS_MAX: usize = 6;
/// Cached verifiers that matched, so that an observation does not cost 4096 hashes.
const VERIFIED_MAX: usize = 10_000;

/// The databases of the projects on this machine.
pub struct LocalDatabases {
    cluster: Cluster,
    pool: PgPool,
    verified: Mutex<std::collections::HashMap<String, VerifiedPassword>>,
}

/// A role's stored verifier, and a digest of the password that it was found to be of.
#[derive(PartialEq, Eq)]
struct VerifiedPassword {
    verifier: String,
    password: [u8; 32],
}

impl LocalDatabases {
    /// Connects lazily, so `cluster`, the projects cluster, need not run yet. Must be called in a
    /// tokio runtime.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE)
            .idle_timeout(Duration::from_secs(300))
            .connect_lazy_with(cluster.connect_options("postgres"));
        Self {
            cluster,
            pool,
            verified: Mutex::default(),
        }
    }

    /// A connection. Starts the cluster first where it is down; the pool itself would retry a
    /// refused connection until its timeout.
    async fn connection(&self) -> Result<PoolConnection<Postgres>> {
        if !self.cluster.is_alive() {
            tracing::warn!("the projects' PostgreSQL does not run; starting it");
            self.cluster.ensure_running().await?;
        }
        self.pool.acquire().await.map_err(failure("be reached"))
    }

    async fn read_state(
        &self,
        connection: &mut PgConnection,
        database: &DatabaseSpec,
    ) -> Result<DatabaseState> {
        let row = sqlx::query_as::<_, DatabaseRow>(statements::STATE)
            .bind(database.role())
            .fetch_one(connection)
            .await
            .map_err(failure("be observed"))?;
        let password_matches = row
            .verifier
            .as_ref()
            .is_some_and(|stored| self.verifies(database, stored));
        Ok(state::classify(
            &row,
            &statements::mark(database.project),
            password_matches,
        ))
    }

    fn verifies(&self, database: &DatabaseSpec, stored: &str) -> bool {
        use secrecy::ExposeSecret as _;
        use sha2::Digest as _;
        let role = database.role();
        let verified = VerifiedPassword {
            verifier: stored.to_owned(),
            password: sha2::Sha256::digest(database.password.expose_secret()).into(),
        };
        if self.verified.lock().get(&role) == Some(&verified) {
            return true;
        }
        let right = scram::verifies(&database.password, stored);
        let mut all = self.verified.lock();
        if right {
            if all.len() >= VERIFIED_MAX {
                all.clear();
            }
            all.insert(role, verified);
        } else {
            all.remove(&role);
        }
        right
    }

    /// Creates what is missing. `state` may be outdated, so a step may be done already.
    async fn make(
        &self,
        connection: &mut PgConnection,
        database: &DatabaseSpec,
        state: DatabaseState,
    ) -> sqlx::Result<()> {
        let role = database.role();
        let missing = match state {
            DatabaseState::Absent => state::Missing::everything(),
            DatabaseState::Partial(missing) => missing,
            _ => return Ok(()),
        };
        if missing.role || missing.login {
            let verifier = scram::verifier(&database.password);
            let statement = if missing.role {
                statements::create_role(&role, database.project, &verifier, CONNECTION_LIMIT, false)
            } else {
                statements::alter_role(&role, &verifier, CONNECTION_LIMIT)
            };
            run(connection, statement).await?;
        }
        if missing.broken {
            run(connection, statements::drop_database(&role)).await?;
        }
        if missing.database {
            run(connection, statements::create_database(&role, None)).await?;
        }
        if missing.database || missing.privileges {
            run(connection, statements::close_database(&role)).await?;
        }
        Ok(())
    }

    async fn copy(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()> {
        let mut connection = self.connection().await?;
        if !matches!(
            self.read_state(&mut connection, from).await?,
            DatabaseState::Ready
        ) {
            return Err(DriverError::new(
                FailureKind::Transient,
                format!("the database {} is not ready to be copied", from.role()),
            ));
        }
        match self.read_state(&mut connection, to).await? {
            DatabaseState::Ready => return Ok(()),
            DatabaseState::NotOurs(what) => return Err(not_ours(to, what)),
            DatabaseState::Absent => {}
            // Left by an interrupted copy, or an empty database that was made meanwhile and not
            // used: the copy replaces it.
            DatabaseState::Copying | DatabaseState::Partial(_) => remove(&mut connection, to).await?,
        }
        let (source, target) = (from.role(), to.role());
        let verifier = scram::verifier(&to.password);
        let role = statements::create_role(&target, to.project, &verifier, CONNECTION_LIMIT, true);
        run(&mut connection, role).await.map_err(failure("make a role"))?;
        // CREATE DATABASE needs the source without connections, so they are ended, and no new
        // ones are accepted until it is copied.
        let copied = async {
            run(&mut connection, statements::allow_connections(&source, false)).await?;
            sqlx::query(statements::END_CONNECTIONS)
                .bind(&source)
                .execute(&mut *connection)
                .await?;
            run(
                &mut connection,
                statements::create_database(&target, Some(&source)),
            )
            .await
        }
        .await;
        run(&mut connection, statements::allow_connections(&source, true))
            .await
            .map_err(failure("open the copied database again"))?;
        copied.map_err(failure("copy a database"))?;

        let mut inside = self.cluster.connect(&target).await?;
        run(&mut inside, statements::reassign_ownership(&source, &target))
            .await
            .map_err(failure("hand over a copy"))?;
        let _ = inside.close().await;
        for statement in [
            statements::close_database(&target),
            statements::finish_copy(&target, to.project),
        ] {
            run(&mut connection, statement)
                .await
                .map_err(failure("finish a copy"))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Databases for LocalDatabases {
    fn provider(&self) -> &'static str {
        "local"
    }

    async fn observe(&self, database: &DatabaseSpec) -> Result<ObservedDatabase> {
        let mut connection = self.connection().await?;
        match with_timeout(TIMEOUT, self.read_state(&mut connection, database)).await? {
            DatabaseState::Absent => Ok(ObservedDatabase::Absent),
            DatabaseState::Partial(_) | DatabaseState::Copying => Ok(ObservedDatabase::Partial),
            DatabaseState::Ready => Ok(ObservedDatabase::Ready),
            DatabaseState::NotOurs(what) => Err(not_ours(database, what)),
        }
    }

    async fn ensure(&self, database: &DatabaseSpec) -> Result<()> {
        let mut connection = self.connection().await?;
        with_timeout(TIMEOUT, async {
            for attempt in 1..=ATTEMPTS_MAX {
                let state = self.read_state(&mut connection, database).await?;
                match state {
                    DatabaseState::Ready => break,
                    DatabaseState::NotOurs(what) => return Err(not_ours(database, what)),
                    DatabaseState::Copying => {
                        return Err(DriverError::new(
                            FailureKind::Transient,
                            format!(
                                "the copy into {} was interrupted; it must be made again",
                                database.role()
                            ),
                        ));
                    }
                    DatabaseState::Absent | DatabaseState::Partial(_) => {}
                }
                match self.make(&mut connection, database, state).await {
                    Ok(()) => break,
                    Err(error) if attempt < ATTEMPTS_MAX && is_race(&error) => {}
                    Err(error) => return Err(failure("make a database")(error)),
                }
            }
            Ok(())
        })
        .await
    }

    async fn credentials(&self, database: &DatabaseSpec) -> Result<Credentials> {
        Ok(Credentials {
            host: "127.0.0.1".to_owned(),
            port: 5432,
            user: database.role(),
            password: database.password.clone(),
            database: database.role(),
        })
    }

    fn predictable_credentials(&self) -> bool {
        true
    }

    async fn drop(&self, database: &DatabaseSpec) -> Result<()> {
        let mut connection = self.connection().await?;
        with_timeout(TIMEOUT, async {
            match self.read_state(&mut connection, database).await? {
                DatabaseState::Absent => Ok(()),
                DatabaseState::NotOurs(what) => {
                    // Nothing of the project is left, and its deletion must not fail for this.
                    tracing::warn!(
                        role = database.role(),
                        what,
                        "database not dropped: it is not of this project"
                    );
                    Ok(())
                }
                _ => remove(&mut connection, database).await,
            }
        })
        .await?;
        self.verified.lock().remove(&database.role());
        Ok(())
    }

    async fn branch(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()> {
        with_timeout(COPY_TIMEOUT, self.copy(from, to)).await
    }

    async fn disk(&self, resource: &ResourceName) -> Result<Option<u64>> {
        let mut connection = self.connection().await?;
        let bytes: Option<i64> = with_timeout(TIMEOUT, async {
            sqlx::query_scalar(statements::SIZE)
                .bind(role_of(resource))
                .fetch_optional(&mut *connection)
                .await
                .map_err(failure("measure a database"))
        })
        .await?;
        Ok(bytes.map(i64::unsigned_abs))
    }

    async fn inventory(&self) -> Result<Vec<String>> {
        let mut connection = self.connection().await?;
        with_timeout(TIMEOUT, async {
            sqlx::query_scalar(statements::INVENTORY)
                .fetch_all(&mut *connection)
                .await
                .map_err(failure("list the databases"))
        })
        .await
    }
}

/// Removes a role and its database that [`state::classify`] found to be ours.
async fn remove(connection: &mut PgConnection, database: &DatabaseSpec) -> Result<()> {
    let role = database.role();
    for statement in [
        statements::disallow_login(&role),
        statements::drop_database(&role),
        statements::drop_role(&role),
    ] {
        run(connection, statement)
            .await
            .map_err(failure("remove a database"))?;
    }
    Ok(())
}

async fn run(connection: &mut PgConnection, statement: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await
        .map(drop)
}

async fn with_timeout<T>(timeout: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        Err(DriverError::new(
            FailureKind::Transient,
            format!(
                "the projects' PostgreSQL was busy for more than {} s",
                timeout.as_secs()
            ),
        ))
    })
}

fn not_ours(database: &DatabaseSpec, what: &str) -> DriverError {
    DriverError::new(
        FailureKind::Machine,
        format!(
            "the projects' PostgreSQL has {what} named {} that FullStack Agent did not make for this project; rename or remove it",
            database.role()
        ),
    )
}

/// Whether a concurrent operation did the same (unique_violation, duplicate_object,
/// duplicate_database) or changed the same row (serialization and lock failures; `tuple
/// concurrently updated` is an internal_error).
fn is_race(error: &sqlx::Error) -> bool {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    matches!(
        code.as_deref(),
        Some("23505" | "42710" | "42P04" | "40001" | "40P01" | "55006" | "XX000")
    )
}

/// An error of the cluster as a failure for people. SQLSTATEs: PostgreSQL, appendix A.
fn failure(what: &'static str) -> impl FnOnce(sqlx::Error) -> DriverError {
    move |error| {
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code);
        let (kind, message) = match code.as_deref() {
            Some("53100") => (
                FailureKind::Machine,
                "the disk of the projects' PostgreSQL is full; free some space there".to_owned(),
            ),
            Some("53200" | "53300") => (
                FailureKind::Transient,
                "the projects' PostgreSQL accepts no more connections at the moment".to_owned(),
            ),
            Some(class) if class.starts_with("57P") => (
                FailureKind::Transient,
                "the projects' PostgreSQL is starting or stopping".to_owned(),
            ),
            Some(_) => (
                FailureKind::Internal,
                format!("the projects' PostgreSQL could not {what}; its log has the reason"),
            ),
            None => (
                FailureKind::Transient,
                "the projects' PostgreSQL does not answer; its log has the reason".to_owned(),
            ),
        };
        DriverError::new(kind, message).because(error)
    }
}

/// The databases of a region.
#[must_use]
pub fn shared(cluster: Cluster) -> fsa_driver::SharedDatabases {
    Arc::new(LocalDatabases::new(cluster))
}
