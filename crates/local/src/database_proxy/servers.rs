//! Connections of the database proxy to the servers of volumes, which it has started where they do
//! not run.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use fsa_model::{Failure, FailureKind, VolumeId};
use rustix::fs::{CWD, Mode, OFlags};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout_at},
};

use super::{
    starter::{self, StartError},
    startup::{self, Refusal},
};
use crate::runner::database::OPEN;

/// For a server to start; a crash may have to be recovered from first.
const START_TIMEOUT: Duration = Duration::from_secs(75);
/// For a `fsa serve` that is being restarted.
const STARTER_TIMEOUT: Duration = Duration::from_secs(20);
const STARTER_RETRY_PAUSE: Duration = Duration::from_millis(200);
/// A server may end between its start and the connection to it.
const ATTEMPTS_MAX: u32 = 5;

/// The servers of all volumes.
pub struct Servers {
    /// The folder of sockets. A path through its descriptor is short, whatever that of the data
    /// folder is: a Unix socket's path has at most 107 bytes (unix(7)).
    sockets: OwnedFd,
    starter: PathBuf,
}

impl Servers {
    /// # Errors
    /// The folder cannot be opened.
    pub fn new(sockets: &Path, starter: PathBuf) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            sockets: rustix::fs::openat(CWD, sockets, flags, Mode::empty())?,
            starter,
        })
    }

    /// Connects to a server that runs.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` where it does not.
    pub async fn connect_running(&self, volume: VolumeId) -> io::Result<UnixStream> {
        let folder = self.sockets.as_raw_fd();
        UnixStream::connect(format!("/proc/self/fd/{folder}/{volume}/{OPEN}")).await
    }

    /// Connects to the server of a volume, and has it started where it does not run.
    ///
    /// # Errors
    /// The refusal for the client.
    pub async fn connect(&self, volume: VolumeId) -> Result<UnixStream, Refusal> {
        let begun = Instant::now();
        let mut attempts = 0;
        loop {
            if let Ok(stream) = self.connect_running(volume).await {
                return Ok(stream);
            }
            match timeout_at(begun + START_TIMEOUT, starter::start(&self.starter, volume)).await {
                Ok(Ok(())) if attempts < ATTEMPTS_MAX => attempts += 1,
                Ok(Err(StartError::Failed(failure))) => return Err(refusal(&failure)),
                Ok(Err(StartError::NoAnswer(error))) => {
                    if begun.elapsed() > STARTER_TIMEOUT {
                        tracing::warn!(%volume, %error, "fsa serve does not start a database server");
                        return Err(Refusal::new(
                            startup::NOT_NOW,
                            "the database server is stopped, and fsa serve, which starts it, does not answer; \
                             try again when it runs",
                        ));
                    }
                    sleep(STARTER_RETRY_PAUSE).await;
                }
                Ok(Ok(())) | Err(_) => {
                    return Err(Refusal::new(
                        startup::NOT_NOW,
                        "the database server takes too long to start; try again in a few seconds",
                    ));
                }
            }
        }
    }
}

/// What a client gets of a failed start.
fn refusal(failure: &Failure) -> Refusal {
    let code = match failure.kind {
        FailureKind::Input => startup::RESOURCES,
        _ => startup::NOT_NOW,
    };
    Refusal::new(code, failure.message.clone())
}
