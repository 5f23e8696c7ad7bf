//! Connection pool for one port of one start of a sandbox.
//!
//! After a restart of the sandbox its route has a new pool; the old one is dropped with its last user. A connection is
//! checked before it is reused, and is closed earlier than common servers close theirs.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fsa_driver::{BoxConnection, DriverError, Endpoint, SharedDriver};
use fsa_model::SandboxRef;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{http1_connection::Http1Connection, tls};

/// Maximum number of idle connections.
const MAX_IDLE: usize = 128;
/// Idle timeout. Node closes after 5 s, gunicorn after 2, most others after 15 to 75.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum number of requests and tunnels in flight to one port.
const MAX_IN_FLIGHT: usize = 2048;
/// Minimum interval between two probes for TLS after responses with status 400.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Timeout for connecting into a sandbox.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Upstream {
    driver: SharedDriver,
    sandbox: SandboxRef,
    port: u16,
    pool: Mutex<Pool>,
    in_flight: AtomicUsize,
    /// The application speaks HTTPS.
    tls: AtomicBool,
    /// The time of the last probe for TLS after a response with status 400.
    probed: Mutex<Option<Instant>>,
    /// Reference to itself for the task that closes idle connections.
    this: Weak<Self>,
}

#[derive(Default)]
struct Pool {
    /// The connection used last is at the end.
    idle: Vec<(Http1Connection, Instant)>,
    /// The task that closes idle connections runs.
    has_task: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Unreachable {
    /// The driver reports the reason.
    Driver(DriverError),
    Timeout,
    Protocol(hyper::Error),
}

/// Counts one request or tunnel in flight for as long as it lives.
pub(super) struct InFlight(Arc<Upstream>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstream {
    pub(super) fn new(driver: SharedDriver, sandbox: SandboxRef, port: u16) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            driver,
            sandbox,
            port,
            pool: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            tls: AtomicBool::new(false),
            probed: Mutex::default(),
            this: this.clone(),
        })
    }

    /// A permit for one more request in flight; `None` at the limit.
    pub(super) fn begin(self: &Arc<Self>) -> Option<InFlight> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let permit = InFlight(Arc::clone(self));
        (before < MAX_IN_FLIGHT).then_some(permit)
    }

    /// An idle connection that is still usable.
    pub(super) fn take(&self) -> Option<Http1Connection> {
        loop {
            let (mut connection, since) = self.pool.lock().idle.pop()?;
            if since.elapsed() < IDLE_TIMEOUT && connection.is_usable() {
                return Some(connection);
            }
        }
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Http1Connection, Unreachable> {
        let mut connection = self.open().await?;
        if self.uses_tls() {
            connection = match self.start_tls(connection).await {
                Some(secured) => secured,
                // Another application listens on the port now.
                None => {
                    self.tls.store(false, Ordering::Relaxed);
                    self.open().await?
                }
            };
        }
        Http1Connection::open(connection)
            .await
            .map_err(Unreachable::Protocol)
    }

    /// Whether new connections speak TLS.
    pub(super) fn uses_tls(&self) -> bool {
        self.tls.load(Ordering::Relaxed)
    }

    /// Whether to probe for TLS after a response with status 400, which alone proves nothing. Limits the rate of probes.
    pub(super) fn is_probe_due(&self) -> bool {
        let mut probed = self.probed.lock();
        let due = probed.is_none_or(|at| at.elapsed() >= PROBE_INTERVAL);
        if due {
            *probed = Some(Instant::now());
        }
        due
    }

    /// Probes whether the application speaks HTTPS. If it does, new connections use TLS from now on.
    pub(super) async fn detect_tls(&self) -> bool {
        if self.uses_tls() {
            return true;
        }
        let Ok(connection) = self.open().await else {
            return false;
        };
        let is_tls = self.start_tls(connection).await.is_some();
        if is_tls {
            self.tls.store(true, Ordering::Relaxed);
        }
        is_tls
    }

    async fn start_tls(&self, connection: BoxConnection) -> Option<BoxConnection> {
        tokio::time::timeout(CONNECT_TIMEOUT, tls::connect(connection))
            .await
            .ok()?
    }

    async fn open(&self) -> Result<BoxConnection, Unreachable> {
        let connect = self.driver.connect(&self.sandbox, Endpoint::Port(self.port));
        tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| Unreachable::Timeout)?
            .map_err(Unreachable::Driver)
    }

    /// Returns a connection to the pool, if it is usable for another request.
    pub(super) fn release(&self, mut connection: Http1Connection) {
        if !connection.is_usable() {
            return;
        }
        let spawn = {
            let mut pool = self.pool.lock();
            if pool.idle.len() >= MAX_IDLE {
                return;
            }
            pool.idle.push((connection, Instant::now()));
            !std::mem::replace(&mut pool.has_task, true)
        };
        if spawn {
            tokio::spawn(close_idle(self.this.clone()));
        }
    }
}

/// Closes idle connections; ends when there are none.
async fn close_idle(upstream: Weak<Upstream>) {
    loop {
        tokio::time::sleep(IDLE_TIMEOUT).await;
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        let mut pool = upstream.pool.lock();
        let old = pool
            .idle
            .iter()
            .take_while(|(_, since)| since.elapsed() >= IDLE_TIMEOUT)
            .count();
        let old: Vec<_> = pool.idle.drain(..old).collect();
        if pool.idle.is_empty() {
            pool.has_task = false;
            return;
        }
        drop(pool);
        drop(old);
    }
}
