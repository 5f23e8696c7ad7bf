//! Databases on one PostgreSQL server, wherever it is: a role and a database each.

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
/// Of them for what takes long: to make, to copy, to remove. A look must not wait for the makings of hundreds.
const CHANGES: usize = 4;
/// For a connection of ours, once it is one's turn.
const ACQUIRE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);
/// A copy takes as long as the database is large.
const COPY: Duration = Duration::from_secs(900);
/// A sign-in is believed for so long, which is less than the pause between two verifications of a sandbox that is as
/// it should be (five minutes and a fifth less at the least): each of those signs in. The looks in between ask for
/// what is in the catalogue. The first sign-in to a database costs the server some 50 ms of a processor.
const BELIEVED: Duration = Duration::from_secs(200);
/// Two that make the same database at once get in each other's way at most once a statement.
const ROUNDS: usize = 6;

/// The databases of a region, on a server given by its DSN.
pub struct PostgresDatabases {
    pool: PgPool,
    /// Who waits in line for a connection has not failed: hundreds of sandboxes may be wished at once.
    line: Semaphore,
    changes: Semaphore,
    admin: PgConnectOptions,
    /// As sandboxes have it.
    host: String,
    port: u16,
    /// The roles that were let in of late, with which password, and when.
    admitted: Mutex<HashMap<String, (SecretString, Instant)>>,
    /// When any of them last signed in.
    signed_in: Mutex<Option<Instant>>,
}

fn of_late(at: &Instant) -> bool {
    at.elapsed() < BELIEVED
}

/// A connection, and the place in line that goes with it.
struct Turn<'a> {
    connection: PoolConnection<Postgres>,
    _place: SemaphorePermit<'a>,
}

impl PostgresDatabases {
    /// Connects when there is something to do. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// There is no DSN, or it is none.
    pub fn new(settings: &settings::Databases) -> Result<Self> {
        let wrong = || {
            DriverError::new(
                FailureKind::Input,
                "the region's setting databases.dsn must be of the form postgresql://user:password@host/database",
            )
        };
        let dsn = settings.dsn.as_ref().ok_or_else(wrong)?;
        let admin: PgConnectOptions = dsn.expose_secret().parse().map_err(|_| wrong())?;
        Ok(Self {
            pool: PgPoolOptions::new()
                .max_connections(CONNECTIONS)
                .acquire_timeout(ACQUIRE)
                .idle_timeout(Duration::from_secs(300))
                .connect_lazy_with(admin.clone()),
            line: Semaphore::new(CONNECTIONS as usize),
            changes: Semaphore::new(CHANGES),
            host: settings
                .host
                .clone()
                .unwrap_or_else(|| admin.get_host().to_owned()),
            port: settings.port.unwrap_or_else(|| admin.get_port()),
            admin,
            admitted: Mutex::default(),
            signed_in: Mutex::default(),
        })
    }

    /// Where sandboxes find it, as far as a policy can say it: names it cannot.
    #[must_use]
    pub fn peer(&self) -> Option<(NetworkPolicyPeer, u16)> {
        let address: IpAddr = self.host.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Some((block(&format!("{address}/{bits}"), &[]), self.port))
    }

    /// Waits in line. Its bound is the caller's patience.
    async fn turn(&self) -> Result<Turn<'_>> {
        let place = place(&self.line).await?;
        let connection = self.pool.acquire().await.map_err(failure)?;
        Ok(Turn {
            connection,
            _place: place,
        })
    }

    /// The way in of the project itself, from here.
    fn options(&self, database: &DatabaseSpec) -> PgConnectOptions {
        self.admin
            .clone()
            .username(&database.role())
            .password(database.password.expose_secret())
            .database(&database.role())
    }

    /// Whether the project itself can sign in.
    async fn admits(&self, database: &DatabaseSpec) -> ObservedDatabase {
        let believed = self
            .admitted
            .lock()
            .get(&database.role())
            .is_some_and(|(password, at)| {
                of_late(at) && password.expose_secret() == database.password.expose_secret()
            });
        if believed {
            return ObservedDatabase::Ready;
        }
        let found = server::admits(&self.options(database)).await;
        if found == ObservedDatabase::Ready {
            *self.signed_in.lock() = Some(Instant::now());
            self.believe(database);
        }
        found
    }

    fn believe(&self, database: &DatabaseSpec) {
        let mut admitted = self.admitted.lock();
        admitted.retain(|_, (_, at)| of_late(at));
        admitted.insert(database.role(), (database.password.clone(), Instant::now()));
    }

    async fn look(&self, connection: &mut PgConnection, database: &DatabaseSpec) -> Result<State> {
        match server::look(connection, database).await.map_err(failure)? {
            State::Foreign => Err(DriverError::new(
                FailureKind::Machine,
                format!(
                    "the PostgreSQL server has a role or database {} that FullStack Agent did not make for this project; \
                     rename or remove it",
                    database.role()
                ),
            )),
            state => Ok(state),
        }
    }

    async fn make(&self, database: &DatabaseSpec) -> Result<()> {
        self.admitted.lock().remove(&database.role());
        let mut turn = self.turn().await?;
        let connection = &mut *turn.connection;
        for round in 1..=ROUNDS {
            self.look(connection, database).await?;
            match server::make(connection, database, None).await {
                Ok(()) => break,
                Err(error) if round < ROUNDS && server::is_race(&error) => {}
                Err(error) => return Err(failure(error)),
            }
        }
        // The password is the one that was just set. That the server lets roles in, another has shown; this one's own
        // first sign-in is that of its next verification.
        if self.signed_in.lock().as_ref().is_some_and(of_late) {
            self.believe(database);
            return Ok(());
        }
        match self.admits(database).await {
            ObservedDatabase::Ready => Ok(()),
            _ => Err(DriverError::new(
                FailureKind::Machine,
                "the PostgreSQL server does not let a project's role in; its pg_hba.conf must allow roles to sign in with \
                 a password",
            )),
        }
    }

    async fn copy(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()> {
        let mut turn = self.turn().await?;
        let connection = &mut *turn.connection;
        if self.look(connection, from).await? != State::Made {
            return Err(DriverError::new(
                FailureKind::Transient,
                format!("the database {} is not ready to be copied", from.role()),
            ));
        }
        if self.look(connection, to).await? == State::Made {
            return Ok(());
        }
        // CREATE DATABASE wants its source for itself.
        server::close(connection, from, true).await.map_err(failure)?;
        let made = server::make(connection, to, Some(&from.role())).await;
        server::close(connection, from, false).await.map_err(failure)?;
        made.map_err(failure)?;
        let mut inside = PgConnection::connect_with(&self.admin.clone().database(&to.role()))
            .await
            .map_err(failure)?;
        server::hand_over(&mut inside, from, to).await.map_err(failure)?;
        let _ = inside.close().await;
        Ok(())
    }
}

#[async_trait]
impl Databases for PostgresDatabases {
    fn provider(&self) -> &'static str {
        "postgres"
    }

    async fn observe(&self, database: &DatabaseSpec) -> Result<ObservedDatabase> {
        patient(PATIENCE, async {
            let mut turn = self.turn().await?;
            let connection = &mut *turn.connection;
            Ok(match self.look(connection, database).await? {
                State::Absent => ObservedDatabase::Absent,
                State::Made => self.admits(database).await,
                State::Partial | State::Foreign => ObservedDatabase::Partial,
            })
        })
        .await
    }

    async fn ensure(&self, database: &DatabaseSpec) -> Result<()> {
        if self.observe(database).await? == ObservedDatabase::Ready {
            return Ok(());
        }
        let _place = place(&self.changes).await?;
        patient(PATIENCE, self.make(database)).await
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

    fn known_ahead(&self) -> bool {
        true
    }

    async fn drop(&self, database: &DatabaseSpec) -> Result<()> {
        self.admitted.lock().remove(&database.role());
        patient(PATIENCE, async {
            let _place = place(&self.changes).await?;
            let mut turn = self.turn().await?;
            let connection = &mut *turn.connection;
            match server::look(connection, database).await.map_err(failure)? {
                State::Absent => Ok(()),
                State::Foreign => {
                    // Nothing of ours is left; the deletion of a project must not hang on it.
                    tracing::warn!(
                        role = database.role(),
                        "a database that is not ours is left alone"
                    );
                    Ok(())
                }
                State::Partial | State::Made => server::remove(connection, database).await.map_err(failure),
            }
        })
        .await
    }

    async fn branch(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()> {
        patient(COPY, async {
            let _place = place(&self.changes).await?;
            self.copy(from, to).await
        })
        .await
    }

    async fn inventory(&self) -> Result<Vec<String>> {
        patient(PATIENCE, async {
            let mut turn = self.turn().await?;
            let connection = &mut *turn.connection;
            server::inventory(connection).await.map_err(failure)
        })
        .await
    }
}

/// Waits in a line. Its bound is the caller's.
async fn place(line: &Semaphore) -> Result<SemaphorePermit<'_>> {
    line.acquire().await.map_err(|closed| {
        DriverError::new(FailureKind::Internal, "the line for a connection was closed").because(closed)
    })
}

async fn patient<T>(patience: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| {
        Err(DriverError::new(
            FailureKind::Transient,
            format!(
                "the PostgreSQL server was busy for more than {} s",
                patience.as_secs()
            ),
        ))
    })
}

/// What an error of the server means to the person who waits. SQLSTATEs: PostgreSQL, appendix A.
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
            "our account on the PostgreSQL server may not make roles and databases; give it CREATEROLE and CREATEDB",
        ),
        Some("53300") => (
            FailureKind::Transient,
            "the PostgreSQL server has no room for another connection just now",
        ),
        Some(_) => (
            FailureKind::Internal,
            "the PostgreSQL server refused a statement; its log has the reason",
        ),
        None => (
            FailureKind::Transient,
            "the PostgreSQL server does not answer; it is tried again",
        ),
    };
    DriverError::new(kind, message).because(error)
}
