//! Start requests of the database proxy to `fsa serve`: one connection and one message each.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixListener as StdListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use fsa_model::{Failure, VolumeId};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_util::task::AbortOnDropHandle;

use super::wire::Channel;

/// Requests that wait at once; further ones wait in the socket's backlog.
const REQUESTS_MAX: usize = 512;
/// For a client to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept (no descriptors left).
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Starts database servers.
#[async_trait]
pub trait StartServer: Send + Sync {
    /// Starts the server of a volume where it does not run, and returns when it accepts clients.
    async fn start(&self, volume: VolumeId) -> Result<(), Failure>;
}

/// The socket at which `fsa serve` takes the requests.
#[must_use]
pub fn socket(data: &Path) -> PathBuf {
    data.join("run").join("databases.sock")
}

#[derive(Debug, Serialize, Deserialize)]
struct StartRequest {
    volume: VolumeId,
}

#[derive(Debug, Serialize, Deserialize)]
struct StartResponse {
    failure: Option<Failure>,
}

/// Why a server was not started.
#[derive(Debug)]
pub enum StartError {
    Failed(Failure),
    /// No `fsa serve` runs, or it was restarted.
    NoAnswer(io::Error),
}

/// Has a server started.
///
/// # Errors
/// It cannot be started, or nothing answers.
pub async fn start(socket: &Path, volume: VolumeId) -> Result<(), StartError> {
    let answer = async {
        let mut channel = Channel::new(UnixStream::connect(socket).await?);
        channel.send(&StartRequest { volume }, None).await?;
        let answer: Option<StartResponse> = channel.receive().await?;
        answer.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    };
    match answer.await.map_err(StartError::NoAnswer)?.failure {
        Some(failure) => Err(StartError::Failed(failure)),
        None => Ok(()),
    }
}

/// Takes requests until the result is dropped.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(data: &Path, servers: Arc<dyn StartServer>) -> io::Result<AbortOnDropHandle<()>> {
    let path = socket(data);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(REQUESTS_MAX));
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok(slot) = Arc::clone(&room).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let servers = Arc::clone(&servers);
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &*servers).await {
                            tracing::debug!(%error, "a start request broke");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no start request can be accepted");
                    tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
                }
            }
        }
    })))
}

async fn answer(stream: UnixStream, servers: &dyn StartServer) -> io::Result<()> {
    let mut channel = Channel::new(stream);
    let request = tokio::time::timeout(REQUEST_TIMEOUT, channel.receive::<StartRequest>()).await??;
    let Some(StartRequest { volume }) = request else {
        return Ok(());
    };
    let failure = servers.start(volume).await.err();
    channel.send(&StartResponse { failure }, None).await
}

#[cfg(test)]
mod tests {
    use fsa_model::FailureKind;

    use super::*;

    struct Fake(VolumeId);

    #[async_trait]
    impl StartServer for Fake {
        async fn start(&self, volume: VolumeId) -> Result<(), Failure> {
            if volume == self.0 {
                return Ok(());
            }
            Err(Failure::new(FailureKind::Input, "the disk is full"))
        }
    }

    #[tokio::test]
    async fn a_request_is_answered_with_the_result_of_the_start() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("run")).unwrap();
        let volume = VolumeId::generate();
        let path = socket(data.path());
        assert!(matches!(start(&path, volume).await, Err(StartError::NoAnswer(_))));
        let _serving = serve(data.path(), Arc::new(Fake(volume))).unwrap();

        start(&path, volume).await.unwrap();

        let refused = start(&path, VolumeId::generate()).await;
        assert!(matches!(refused, Err(StartError::Failed(failure)) if failure.message == "the disk is full"));
    }
}
