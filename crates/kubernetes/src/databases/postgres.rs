//! Databases on one PostgreSQL server, wherever it is: a role and a database each.

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use fsa_driver::{Databases, DriverError, ObservedDatabase, Result};
use fsa_model::{DatabaseSpec, TroubleKind, spec::Credentials};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use secrecy::ExposeSecret as _;
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::server::{self, State};
use crate::{objects::network_policy::block, settings};

const CONNECTIONS: u32 = 6;
/// For a connection of ours, queue and all.
const ACQUIRE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);
/// A copy takes as long as the database is large.
const COPY: Duration = Duration::from_secs(900);
/// Two that make the same database at once get in each other's way at most once a statement.
const ROUNDS: usize = 6;

/// The databases of a region, on a server given by its DSN.
pub struct PostgresDatabases {
    pool: PgPool,
    admin: PgConnectOptions,
    /// As sandboxes have it.
    host: String,
    port: u16,
}

impl PostgresDatabases {
    /// Connects when there is something to do. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// There is no DSN, or it is none.
    pub fn new(settings: &settings::Databases) -> Result<Self> {
        let wrong = || {
            DriverError::new(
                TroubleKind::Input,
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
            host: settings
                .host
                .clone()
                .unwrap_or_else(|| admin.get_host().to_owned()),
            port: settings.port.unwrap_or_else(|| admin.get_port()),
            admin,
        })
    }

    /// Where sandboxes find it, as far as a policy can say it: names it cannot.
    #[must_use]
    pub fn peer(&self) -> Option<(NetworkPolicyPeer, u16)> {
        let address: IpAddr = self.host.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Some((block(&format!("{address}/{bits}"), &[]), self.port))
    }

    async fn connection(&self) -> Result<PoolConnection<Postgres>> {
        self.pool.acquire().await.map_err(trouble)
    }

    /// The way in of the project itself, from here.
    fn options(&self, database: &DatabaseSpec) -> PgConnectOptions {
        self.admin
            .clone()
            .username(&database.role())
            .password(database.password.expose_secret())
            .database(&database.role())
    }

    async fn look(&self, connection: &mut PgConnection, database: &DatabaseSpec) -> Result<State> {
        match server::look(connection, database).await.map_err(trouble)? {
            State::Foreign => Err(DriverError::new(
                TroubleKind::Machine,
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
        let mut connection = self.connection().await?;
        for round in 1..=ROUNDS {
            self.look(&mut connection, database).await?;
            match server::make(&mut connection, database, None).await {
                Ok(()) => break,
                Err(error) if round < ROUNDS && server::is_race(&error) => {}
                Err(error) => return Err(trouble(error)),
            }
        }
        match server::admits(&self.options(database)).await {
            ObservedDatabase::Ready => Ok(()),
            _ => Err(DriverError::new(
                TroubleKind::Machine,
                "the PostgreSQL server does not let a project's role in; its pg_hba.conf must allow roles to sign in with \
                 a password",
            )),
        }
    }

    async fn copy(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()> {
        let mut connection = self.connection().await?;
        if self.look(&mut connection, from).await? != State::Made {
            return Err(DriverError::new(
                TroubleKind::Passing,
                format!("the database {} is not ready to be copied", from.role()),
            ));
        }
        if self.look(&mut connection, to).await? == State::Made {
            return Ok(());
        }
        // CREATE DATABASE wants its source for itself.
        server::close(&mut connection, from, true)
            .await
            .map_err(trouble)?;
        let made = server::make(&mut connection, to, Some(&from.role())).await;
        server::close(&mut connection, from, false)
            .await
            .map_err(trouble)?;
        made.map_err(trouble)?;
        let mut inside = PgConnection::connect_with(&self.admin.clone().database(&to.role()))
            .await
            .map_err(trouble)?;
        server::hand_over(&mut inside, from, to).await.map_err(trouble)?;
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
            let mut connection = self.connection().await?;
            Ok(match self.look(&mut connection, database).await? {
                State::Absent => ObservedDatabase::Absent,
                State::Made => server::admits(&self.options(database)).await,
                State::Partial | State::Foreign => ObservedDatabase::Partial,
            })
        })
        .await
    }

    async fn ensure(&self, database: &DatabaseSpec) -> Result<()> {
        patient(PATIENCE, async {
            if self.observe(database).await? == ObservedDatabase::Ready {
                return Ok(());
            }
            self.make(database).await
        })
        .await
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
        patient(PATIENCE, async {
            let mut connection = self.connection().await?;
            match server::look(&mut connection, database).await.map_err(trouble)? {
                State::Absent => Ok(()),
                State::Foreign => {
                    // Nothing of ours is left; the deletion of a project must not hang on it.
                    tracing::warn!(
                        role = database.role(),
                        "a database that is not ours is left alone"
                    );
                    Ok(())
                }
                State::Partial | State::Made => {
                    server::remove(&mut connection, database).await.map_err(trouble)
                }
            }
        })
        .await
    }

    async fn branch(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()> {
        patient(COPY, self.copy(from, to)).await
    }

    async fn inventory(&self) -> Result<Vec<String>> {
        patient(PATIENCE, async {
            let mut connection = self.connection().await?;
            server::inventory(&mut connection).await.map_err(trouble)
        })
        .await
    }
}

async fn patient<T>(patience: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| {
        Err(DriverError::new(
            TroubleKind::Passing,
            format!(
                "the PostgreSQL server was busy for more than {} s",
                patience.as_secs()
            ),
        ))
    })
}

/// What an error of the server means to the person who waits. SQLSTATEs: PostgreSQL, appendix A.
pub(super) fn trouble(error: sqlx::Error) -> DriverError {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    let (kind, message) = match code.as_deref() {
        Some("53100") => (
            TroubleKind::Machine,
            "the disk of the PostgreSQL server is full; free some space there",
        ),
        Some("28P01" | "28000") => (
            TroubleKind::Machine,
            "the PostgreSQL server does not accept our account; correct the region's setting databases.dsn",
        ),
        Some("42501") => (
            TroubleKind::Machine,
            "our account on the PostgreSQL server may not make roles and databases; give it CREATEROLE and CREATEDB",
        ),
        Some("53300") => (
            TroubleKind::Passing,
            "the PostgreSQL server has no room for another connection just now",
        ),
        Some(_) => (
            TroubleKind::Internal,
            "the PostgreSQL server refused a statement; its log has the reason",
        ),
        None => (
            TroubleKind::Passing,
            "the PostgreSQL server does not answer; it is tried again",
        ),
    };
    DriverError::new(kind, message).because(error)
}
