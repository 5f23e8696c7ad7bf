//! A PostgreSQL cluster: paths, start, supervision, connections.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::chown},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::process::Command;

use super::{
    ClusterKind, SUPERUSER,
    binaries::{Installation, choose, installations},
    error::{PostgresError, Result},
    initialize, postmaster,
};

/// The kernel's limit for a Unix socket's path (unix(7): `sun_path` with its NUL).
const SOCKET_PATH_MAX: usize = 107;
/// For a running server to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Until another `fsa serve` has finished starting the same cluster.
const LOCK_TIMEOUT: Duration = Duration::from_secs(900);
/// For a server to end its backends and write everything.
const STOP_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two failed starts of a supervised cluster.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Settings of both clusters.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The data folder of `fsa serve`; absolute.
    pub data: PathBuf,
    /// The folder of PostgreSQL's programs; `None` searches the machine.
    pub bin: Option<PathBuf>,
    /// User and group id to run PostgreSQL as, where the caller is root; PostgreSQL refuses to run
    /// as root.
    pub run_as: Option<(u32, u32)>,
}

/// A cluster of this machine. Cheap to clone; it holds no connection and owns no process.
#[derive(Clone, Debug)]
pub struct Cluster {
    kind: ClusterKind,
    settings: Settings,
    folder: PathBuf,
}

impl Cluster {
    #[must_use]
    pub fn new(kind: ClusterKind, settings: Settings) -> Self {
        let folder = settings.data.join(kind.name()).join("data");
        Self {
            kind,
            settings,
            folder,
        }
    }

    #[must_use]
    pub fn kind(&self) -> ClusterKind {
        self.kind
    }

    /// Its data folder. Its parent is made for it, because the data folder of `fsa serve` belongs to
    /// root where that was started by root.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of its socket, `host` to libpq.
    #[must_use]
    pub fn socket_folder(&self) -> PathBuf {
        self.settings.data.join("run").join(self.kind.socket_folder())
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.socket_folder().join(".s.PGSQL.5432")
    }

    /// The folder of its log.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.settings.data.join("logs")
    }

    /// How to connect to one of its databases as its superuser.
    #[must_use]
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.socket_folder())
            .port(5432)
            .username(SUPERUSER)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
            .application_name("fsa")
    }

    /// Initializes it where it does not exist, starts it where it does not run, and returns when it
    /// accepts connections. Where it runs already, this costs one connection. Any number of callers,
    /// in any number of processes, may call this at once.
    ///
    /// # Errors
    /// [`PostgresError`], with a message for the operator of the machine.
    pub async fn ensure_running(&self) -> Result<()> {
        self.check_paths()?;
        if self.is_ready().await {
            return self.refresh().await;
        }
        self.check_user()?;
        initialize::make_folder(self, &self.settings.data.join(self.kind.name()), 0o700)?;
        initialize::make_folder(self, &self.settings.data.join("run"), 0o700)?;
        initialize::make_folder(self, &self.socket_folder(), 0o700)?;
        initialize::make_folder(self, &self.logs(), 0o700)?;
        let _lock = self.lock().await?;
        if self.is_ready().await {
            return Ok(());
        }
        let major = initialize::major_of(&self.folder)?;
        let found = installations(self.settings.bin.as_deref()).await?;
        let installation = choose(found, major, &self.folder)?;
        if major.is_none() {
            tracing::info!(folder = %self.folder.display(), release = installation.major, "making {}", self.kind.title());
            initialize::initialize(self, &installation).await?;
        } else {
            initialize::write_configuration(self, &self.folder)?;
        }
        postmaster::start(self, &installation).await?;
        tracing::info!(socket = %self.socket().display(), release = installation.major, "{} runs", self.kind.title());
        let _ = self.connect("postgres").await?.close().await;
        Ok(())
    }

    /// Supervises it: waits for the end of its server process and restarts it, with backoff.
    /// Never returns; drop it to end it.
    pub async fn keep_running(&self) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.ensure_running().await {
                Ok(()) => {
                    if let Some(running) = postmaster::Postmaster::find(&self.folder) {
                        pause = PAUSE_MIN;
                        running.ended().await;
                        tracing::error!("{} ended; restarting it", self.kind.title());
                        continue;
                    }
                }
                Err(error) => tracing::error!(%error, "{} does not run", self.kind.title()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Stops it cleanly, with its connections. `fsa serve` leaves it running.
    ///
    /// # Errors
    /// It does not end within two minutes.
    pub async fn stop(&self) -> Result<()> {
        postmaster::stop(self, STOP_TIMEOUT).await
    }

    /// Connects to one of its databases as its superuser.
    ///
    /// # Errors
    /// It does not answer within 5 s, or refuses.
    pub async fn connect(&self, database: &str) -> Result<PgConnection> {
        let options = self.connect_options(database);
        tokio::time::timeout(ANSWER_TIMEOUT, PgConnection::connect_with(&options))
            .await
            .map_err(|_| PostgresError::Slow {
                what: format!("an answer of {}", self.kind.title()),
                seconds: ANSWER_TIMEOUT.as_secs(),
                advice: format!("its log is in {}", self.logs().display()),
            })?
            .map_err(PostgresError::sql(format!(
                "{} cannot be reached",
                self.kind.title()
            )))
    }

    /// Makes a database where it is missing. For the control cluster.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn ensure_database(&self, name: &str) -> Result<()> {
        let mut connection = self.connect("postgres").await?;
        let statement = format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""));
        let made = sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await;
        let _ = connection.close().await;
        match made {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P04") => Ok(()),
            made => made.map(drop).map_err(PostgresError::sql(format!(
                "the database {name} cannot be created"
            ))),
        }
    }

    /// Whether its server process is alive and has started. Reads two files: cheap enough before
    /// each use. Must be called in a tokio runtime.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        postmaster::Postmaster::find(&self.folder).is_some_and(|running| running.is_ready(&self.folder))
    }

    /// Whether it accepts connections.
    async fn is_ready(&self) -> bool {
        let answer = async {
            // Cheaper than sqlx's retries where nothing listens.
            drop(tokio::net::UnixStream::connect(self.socket()).await.ok()?);
            let connection = PgConnection::connect_with(&self.connect_options("postgres"))
                .await
                .ok()?;
            let _ = connection.close().await;
            Some(true)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answer)
            .await
            .ok()
            .flatten()
            .unwrap_or(false)
    }

    /// Reloads changed settings in a running server.
    async fn refresh(&self) -> Result<()> {
        if !initialize::write_configuration(self, &self.folder)? {
            return Ok(());
        }
        let mut connection = self.connect("postgres").await?;
        sqlx::query("SELECT pg_reload_conf()")
            .execute(&mut connection)
            .await
            .map_err(PostgresError::sql(
                "PostgreSQL does not reload its changed settings",
            ))?;
        let _ = connection.close().await;
        Ok(())
    }

    /// Waits for the lock that excludes other starters of this cluster; the kernel releases it when
    /// its holder dies.
    async fn lock(&self) -> Result<fs::File> {
        let path = self
            .settings
            .data
            .join("run")
            .join(format!("{}.lock", self.kind.name()));
        let what = format!("{} cannot be locked", path.display());
        let file = fs::File::create(&path).map_err(PostgresError::io(what.clone()))?;
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
        match tokio::time::timeout(LOCK_TIMEOUT, locked).await {
            Ok(Ok(locked)) => locked.map_err(PostgresError::io(what)),
            Ok(Err(_)) => Err(PostgresError::io(what)(io::Error::other("the task ended"))),
            Err(_) => Err(PostgresError::Slow {
                what: format!("another start of {}", self.kind.title()),
                seconds: LOCK_TIMEOUT.as_secs(),
                advice: format!("find the process that holds {} with `fuser`", path.display()),
            }),
        }
    }

    fn check_paths(&self) -> Result<()> {
        let path = self.socket();
        let length = path.as_os_str().as_bytes().len();
        if length > SOCKET_PATH_MAX {
            return Err(PostgresError::SocketPathTooLong { path, length });
        }
        Ok(())
    }

    fn check_user(&self) -> Result<()> {
        match self.uid() {
            0 => Err(PostgresError::Root),
            _ => self.system_user().map(drop),
        }
    }

    fn uid(&self) -> u32 {
        self.settings
            .run_as
            .map_or_else(|| rustix::process::geteuid().as_raw(), |(uid, _)| uid)
    }

    /// The name of the user that it runs as.
    pub(super) fn system_user(&self) -> Result<String> {
        let uid = self.uid();
        nix::unistd::User::from_uid(uid.into())
            .ok()
            .flatten()
            .map(|user| user.name)
            .ok_or(PostgresError::NamelessUser { uid })
    }

    /// Gives a file to the user that it runs as.
    pub(super) fn own(&self, path: &Path) -> io::Result<()> {
        match self.settings.run_as {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// One of PostgreSQL's programs, with a clean environment: that of `fsa serve` may hold secrets,
    /// and PG* variables would change the program's behavior.
    pub(super) fn command(&self, installation: &Installation, program: &str) -> Command {
        let mut command = Command::new(installation.bin.join(program));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir("/")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some((uid, gid)) = self.settings.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs a program to its end.
    pub(super) async fn run(&self, mut command: Command, what: &str, timeout: Duration) -> Result<()> {
        let program = command.as_std().get_program().to_owned();
        let output = tokio::time::timeout(timeout, command.output())
            .await
            .map_err(|_| PostgresError::Slow {
                what: what.to_owned(),
                seconds: timeout.as_secs(),
                advice: "the disk may be slow or busy".to_owned(),
            })?
            .map_err(PostgresError::io(format!(
                "{} cannot be run",
                Path::new(&program).display()
            )))?;
        if output.status.success() {
            return Ok(());
        }
        let output = format!(
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let user = self.system_user().unwrap_or_default();
        Err(PostgresError::from_output(what, &output, &self.folder, &user))
    }
}
