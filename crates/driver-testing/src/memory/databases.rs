//! The in-memory databases.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use fsa_model::{DatabaseSpec, FailureKind, spec::Credentials};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};

use super::script::{Call, Log, Script};
use fsa_driver::{Databases, DriverError, ObservedDatabase, Result};

#[derive(Clone)]
struct Database {
    password: SecretString,
    ready: bool,
    /// Stands for its tables.
    marks: Vec<String>,
}

/// Databases that live as long as this value.
pub struct MemoryDatabases {
    all: Mutex<BTreeMap<String, Database>>,
    pub script: Script,
    pub log: Log,
    known_ahead: bool,
}

impl Default for MemoryDatabases {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            script: Script::default(),
            log: Log::default(),
            known_ahead: true,
        }
    }
}

impl MemoryDatabases {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Databases whose credentials are not known before they exist.
    #[must_use]
    pub fn not_known_ahead() -> Arc<Self> {
        Arc::new(Self {
            known_ahead: false,
            ..Self::default()
        })
    }

    /// The database is gone, without a notification.
    pub fn lose(&self, database: &DatabaseSpec) {
        self.all.lock().remove(&database.role());
    }

    /// Everything is gone.
    pub fn lose_all(&self) {
        self.all.lock().clear();
    }

    /// The names of the roles that there are.
    #[must_use]
    pub fn roles(&self) -> Vec<String> {
        self.all.lock().keys().cloned().collect()
    }

    /// Leaves a mark, as a program would in a table.
    ///
    /// # Errors
    /// Where there is no such database, or the password is not its password.
    pub fn mark(&self, database: &DatabaseSpec, text: &str) -> Result<()> {
        self.enter(database, |found| found.marks.push(text.to_owned()))
    }

    /// The marks that were left.
    ///
    /// # Errors
    /// As [`Self::mark`].
    pub fn marks(&self, database: &DatabaseSpec) -> Result<Vec<String>> {
        self.enter(database, |found| found.marks.clone())
    }

    fn enter<T>(&self, database: &DatabaseSpec, act: impl FnOnce(&mut Database) -> T) -> Result<T> {
        let mut all = self.all.lock();
        let found = all.get_mut(&database.role()).filter(|found| {
            found.ready && found.password.expose_secret() == database.password.expose_secret()
        });
        found.map(act).ok_or_else(|| {
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
        let call = self.log.begin(Call::ObserveDatabase, database.project);
        let work = async {
            self.script.play(Call::ObserveDatabase).await?.pass().await?;
            Ok(match self.all.lock().get(&database.role()) {
                None => ObservedDatabase::Absent,
                Some(found) if !found.ready => ObservedDatabase::Partial,
                Some(_) => ObservedDatabase::Ready,
            })
        };
        call.end(work.await)
    }

    async fn ensure(&self, database: &DatabaseSpec) -> Result<()> {
        let call = self.log.begin(Call::EnsureDatabase, database.project);
        let work = async {
            let middle = self.script.play(Call::EnsureDatabase).await?;
            self.all
                .lock()
                .entry(database.role())
                .and_modify(|found| found.password = database.password.clone())
                .or_insert_with(|| Database {
                    password: database.password.clone(),
                    ready: false,
                    marks: Vec::new(),
                });
            middle.pass().await?;
            if let Some(found) = self.all.lock().get_mut(&database.role()) {
                found.ready = true;
            }
            Ok(())
        };
        call.end(work.await)
    }

    async fn credentials(&self, database: &DatabaseSpec) -> Result<Credentials> {
        let role = database.role();
        if !self.known_ahead && !self.all.lock().get(&role).is_some_and(|found| found.ready) {
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

    fn known_ahead(&self) -> bool {
        self.known_ahead
    }

    async fn drop(&self, database: &DatabaseSpec) -> Result<()> {
        let call = self.log.begin(Call::DropDatabase, database.project);
        let work = async {
            let middle = self.script.play(Call::DropDatabase).await?;
            if let Some(found) = self.all.lock().get_mut(&database.role()) {
                found.ready = false;
            }
            middle.pass().await?;
            self.all.lock().remove(&database.role());
            Ok(())
        };
        call.end(work.await)
    }

    async fn branch(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()> {
        let marks = self.marks(from)?;
        self.ensure(to).await?;
        self.enter(to, |found| found.marks = marks)
    }

    async fn inventory(&self) -> Result<Vec<String>> {
        Ok(self.roles())
    }
}
