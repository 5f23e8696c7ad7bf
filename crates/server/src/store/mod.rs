//! Where everything is written down: the control database. One file per table or use.

pub mod claims;
pub mod places;

use std::time::Duration;

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// The control database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: PgPool,
}

/// How long a request may wait for a connection of the pool.
const ACQUIRE: Duration = Duration::from_secs(5);

impl Store {
    /// Connects and brings the schema up to date (under sqlx's own advisory lock, so that any
    /// number of servers may start at once).
    ///
    /// # Errors
    /// Where the database cannot be reached or a migration fails.
    pub async fn open(options: PgConnectOptions, connections: u32) -> Result<Self, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE)
            .connect_with(options)
            .await?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        Ok(Self { pool })
    }

    /// For those who must listen on a connection of their own.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}
