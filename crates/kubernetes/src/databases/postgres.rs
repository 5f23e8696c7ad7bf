//! Project databases on one PostgreSQL server anywhere: a role and a database each.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use fsa_driver::{Databases, DriverError, ObservedDatabase, Result};
use fsa_model::{DatabaseSpec, FailureKind, spec::Credentials};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::server::{self, State};
use crate::{objects::network_policy::block, settings};

const CONNECTIONS: u32 = 6;
/// Connections for slow operations (create, copy, remove). An observation must not wait for hundreds of these.
const MAX_CONCURRENT_CHANGES: usize = 4;
/// To open a connection, once a permit is held.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(120);
/// The time of a copy grows with the size of the database.
const COPY_TIMEOUT: Duration = Duration::from_secs(900);
/// How long a successful sign-in is cached. It is less than the interval between two verifications of a sandbox in its
/// desired state (five minutes, less up to a fifth), so each verification signs in; the observations in between read
/// the catalog only. The first sign-in to a database costs the server some 50 ms of CPU time.
const SIGN_IN_TTL: Duration = Duration::from_secs(200);
/// Two that create the same database concurrently conflict at most once per statement.
const ATTEMPTS: usize = 6;

/// The databases of a region, on a server given by its DSN.
pub struct PostgresDatabases {
    pool: PgPool,
    /// To wait for a permit is no failure, unlike the pool's timeout: hundreds of sandboxes may be requested at once.
    connection_permits: Semaphore,
    change_permits: Semaphore,
    admin: PgConnectOptions,
    /// The server's address for sandboxes.
    host: String,
    port: u16,
    /// Recent successful sign-ins: role, password, time.
    sign_ins: Mutex<HashMap<String, (SecretString, Instant)>>,
    /// The last successful sign-in of any role.
    last_sign_in: Mutex<Option<Instant>>,
}

fn is_recent(at: &Instant) -> bool {
    at.elapsed() < SIGN_IN_TTL
}

/// A connection and its permit.
struct PermittedConnection<'a> {
    connection: PoolConnection<Postgres>,
    _permit: SemaphorePermit<'a>,
}

impl PostgresDatabases {
    /// Connects on first use. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// The DSN is missing or malformed.
    pub fn new(settings: &settings::Databases) -> Result<Self> {
        let invalid = || {
            DriverError::new(
                FailureKind::Input,
                "the region's setting databases.dsn must be of the form postgresql://user:password@host/database",
            )
        };
        let dsn = settings.dsn.as_ref().ok_or_else(invalid)?;
        let admin: PgConnectOptions = dsn.expose_secret().parse().map_err(|_| invalid())?;
        Ok(Self {
            pool: PgPoolOptions::new()
                .max_connections(CONNECTIONS)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(Duration::from_secs(300))
                .connect_lazy_with(admin.clone()),
            connection_permits: Semaphore::new(CONNECTIONS as usize),
            change_permits: Semaphore::new(MAX_CONCURRENT_CHANGES),
            host: settings
                .host
                .clone()
                .unwrap_or_else(|| admin.get_host().to_owned()),
            port: settings.port.unwrap_or_else(|| admin.get_port()),
            admin,
            sign_ins: Mutex::default(),
            last_sign_in: Mutex::default(),
        })
    }

    /// The server as a peer for network policies, which take addresses: none if the host is a name.
    #[must_use]
    pub fn peer(&self) -> Option<(NetworkPolicyPeer, u16)> {
        let address: IpAddr = self.host.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Some((block(&format!("{address}/{bits}"), &[]), self.port))
    }

    /// Waits for a permit, then connects. The caller bounds the wait.
    async fn connect(&self) -> Result<PermittedConnection<'_>> {
        let permit = acquire(&self.connection_permits).await?;
        let connection = self.pool.acquire().await.map_err(failure)?;
        Ok(PermittedConnection {
            connection,
            _permit: permit,
        })
    }

    /// Options to sign in as the project's own role, from here.
    fn project_options(&self, database: &DatabaseSpec) -> PgConnectOptions {
        self.admin
            .clone()
            .username(&database.role())
            .password(database.password.expose_secret())
            .database(&database.role())
    }

    /// Whether the project's own role can sign in, from the cache if it did so recently.
    async fn can_sign_in(&self, database: &DatabaseSpec) -> ObservedDatabase {
        let cached = self
            .sign_ins
            .lock()
            .get(&database.role())
            .is_some_and(|(password, at)| {
                is_recent(at) && password.expose_secret() == database.password.expose_secret()
            });
        if cached {
            return ObservedDatabase::Ready;
        }
        let observed = server::can_sign_in(&self.project_options(database)).await;
        if observed == ObservedDatabase::Ready {
            *self.last_sign_in.lock() = Some(Instant::now());
            self.cache_sign_in(database);
        }
        observed
    }

    fn cache_sign_in(&self, database: &DatabaseSpec) {
        let mut sign_ins = self.sign_ins.lock();
        sign_ins.retain(|_, (_, at)| is_recent(at));
        sign_ins.insert(database.role(), (database.password.clone(), Instant::now()));
    }

    async fn observe_catalog(&self, connection: &mut PgConnection, database: &DatabaseSpec) -> Result<State> {
        match server::observe(connection, database).await.map_err(failure)? {
            State::Foreign => Err(DriverError::new(
                FailureKind::Machine,
                format!(
                    "the PostgreSQL server has a role or database {} that FullStack Agent did not create for this project; \
                     rename or remove it",
                    database.role()
                ),
            )),
            state => Ok(state),
        }
    }

    async fn create(&self, database: &DatabaseSpec) -> Result<()> {
        self.sign_ins.lock().remove(&database.role());
        let mut permitted = self.connect().await?;
        let connection = &mut *permitted.connection;
        for attempt in 1..=ATTEMPTS {
            self.observe_catalog(connection, database).await?;
            match server::create(connection, database, None).await {
                Ok(()) => break,
                Err(error) if attempt < ATTEMPTS && server::is_race(&error) => {}
                Err(error) => return Err(failure(error)),
            }
        }
        // The password was just set, and another role's recent sign-in shows that the server accepts roles. The first
        // sign-in of this role is at its next verification.
        if self.last_sign_in.lock().as_ref().is_some_and(is_recent) {
            self.cache_sign_in(database);
            return Ok(());
        }
        match self.can_sign_in(database).await {
            ObservedDatabase::Ready => Ok(()),
            _ => Err(DriverError::new(
                FailureKind::Machine,
                "the PostgreSQL server refuses the sign-in of a project's role; its pg_hba.conf must allow roles to sign \
                 in with a password",
            )),
        }
    }

    async fn copy(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()> {
        let mut permitted = self.connect().await?;
        let connection = &mut *permitted.connection;
        if self.observe_catalog(connection, from).await? != State::Created {
            return Err(DriverError::new(
                FailureKind::Transient,
                format!(
                    "the database {} is not ready to be copied; try again later",
                    from.role()
                ),
            ));
        }
        if self.observe_catalog(connection, to).await? == State::Created {
            return Ok(());
        }
        // CREATE DATABASE requires a template without other connections.
        server::set_closed(connection, from, true)
            .await
            .map_err(failure)?;
        let created = server::create(connection, to, Some(&from.role())).await;
        server::set_closed(connection, from, false)
            .await
            .map_err(failure)?;
        created.map_err(failure)?;
        let mut copy = PgConnection::connect_with(&self.admin.clone().database(&to.role()))
            .await
            .map_err(failure)?;
        server::transfer_ownership(&mut copy, from, to)
            .await
            .map_err(failure)?;
        let _ = copy.close().await;
        Ok(())
    }
}

#[async_trait]
impl Databases for PostgresDatabases {
    fn provider(&self) -> &'static str {
        "postgres"
    }

    async fn observe(&self, database: &DatabaseSpec) -> Result<ObservedDatabase> {
        with_timeout(TIMEOUT, async {
            let mut permitted = self.connect().await?;
            let connection = &mut *permitted.connection;
            Ok(match self.observe_catalog(connection, database).await? {
                State::Absent => ObservedDatabase::Absent,
                State::Created => self.can_sign_in(database).await,
                State::Partial | State::Foreign => ObservedDatabase::Partial,
            })
        })
        .await
    }

    async fn ensure(&self, database: &DatabaseSpec) -> Result<()> {
        if self.observe(database).await? == ObservedDatabase::Ready {
            return Ok(());
        }
        let _permit = acquire(&self.change_permits).await?;
        with_timeout(TIMEOUT, self.create(database)).await
    }

    async fn credentials(&self, database: &DatabaseSpec) -> Result<Credentials> {
        Ok(Credentials {
            host: self.host.clone(),
            port: self.port,
            user: database.role(),
            password: database.password.clone(),
            database: database.role(),
        })
    }

    fn predictable_credentials(&self) -> bool {
        true
    }

    async fn drop(&self, database: &DatabaseSpec) -> Result<()> {
        self.sign_ins.lock().remove(&database.role());
        with_timeout(TIMEOUT, async {
            let _permit = acquire(&self.change_permits).await?;
            let mut permitted = self.connect().await?;
            let connection = &mut *permitted.connection;
            match server::observe(connection, database).await.map_err(failure)? {
                State::Absent => Ok(()),
                State::Foreign => {
                    // Nothing of ours is left, so the deletion of the project goes on.
                    tracing::warn!(
                        role = database.role(),
                        "role or database not created by us; not dropping it"
                    );
                    Ok(())
                }
                State::Partial | State::Created => {
                    server::remove(connection, database).await.map_err(failure)
                }
            }
        })
        .await
    }

    async fn branch(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()> {
        with_timeout(COPY_TIMEOUT, async {
            let _permit = acquire(&self.change_permits).await?;
            self.copy(from, to).await
        })
        .await
    }

    async fn inventory(&self) -> Result<Vec<String>> {
        with_timeout(TIMEOUT, async {
            let mut permitted = self.connect().await?;
            let connection = &mut *permitted.connection;
            server::inventory(connection).await.map_err(failure)
        })
        .await
    }
}

/// Waits for a permit. The caller bounds the wait.
async fn acquire(permits: &Semaphore) -> Result<SemaphorePermit<'_>> {
    permits.acquire().await.map_err(|closed| {
        DriverError::new(FailureKind::Internal, "the semaphore of connections is closed").because(closed)
    })
}

async fn with_timeout<T>(timeout: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        Err(DriverError::new(
            FailureKind::Transient,
            format!(
                "the PostgreSQL server was busy for more than {} s; it is retried",
                timeout.as_secs()
            ),
        ))
    })
}

/// An error of the server, with a message for people. SQLSTATEs: PostgreSQL, appendix A.
pub(super) fn failure(error: sqlx::Error) -> DriverError {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    let (kind, message) = match code.as_deref() {
        Some("53100") => (
            FailureKind::Machine,
            "the disk of the PostgreSQL server is full; free some space there",
        ),
        Some("28P01" | "28000") => (
            FailureKind::Machine,
            "the PostgreSQL server does not accept our account; correct the region's setting databases.dsn",
        ),
        Some("42501") => (
            FailureKind::Machine,
            "our account on the PostgreSQL server may not create roles and databases; grant it CREATEROLE and CREATEDB",
        ),
        Some("53300") => (
            FailureKind::Transient,
            "the PostgreSQL server has reached its limit of connections; it is retried",
        ),
        Some(_) => (
            FailureKind::Internal,
            "the PostgreSQL server refused a statement; its log has the reason",
        ),
        None => (
            FailureKind::Transient,
            "the PostgreSQL server does not answer; it is retried",
        ),
    };
    DriverError::new(kind, message).because(error)
}
