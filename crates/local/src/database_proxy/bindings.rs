//! Bindings of the database proxy: a listening socket per sandbox, and the volume whose server it
//! reaches.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use fsa_model::{ResourceName, VolumeId};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{relay::BufferPool, servers::Servers, session};

/// Maximum of a sandbox's concurrent authorized connections. PostgreSQL's own limit depends on the project's
/// size; this bounds servers that admit more, and connections that never sign in.
pub const CONNECTIONS_MAX: usize = 64;
/// Maximum of additional connections that have not sent a start-up packet yet. Further ones wait in the
/// socket's backlog.
const UNAUTHORIZED_MAX: usize = 64;
/// Pause after a failed accept (no descriptors left).
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A sandbox's listening socket and its database.
pub struct Binding {
    pub resource: ResourceName,
    pub volume: VolumeId,
    pub role: String,
    listener: OwnedFd,
    connection_slots: Arc<Semaphore>,
    keys: Mutex<HashSet<Vec<u8>>>,
    /// Cancelled to stop accepting; connections continue.
    stop_accepting: CancellationToken,
    /// Cancelled to end the connections.
    disconnect: CancellationToken,
}

impl Binding {
    /// Reserves a slot for one more connection, unless all are in use.
    pub fn acquire_connection_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connection_slots).try_acquire_owned().ok()
    }

    /// Forwards cancel requests with this key until the result is dropped.
    pub fn register_cancel_key(self: &Arc<Self>, key: Vec<u8>) -> CancelKeyGuard {
        self.keys.lock().insert(key.clone());
        CancelKeyGuard {
            binding: Arc::clone(self),
            key,
        }
    }

    pub fn has_cancel_key(&self, key: &[u8]) -> bool {
        self.keys.lock().contains(key)
    }

    /// The current number of authorized connections.
    pub fn connections(&self) -> usize {
        CONNECTIONS_MAX - self.connection_slots.available_permits()
    }
}

/// A live connection's cancel key.
pub struct CancelKeyGuard {
    binding: Arc<Binding>,
    key: Vec<u8>,
}

impl Drop for CancelKeyGuard {
    fn drop(&mut self) {
        self.binding.keys.lock().remove(&self.key);
    }
}

/// The bindings of all sandboxes.
pub struct Bindings {
    servers: Servers,
    buffers: BufferPool,
    all: Mutex<BTreeMap<ResourceName, Arc<Binding>>>,
    /// The tasks of connections and sockets.
    pub tasks: TaskTracker,
}

impl Bindings {
    pub fn new(servers: Servers) -> Self {
        Self {
            servers,
            buffers: BufferPool::default(),
            all: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Accepts from `listener`. Replaces an earlier binding, whose connections continue.
    ///
    /// # Errors
    /// The descriptor is not a listening TCP socket.
    pub fn bind(
        self: &Arc<Self>,
        resource: ResourceName,
        volume: VolumeId,
        role: String,
        listener: OwnedFd,
    ) -> io::Result<()> {
        use rustix::net::{SocketType, sockopt};
        let listens =
            sockopt::socket_acceptconn(&listener)? && sockopt::socket_type(&listener)? == SocketType::STREAM;
        if !listens {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket does not listen",
            ));
        }
        let accepting = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
        // Fails if the socket is not TCP.
        accepting.local_addr()?;
        accepting.set_nonblocking(true)?;
        let accepting = TcpListener::from_std(accepting)?;
        let binding = Arc::new(Binding {
            resource: resource.clone(),
            volume,
            role,
            listener,
            connection_slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            keys: Mutex::default(),
            stop_accepting: CancellationToken::new(),
            disconnect: CancellationToken::new(),
        });
        let before = self.all.lock().insert(resource, Arc::clone(&binding));
        if let Some(before) = before {
            before.stop_accepting.cancel();
        }
        self.tasks.spawn(accept(Arc::clone(self), binding, accepting));
        Ok(())
    }

    /// Closes the socket and the connections of a resource.
    pub fn unbind(&self, resource: &ResourceName) {
        if let Some(binding) = self.all.lock().remove(resource) {
            binding.stop_accepting.cancel();
            binding.disconnect.cancel();
        }
    }

    pub fn is_bound(&self, resource: &ResourceName) -> bool {
        self.all.lock().contains_key(resource)
    }

    pub fn list(&self) -> Vec<Arc<Binding>> {
        self.all.lock().values().cloned().collect()
    }

    /// Stops accepting and returns the sockets, for a successor. Connections continue.
    pub fn release_all(&self) -> Vec<(Arc<Binding>, OwnedFd)> {
        let all = std::mem::take(&mut *self.all.lock());
        let release = |binding: Arc<Binding>| {
            binding.stop_accepting.cancel();
            let listener = binding.listener.try_clone().ok()?;
            Some((binding, listener))
        };
        all.into_values().filter_map(release).collect()
    }
}

async fn accept(bindings: Arc<Bindings>, binding: Arc<Binding>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX + UNAUTHORIZED_MAX));
    let accepting = async {
        while let Ok(slot) = Arc::clone(&room).acquire_owned().await {
            match listener.accept().await {
                Ok((client, _)) => {
                    let (bindings_, binding) = (Arc::clone(&bindings), Arc::clone(&binding));
                    bindings.tasks.spawn(async move {
                        let disconnect = binding.disconnect.clone();
                        let session = session::serve(client, binding, &bindings_.servers, &bindings_.buffers);
                        // Boxed, so that an idle task is small.
                        let _ = disconnect.run_until_cancelled(Box::pin(session)).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, resource = %binding.resource, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
                }
            }
        }
    };
    let _ = binding.stop_accepting.run_until_cancelled(accepting).await;
}
