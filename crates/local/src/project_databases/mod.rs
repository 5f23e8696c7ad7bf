//! Project databases on this machine: one PostgreSQL server per volume, started by its first
//! connection and stopped when nothing uses it.
//!
//! The runner has the files and the processes; this half decides when a server runs, and sets up the
//! project's role and database in it. Preparing a database writes a record and starts nothing, so a
//! project does not wait for it. `fsa serve` keeps no state about servers that a restart would lose:
//! what a server has to be is recorded beside its files, whether it runs is observed.
//!
//! **Isolation.** A server's container has ids, a control group and a network that no other has, and
//! sees no file but its own (`runner/database`). The project's role is therefore superuser of its
//! server.

mod compare;
mod connection;
mod databases;
mod dumps;
mod idle;
mod requests;
mod setup;
mod upgrade;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fsa_driver::{
    DriverError, Result,
    keyed_mutex::{KeyedMutex, KeyedMutexGuard},
    scram,
};
use fsa_model::{DatabaseSpec, Failure, FailureKind, VolumeId};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::{connection::Sockets, idle::IdleTimes};
use crate::{
    database_proxy::starter::StartServer,
    driver::Client,
    protocol::{DatabaseSetup, ObservedServer, StopWhen},
};

/// Default time without a connection after which a server is stopped.
pub const IDLE_STOP: Duration = Duration::from_secs(300);
/// Bounds of the interval in which idle servers are looked for.
const IDLE_CHECK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Cached verifiers that matched, so that an observation does not cost 4096 hashes.
const VERIFIED_MAX: usize = 10_000;

/// The databases of the projects on this machine.
pub struct ProjectDatabases {
    /// The data folder.
    folder: PathBuf,
    client: Arc<Client>,
    sockets: Sockets,
    /// Held while a server is started, stopped, set up or removed.
    changes: KeyedMutex<VolumeId>,
    verified: Mutex<HashMap<String, VerifiedPassword>>,
    /// By role, for measurements, which name only that.
    volumes: Mutex<HashMap<String, VolumeId>>,
    idle_stop: Duration,
    idle: Mutex<IdleTimes>,
    starts: AtomicU64,
    stops: AtomicU64,
    /// As last observed.
    running: AtomicU64,
    upgrade: OnceLock<upgrade::Upgrade>,
    /// The folder of PostgreSQL's programs, if that is set.
    programs: OnceLock<PathBuf>,
}

/// A role's recorded verifier, and a digest of the password that it was found to be of.
#[derive(PartialEq, Eq)]
struct VerifiedPassword {
    verifier: String,
    password: [u8; 32],
}

impl ProjectDatabases {
    /// # Errors
    /// The folder of sockets, which the runner makes, cannot be opened.
    pub fn open(data: &Path, client: Arc<Client>, idle_stop: Duration) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            folder: data.to_owned(),
            upgrade: OnceLock::new(),
            programs: OnceLock::new(),
            client,
            sockets: Sockets::open(&data.join(crate::runner::layout::SOCKETS))?,
            changes: KeyedMutex::default(),
            verified: Mutex::default(),
            volumes: Mutex::default(),
            idle_stop,
            idle: Mutex::default(),
            starts: AtomicU64::new(0),
            stops: AtomicU64::new(0),
            running: AtomicU64::new(0),
        }))
    }

    /// Sets the folder of PostgreSQL's programs, from which dumps are made; by default the machine's packages are used.
    pub fn use_programs(&self, folder: Option<PathBuf>) {
        if let Some(folder) = folder {
            let _ = self.programs.set(folder);
        }
    }

    /// Starts the server of a volume where it does not run, and returns when it accepts clients.
    ///
    /// # Errors
    /// The volume has no database; why the server does not start.
    pub async fn start_server(&self, volume: VolumeId) -> Result<()> {
        let lock = self.changes.lock(&volume).await;
        self.start_locked(volume, &lock).await
    }

    async fn start_locked(&self, volume: VolumeId, _lock: &KeyedMutexGuard) -> Result<()> {
        self.move_pending(volume).await?;
        let server = self.request_start(volume).await?;
        if server.open {
            return Ok(());
        }
        self.set_up(&server).await?;
        self.request_open(volume).await?;
        self.starts.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Sets up role and database. A server whose owner has broken that, which a superuser can, is
    /// opened as it is.
    async fn set_up(&self, server: &ObservedServer) -> Result<()> {
        match setup::apply(&self.sockets, server.volume, &server.setup).await {
            Err(sqlx::Error::Database(error)) => {
                tracing::warn!(volume = %server.volume, %error, "a database's role could not be set up");
                Ok(())
            }
            other => other.map_err(|error| {
                DriverError::new(
                    FailureKind::Transient,
                    "the project's database does not answer; its log has the reason",
                )
                .because(error)
            }),
        }
    }

    /// Stops servers that nobody has been connected to since before `now` less the time of the
    /// setting.
    ///
    /// # Errors
    /// The runner does not answer.
    pub async fn stop_idle(&self, now: Instant) -> Result<()> {
        let servers = self.servers().await?;
        let due = self.idle.lock().due(&servers, now, self.idle_stop);
        for volume in due {
            let _lock = self.changes.lock(&volume).await;
            match self.request_stop(volume, StopWhen::Unused).await {
                Ok(true) => {
                    self.stops.fetch_add(1, Ordering::Relaxed);
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%volume, %error, "an idle database server could not be stopped"),
            }
        }
        Ok(())
    }

    /// Stops idle servers, forever.
    pub async fn stop_idle_forever(&self) {
        if let Err(error) = self.remove_interrupted_comparisons().await {
            tracing::warn!(%error, "the copies of interrupted comparisons cannot be looked for");
        }
        let pause = (self.idle_stop / 10).clamp(IDLE_CHECK.0, IDLE_CHECK.1);
        loop {
            tokio::time::sleep(pause).await;
            if let Err(error) = self.stop_idle(Instant::now()).await {
                tracing::warn!(%error, "idle database servers cannot be looked for");
            }
        }
    }

    /// Stops every server.
    ///
    /// # Errors
    /// One does not end.
    pub async fn stop_all(&self) -> Result<()> {
        for server in self.request_list().await? {
            if server.running {
                let _lock = self.changes.lock(&server.volume).await;
                self.request_stop(server.volume, StopWhen::Always).await?;
            }
        }
        Ok(())
    }

    /// Every database with its server.
    ///
    /// # Errors
    /// The runner does not answer.
    pub async fn servers(&self) -> Result<Vec<ObservedServer>> {
        let servers = self.request_list().await?;
        let running = servers.iter().filter(|server| server.running).count();
        self.running.store(running as u64, Ordering::Relaxed);
        Ok(servers)
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

    /// Whether a recorded setup is the one of `database`.
    fn is_current(&self, database: &DatabaseSpec, setup: &DatabaseSetup) -> bool {
        setup.role == database.role()
            && setup.resources == database.resources
            && self.verifies(database, &setup.verifier)
    }

    fn setup_of(&self, database: &DatabaseSpec, recorded: Option<&ObservedServer>) -> DatabaseSetup {
        let kept = recorded
            .map(|server| &server.setup.verifier)
            .filter(|verifier| self.verifies(database, verifier));
        DatabaseSetup {
            role: database.role(),
            verifier: kept
                .cloned()
                .unwrap_or_else(|| scram::verifier(&database.password)),
            resources: database.resources,
        }
    }

    fn remember(&self, database: &DatabaseSpec) {
        let mut volumes = self.volumes.lock();
        if volumes.len() >= VERIFIED_MAX {
            volumes.clear();
        }
        volumes.insert(database.role(), database.volume);
    }

    async fn volume_of(&self, role: &str) -> Result<Option<VolumeId>> {
        if let Some(volume) = self.volumes.lock().get(role) {
            return Ok(Some(*volume));
        }
        let servers = self.request_list().await?;
        Ok(servers
            .into_iter()
            .find(|server| server.setup.role == role)
            .map(|server| server.volume))
    }
}

#[async_trait]
impl StartServer for ProjectDatabases {
    async fn start(&self, volume: VolumeId) -> std::result::Result<(), Failure> {
        self.start_server(volume).await.map_err(|error| {
            tracing::warn!(%volume, %error, cause = ?error.cause, "a database server does not start");
            error.failure
        })
    }
}
