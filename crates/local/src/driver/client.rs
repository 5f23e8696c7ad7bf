//! Client of the runner: requests, responses, notifications.

use std::{
    collections::HashMap,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    process::Child,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use fsa_driver::DriverError;
use fsa_model::{Failure, FailureKind};
use parking_lot::Mutex;
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{broadcast, oneshot, watch},
};

use crate::{
    protocol::{self, Call, Hello, Message, Push, Request, Response, StorageStatus},
    runner::{self, RunnerConfig},
};

/// Maximum number of unread notifications. A slower subscriber gets an error.
const NOTIFICATIONS_MAX: usize = 1024;
/// Unmounting writes what is in memory to the disk.
const END: Duration = Duration::from_secs(120);

/// A started runner that has no client yet.
pub struct RunnerLink {
    socket: OwnedFd,
    child: Child,
}

impl RunnerLink {
    /// Starts the runner: `program arguments…`, which must call [`runner::entry`]. This is the
    /// last operation that needs privileges; drop them afterwards.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(program: &std::path::Path, arguments: &[String], config: &RunnerConfig) -> io::Result<Self> {
        let (ours, theirs) = protocol::pair()?;
        let child = runner::spawn(program, arguments, &theirs, config)?;
        Ok(Self { socket: ours, child })
    }
}

type Waiting = HashMap<u64, oneshot::Sender<Result<(Response, Vec<OwnedFd>), Failure>>>;

/// A connection to the runner, which ends when this is dropped.
pub struct Client {
    shared: Arc<Shared>,
    reader: tokio::task::AbortHandle,
    ended: watch::Receiver<bool>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // The reader holds the only other reference to the socket.
        self.reader.abort();
    }
}

struct Shared {
    /// A SOCK_SEQPACKET socket, for which tokio has no type; read and written by [`protocol`].
    socket: UnixStream,
    next: AtomicU64,
    /// `None` after the runner has ended.
    waiting: Mutex<Option<Waiting>>,
    /// A worker of the runner has reported that it begins.
    started: AtomicBool,
    /// Why the runner ended, if it reported that.
    end_reason: OnceLock<Failure>,
    pushes: broadcast::Sender<Push>,
}

impl Client {
    /// Connects to a runner, on the current tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn new(link: RunnerLink) -> io::Result<Self> {
        let RunnerLink { socket, mut child } = link;
        rustix::io::ioctl_fionbio(&socket, true)?;
        let shared = Arc::new(Shared {
            socket: UnixStream::from_std(socket.into())?,
            next: AtomicU64::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
            started: AtomicBool::new(false),
            end_reason: OnceLock::new(),
            pushes: broadcast::channel(NOTIFICATIONS_MAX).0,
        });
        let reader = tokio::spawn(read(Arc::clone(&shared))).abort_handle();
        let (end, ended) = watch::channel(false);
        thread::Builder::new()
            .name("runner-end".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                if let Ok(status) = child.wait() {
                    tracing::info!(%status, "the runner ended");
                }
                let _ = end.send(true);
            })?;
        Ok(Self {
            shared,
            reader,
            ended,
        })
    }

    /// Connects to a runner, and waits until it has started, however long it reports that it goes on
    /// ([`Push::Busy`]).
    ///
    /// # Errors
    /// The runner's report of why it cannot start.
    pub async fn greet(link: RunnerLink) -> Result<Arc<Self>, DriverError> {
        let client = Self::new(link).map_err(|error| {
            DriverError::new(
                FailureKind::Machine,
                format!("the runner's socket cannot be watched ({error})"),
            )
        })?;
        let mut pushes = client.pushes();
        loop {
            match client.hello().await {
                Ok(_) => return Ok(Arc::new(client)),
                Err(error) if error.failure.kind == FailureKind::Transient && was_busy(&mut pushes) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the runner, and waits until it has unmounted the storage pool.
    ///
    /// # Errors
    /// It does not end.
    pub async fn end(&self) -> Result<(), DriverError> {
        let stuck = || {
            DriverError::new(
                FailureKind::Machine,
                "the runner does not end; its disk may be slow",
            )
        };
        self.reader.abort();
        rustix::net::shutdown(&self.shared.socket, rustix::net::Shutdown::Write)
            .map_err(|error| stuck().because(io::Error::from(error)))?;
        let mut ended = self.ended.clone();
        let waited = tokio::time::timeout(END, ended.wait_for(|ended| *ended)).await;
        waited
            .map_err(|_| stuck())?
            .map_err(|error| stuck().because(error))?;
        Ok(())
    }

    /// Subscribes to the runner's notifications, from now on.
    #[must_use]
    pub fn pushes(&self) -> broadcast::Receiver<Push> {
        self.shared.pushes.subscribe()
    }

    /// The first request.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn hello(&self) -> Result<Hello, DriverError> {
        match self
            .call(
                Request::Hello {
                    version: protocol::VERSION,
                },
                &[],
                Duration::from_secs(30),
            )
            .await?
        {
            (Response::Hello(hello), _) => Ok(*hello),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Size and fill of the storage pool.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn storage(&self) -> Result<StorageStatus, DriverError> {
        match self.call(Request::Storage, &[], Duration::from_secs(30)).await? {
            (Response::Storage(status), _) => Ok(status),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Sends a request, and waits for the response.
    ///
    /// # Errors
    /// The runner's failure; `Transient` if it is being restarted, or at the timeout.
    pub async fn call(
        &self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<(Response, Vec<OwnedFd>), DriverError> {
        let shared = &self.shared;
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, response) = oneshot::channel();
        match shared.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(shared.gone().into()),
        };
        let _remove_on_drop = RemoveOnDrop { shared, id };
        let call = Call { id, request };
        let wait = async {
            let sent = shared
                .socket
                .async_io(Interest::WRITABLE, || {
                    protocol::send(&shared.socket, &call, descriptors)
                })
                .await;
            match sent {
                // The runner has ended; its last messages can still be read.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(DriverError::from(shared.gone()).because(error));
                }
                _ => {}
            }
            response
                .await
                .map_err(|_| DriverError::from(shared.gone()))?
                .map_err(DriverError::from)
        };
        tokio::time::timeout(timeout, wait).await.map_err(|_| {
            DriverError::new(
                FailureKind::Transient,
                "the runner takes too long; the machine may be overloaded, or its disk slow",
            )
        })?
    }

    /// Sends a request whose response is [`Response::Done`].
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn done(
        &self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<(), DriverError> {
        match self.call(request, descriptors, timeout).await? {
            (Response::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }
}

impl Shared {
    fn take(&self, message: Message, descriptors: Vec<OwnedFd>) {
        match message {
            Message::Reply { id, result } => {
                let sender = self
                    .waiting
                    .lock()
                    .as_mut()
                    .and_then(|waiting| waiting.remove(&id));
                if let Some(sender) = sender {
                    let _ = sender.send(result.map(|response| (response, descriptors)));
                }
            }
            Message::Push(push) => {
                if let Push::Failed(failure) = &push {
                    let _ = self.end_reason.set(failure.clone());
                }
                // Requests before the start of the first worker wait in the socket for it.
                if push == Push::WorkerStarted && self.started.swap(true, Ordering::Relaxed) {
                    self.fail_all("the runner was restarted; the request is retried");
                }
                let _ = self.pushes.send(push);
            }
        }
    }

    /// The failure after the runner has ended.
    fn gone(&self) -> Failure {
        self.end_reason.get().cloned().unwrap_or_else(|| {
            protocol::machine(
                "the runner has ended, so no sandbox can be started or reached: restart fsa serve",
            )
        })
    }

    /// Fails the requests to a worker that has ended.
    fn fail_all(&self, why: &str) {
        let failed: Vec<_> = match self.waiting.lock().as_mut() {
            Some(waiting) => waiting.drain().collect(),
            None => return,
        };
        for (_, sender) in failed {
            let _ = sender.send(Err(Failure::new(FailureKind::Transient, why)));
        }
    }
}

/// Whether the runner reported since the last call that its start goes on.
fn was_busy(pushes: &mut broadcast::Receiver<Push>) -> bool {
    std::iter::from_fn(|| pushes.try_recv().ok()).any(|push| push == Push::Busy)
}

/// Removes a request when its caller stops waiting.
struct RemoveOnDrop<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.shared.waiting.lock().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

async fn read(shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    loop {
        let received = shared
            .socket
            .async_io(Interest::READABLE, || {
                protocol::receive::<Message>(&shared.socket, &mut buffer)
            })
            .await;
        match received {
            Ok(Some(packet)) => shared.take(packet.message, packet.descriptors),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(%error, "a message of the runner cannot be parsed");
            }
            Ok(None) | Err(_) => {
                tracing::error!(
                    "the runner is gone: no sandbox can be started or stopped until fsa serve is restarted"
                );
                *shared.waiting.lock() = None;
                return;
            }
        }
    }
}

/// A response of the wrong kind.
pub(crate) fn unexpected(response: &Response) -> DriverError {
    tracing::error!(?response, "unexpected response from the runner");
    DriverError::new(FailureKind::Internal, "the runner sent an unexpected response")
}
