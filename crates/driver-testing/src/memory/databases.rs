//! In-memory databases.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use fsa_model::{DatabaseSpec, FailureKind, VolumeId, spec::Credentials};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};

use super::script::{Call, Log, Script};
use fsa_driver::{Databases, DriverError, ObservedDatabase, Result};

#[derive(Clone)]
struct Database {
    role: String,
    password: SecretString,
    ready: bool,
    /// The rows of its only table.
    select_rows: Vec<String>,
}

/// In-memory databases of a region.
pub struct MemoryDatabases {
    all: Mutex<BTreeMap<VolumeId, Database>>,
    pub script: Script,
    pub log: Log,
    predictable_credentials: bool,
}

impl Default for MemoryDatabases {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            script: Script::default(),
            log: Log::default(),
            predictable_credentials: true,
        }
    }
}

impl MemoryDatabases {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Databases whose credentials are unknown before they exist.
    #[must_use]
    pub fn without_predictable_credentials() -> Arc<Self> {
        Arc::new(Self {
            predictable_credentials: false,
            ..Self::default()
        })
    }

    /// Removes the database, without a requeue.
    pub fn lose(&self, database: &DatabaseSpec) {
        self.all.lock().remove(&database.volume);
    }

    /// Removes all databases, without a requeue.
    pub fn lose_all(&self) {
        self.all.lock().clear();
    }

    /// The names of all roles.
    #[must_use]
    pub fn roles(&self) -> Vec<String> {
        self.all.lock().values().map(|found| found.role.clone()).collect()
    }

    /// Inserts a row, as a program would.
    ///
    /// # Errors
    /// The database does not exist, or the password is wrong.
    pub fn insert_row(&self, database: &DatabaseSpec, text: &str) -> Result<()> {
        self.with_database(database, |found| found.select_rows.push(text.to_owned()))
    }

    /// All rows.
    ///
    /// # Errors
    /// As [`Self::insert_row`].
    pub fn select_rows(&self, database: &DatabaseSpec) -> Result<Vec<String>> {
        self.with_database(database, |found| found.select_rows.clone())
    }

    fn with_database<T>(
        &self,
        database: &DatabaseSpec,
        access: impl FnOnce(&mut Database) -> T,
    ) -> Result<T> {
        let mut all = self.all.lock();
        let found = all.get_mut(&database.volume).filter(|found| {
            found.ready && found.password.expose_secret() == database.password.expose_secret()
        });
        found.map(access).ok_or_else(|| {
            DriverError::new(
                FailureKind::Transient,
                "the database does not exist or refused the password",
            )
        })
    }
}

#[async_trait]
impl Databases for MemoryDatabases {
    fn provider(&self) -> &'static str {
        "memory"
    }

    async fn observe(&self, database: &DatabaseSpec) -> Result<ObservedDatabase> {
        let call = self.log.begin(Call::ObserveDatabase, database.volume);
        let work = async {
            self.script
                .begin_faults(Call::ObserveDatabase)
                .await?
                .apply()
                .await?;
            Ok(match self.all.lock().get(&database.volume) {
                None => ObservedDatabase::Absent,
                Some(found) if !found.ready => ObservedDatabase::Partial,
                Some(_) => ObservedDatabase::Ready,
            })
        };
        call.end(work.await)
    }

    async fn ensure(&self, database: &DatabaseSpec) -> Result<()> {
        let call = self.log.begin(Call::EnsureDatabase, database.volume);
        let work = async {
            let halfway = self.script.begin_faults(Call::EnsureDatabase).await?;
            self.all
                .lock()
                .entry(database.volume)
                .and_modify(|found| found.password = database.password.clone())
                .or_insert_with(|| Database {
                    role: database.role(),
                    password: database.password.clone(),
                    ready: false,
                    select_rows: Vec::new(),
                });
            halfway.apply().await?;
            if let Some(found) = self.all.lock().get_mut(&database.volume) {
                found.ready = true;
            }
            Ok(())
        };
        call.end(work.await)
    }

    async fn credentials(&self, database: &DatabaseSpec) -> Result<Credentials> {
        let role = database.role();
        let is_ready = |found: &Database| found.ready;
        if !self.predictable_credentials && !self.all.lock().get(&database.volume).is_some_and(is_ready) {
            return Err(DriverError::new(
                FailureKind::Transient,
                "the database's credentials are not known yet",
            ));
        }
        Ok(Credentials {
            host: "127.0.0.1".into(),
            port: 5432,
            user: role.clone(),
            password: database.password.clone(),
            database: role,
        })
    }

    fn predictable_credentials(&self) -> bool {
        self.predictable_credentials
    }

    async fn drop(&self, database: &DatabaseSpec) -> Result<()> {
        let call = self.log.begin(Call::DropDatabase, database.volume);
        let work = async {
            let halfway = self.script.begin_faults(Call::DropDatabase).await?;
            if let Some(found) = self.all.lock().get_mut(&database.volume) {
                found.ready = false;
            }
            halfway.apply().await?;
            self.all.lock().remove(&database.volume);
            Ok(())
        };
        call.end(work.await)
    }

    async fn branch(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()> {
        let select_rows = self.select_rows(from)?;
        self.ensure(to).await?;
        self.with_database(to, |found| found.select_rows = select_rows)
    }

    // They are in no snapshot; a copied branch gets an empty one.
    fn are_on_volumes(&self) -> bool {
        true
    }

    async fn checkpoint(&self, database: &DatabaseSpec) -> Result<()> {
        let call = self.log.begin(Call::Checkpoint, database.project);
        call.end(self.script.begin_faults(Call::Checkpoint).await.map(drop))
    }

    async fn release(&self, database: &DatabaseSpec) -> Result<()> {
        let call = self.log.begin(Call::ReleaseDatabase, database.project);
        call.end(self.script.begin_faults(Call::ReleaseDatabase).await.map(drop))
    }

    async fn inventory(&self) -> Result<Vec<String>> {
        Ok(self.roles())
    }
}
