//! Client of the database proxy; starts the proxy if it does not run.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, net::UnixListener as StdListener},
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use fsa_model::{Failure, FailureKind, ResourceName, VolumeId};
use tokio::net::UnixStream;

use super::{
    DatabaseProxy, DatabaseProxyConfig,
    wire::{BindingInfo, Channel, Request, Response, VERSION},
};

/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of the wait for another `fsa serve` that starts the proxy.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// The kernel's limit for a Unix socket's path (unix(7): `sun_path` with its NUL).
const SOCKET_PATH_MAX: usize = 107;

/// Why the proxy could not be started or reached.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseProxyError {
    #[error("the database proxy cannot be started: {what}: {source}")]
    Start {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "the path of the database proxy's socket, {0}, is longer than the 107 bytes that the system allows; choose a data folder with a shorter path"
    )]
    PathTooLong(PathBuf),
    #[error("the database proxy does not run")]
    NotRunning,
    #[error("the database proxy does not answer ({0})")]
    NoAnswer(#[source] io::Error),
    #[error("the database proxy refused the request: {0}")]
    Refused(String),
}

/// The result of a request to the proxy.
pub type Result<T> = std::result::Result<T, DatabaseProxyError>;

impl From<DatabaseProxyError> for Failure {
    fn from(error: DatabaseProxyError) -> Self {
        let kind = match error {
            DatabaseProxyError::Start { .. } | DatabaseProxyError::PathTooLong(_) => FailureKind::Machine,
            DatabaseProxyError::NotRunning | DatabaseProxyError::NoAnswer(_) => FailureKind::Transient,
            DatabaseProxyError::Refused(_) => FailureKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

/// Client of the proxy. Each request is a separate connection, so that it reaches a restarted proxy at once.
/// If the proxy is gone, the request starts it.
#[derive(Clone, Debug)]
pub struct DatabaseProxyClient {
    config: DatabaseProxyConfig,
    program: PathBuf,
    arguments: Vec<String>,
}

/// Finds the proxy, or starts it: `program` with `arguments` must call [`super::entry`]. A proxy of another
/// version hands its sockets over to a new one and ends with its last connection. Any number of processes may
/// call this at once.
///
/// # Errors
/// The proxy cannot be started, or does not answer.
pub async fn ensure_running(
    config: &DatabaseProxyConfig,
    program: &Path,
    arguments: &[String],
) -> Result<DatabaseProxyClient> {
    let client = DatabaseProxyClient {
        config: config.clone(),
        program: program.to_owned(),
        arguments: arguments.to_vec(),
    };
    client.ensure_running().await?;
    Ok(client)
}

/// Ends the proxy of a data folder, and all connections through it. Idempotent.
///
/// # Errors
/// The proxy runs and does not answer.
pub async fn end(data: &Path) -> Result<()> {
    match ask(&super::control_socket(data), &Request::End, None).await {
        Ok(_) | Err(DatabaseProxyError::NotRunning) => Ok(()),
        Err(error) => Err(error),
    }
}

impl DatabaseProxyClient {
    /// Lets connections to `listener` use the database server of `volume`, and nothing else; `role` is the
    /// project's. Replaces an earlier binding of the sandbox. The socket keeps its network namespace alive until
    /// [`Self::unbind`].
    ///
    /// # Errors
    /// The proxy cannot be reached, or `listener` does not listen.
    pub async fn bind(
        &self,
        resource: &ResourceName,
        volume: VolumeId,
        role: &str,
        listener: OwnedFd,
    ) -> Result<()> {
        let request = Request::Bind {
            resource: resource.clone(),
            volume,
            role: role.to_owned(),
        };
        self.ask(&request, Some(&listener)).await.and_then(done)
    }

    /// Closes the sandbox's socket and its connections. Idempotent.
    ///
    /// # Errors
    /// The proxy cannot be reached.
    pub async fn unbind(&self, resource: &ResourceName) -> Result<()> {
        let request = Request::Unbind {
            resource: resource.clone(),
        };
        self.ask(&request, None).await.and_then(done)
    }

    /// Whether connections of the sandbox are accepted.
    ///
    /// # Errors
    /// The proxy cannot be reached.
    pub async fn is_bound(&self, resource: &ResourceName) -> Result<bool> {
        let request = Request::IsBound {
            resource: resource.clone(),
        };
        match self.ask(&request, None).await? {
            Response::IsBound { bound } => Ok(bound),
            other => Err(unexpected(&other)),
        }
    }

    /// Lists all bindings.
    ///
    /// # Errors
    /// The proxy cannot be reached.
    pub async fn list(&self) -> Result<Vec<BindingInfo>> {
        match self.ask(&Request::List, None).await? {
            Response::List { bindings } => Ok(bindings),
            other => Err(unexpected(&other)),
        }
    }

    /// The process id of the proxy.
    ///
    /// # Errors
    /// The proxy cannot be reached.
    pub async fn process(&self) -> Result<u32> {
        match self.ask(&Request::Hello, None).await? {
            Response::Hello { process, .. } => Ok(process),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, request: &Request, descriptor: Option<&OwnedFd>) -> Result<Response> {
        match ask(&self.config.control, request, descriptor).await {
            Err(DatabaseProxyError::NotRunning) => {
                tracing::warn!("the database proxy is gone; restarting it");
                self.ensure_running().await?;
                ask(&self.config.control, request, descriptor).await
            }
            answer => answer,
        }
    }

    async fn ensure_running(&self) -> Result<()> {
        if self.is_current().await? {
            return Ok(());
        }
        let _lock = self.lock().await?;
        if self.is_current().await? {
            return Ok(());
        }
        let handed_over = match hand_over(&self.config.control).await {
            Ok(handed_over) => handed_over,
            Err(DatabaseProxyError::NotRunning) => Vec::new(),
            // The proxy hangs, or is another program. Its successor starts without its sockets, and the
            // reconciler binds the sandboxes again.
            Err(error) => {
                tracing::warn!(%error, "the earlier database proxy does not hand over its sockets");
                Vec::new()
            }
        };
        self.spawn()?;
        for (binding, listener) in handed_over {
            // One of an earlier release names no volume: the reconciler binds the sandbox again.
            let Some(volume) = binding.volume else {
                continue;
            };
            let request = Request::Bind {
                resource: binding.resource,
                volume,
                role: binding.role,
            };
            ask(&self.config.control, &request, Some(&listener))
                .await
                .and_then(done)?;
        }
        Ok(())
    }

    async fn is_current(&self) -> Result<bool> {
        match ask(&self.config.control, &Request::Hello, None).await {
            Ok(Response::Hello { version, .. }) => Ok(version == VERSION),
            Ok(_) | Err(DatabaseProxyError::NoAnswer(_) | DatabaseProxyError::NotRunning) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits for the lock that excludes other starters; the kernel releases it when its holder dies.
    async fn lock(&self) -> Result<fs::File> {
        let path = self.config.control.with_extension("lock");
        let what = format!("{} cannot be locked", path.display());
        let locked = tokio::task::spawn_blocking(move || {
            let file = fs::File::create(path)?;
            file.lock().map(|()| file)
        });
        match tokio::time::timeout(LOCK_TIMEOUT, locked).await {
            Ok(Ok(Ok(file))) => Ok(file),
            Ok(Ok(Err(source))) => Err(DatabaseProxyError::Start { what, source }),
            Ok(Err(_)) | Err(_) => Err(DatabaseProxyError::Start {
                what,
                source: io::ErrorKind::TimedOut.into(),
            }),
        }
    }

    /// Creates the control socket and starts the process on it. From then on clients can connect, before the
    /// process is ready.
    fn spawn(&self) -> Result<()> {
        let control = &self.config.control;
        if control.as_os_str().as_bytes().len() > SOCKET_PATH_MAX {
            return Err(DatabaseProxyError::PathTooLong(control.clone()));
        }
        let failed = |what: String| move |source| DatabaseProxyError::Start { what, source };
        match fs::remove_file(control) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(format!("{} cannot be removed", control.display()))(error));
            }
            _ => {}
        }
        let listener = StdListener::bind(control)
            .and_then(|listener| {
                fs::set_permissions(control, fs::Permissions::from_mode(0o600)).map(|()| listener)
            })
            .map_err(failed(format!("{} cannot be made", control.display())))?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.config.log)
            .map_err(failed(format!("{} cannot be opened", self.config.log.display())))?;
        let mut child = tokio::process::Command::new(&self.program)
            .args(&self.arguments)
            // The environment of `fsa serve` may hold secrets.
            .env_clear()
            .env(super::CONFIG_VARIABLE, self.config.encode())
            .current_dir("/")
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(failed(format!("{} cannot be run", self.program.display())))?;
        // Reaps the proxy if it ends before this process.
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                tracing::info!(%status, "the database proxy ended");
            }
        });
        Ok(())
    }
}

#[async_trait]
impl DatabaseProxy for DatabaseProxyClient {
    async fn bind(
        &self,
        resource: &ResourceName,
        volume: VolumeId,
        role: &str,
        listener: OwnedFd,
    ) -> std::result::Result<(), Failure> {
        Self::bind(self, resource, volume, role, listener)
            .await
            .map_err(Failure::from)
    }

    async fn unbind(&self, resource: &ResourceName) -> std::result::Result<(), Failure> {
        Self::unbind(self, resource).await.map_err(Failure::from)
    }

    async fn is_bound(&self, resource: &ResourceName) -> std::result::Result<bool, Failure> {
        Self::is_bound(self, resource).await.map_err(Failure::from)
    }
}

async fn ask(control: &Path, request: &Request, descriptor: Option<&OwnedFd>) -> Result<Response> {
    let asked = async {
        let mut channel = connect(control).await?;
        channel
            .send(request, descriptor)
            .await
            .map_err(DatabaseProxyError::NoAnswer)?;
        answer(&mut channel).await
    };
    tokio::time::timeout(REQUEST_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| Err(DatabaseProxyError::NoAnswer(io::ErrorKind::TimedOut.into())))
}

async fn hand_over(control: &Path) -> Result<Vec<(BindingInfo, OwnedFd)>> {
    let asked = async {
        let mut channel = connect(control).await?;
        channel
            .send(&Request::HandOver, None)
            .await
            .map_err(DatabaseProxyError::NoAnswer)?;
        let mut handed_over = Vec::new();
        loop {
            match answer(&mut channel).await? {
                Response::Done => return Ok(handed_over),
                Response::Bound(binding) => {
                    handed_over.extend(channel.descriptor().map(|listener| (binding, listener)))
                }
                other => return Err(unexpected(&other)),
            }
        }
    };
    tokio::time::timeout(REQUEST_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| Err(DatabaseProxyError::NoAnswer(io::ErrorKind::TimedOut.into())))
}

async fn connect(control: &Path) -> Result<Channel> {
    match UnixStream::connect(control).await {
        Ok(stream) => Ok(Channel::new(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Err(DatabaseProxyError::NotRunning)
        }
        Err(error) => Err(DatabaseProxyError::NoAnswer(error)),
    }
}

async fn answer(channel: &mut Channel) -> Result<Response> {
    let answer = channel.receive().await.map_err(DatabaseProxyError::NoAnswer)?;
    match answer.ok_or_else(|| DatabaseProxyError::NoAnswer(io::ErrorKind::UnexpectedEof.into()))? {
        Response::Refused { message } => Err(DatabaseProxyError::Refused(message)),
        answer => Ok(answer),
    }
}

fn done(answer: Response) -> Result<()> {
    match answer {
        Response::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(answer: &Response) -> DatabaseProxyError {
    DatabaseProxyError::Refused(format!("unexpected response ({answer:?})"))
}
