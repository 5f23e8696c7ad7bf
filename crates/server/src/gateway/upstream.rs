//! Connection pool for one port of one start of a sandbox.
//!
//! When the sandbox restarts, its route gets another pool, and the old one is dropped with its last user. A
//! connection is checked before it is reused, and is not kept for longer than common servers keep theirs.

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

use super::{http1_connection::Link, tls};

/// Maximum number of idle connections.
const IDLE_MOST: usize = 128;
/// Idle timeout. Node closes after 5 s, gunicorn after 2, most others after 15 to 75.
const IDLE_LONGEST: Duration = Duration::from_secs(15);
/// Maximum number of requests and tunnels in flight to one port.
const UNDER_WAY_MOST: usize = 2048;
/// Pause between two probes for TLS after an answer that hints at it.
const PROBE_AGAIN: Duration = Duration::from_secs(5);
/// Timeout for connecting into a sandbox.
const CONNECT: Duration = Duration::from_secs(10);

pub(super) struct Upstream {
    driver: SharedDriver,
    sandbox: SandboxRef,
    port: u16,
    pool: Mutex<Pool>,
    under_way: AtomicUsize,
    /// The application speaks HTTPS.
    tls: AtomicBool,
    /// When a hint at HTTPS was last followed up.
    probed: Mutex<Option<Instant>>,
    /// For the task that closes idle connections.
    this: Weak<Self>,
}

#[derive(Default)]
struct Pool {
    /// The connection used last is at the end.
    idle: Vec<(Link, Instant)>,
    swept: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Unreachable {
    /// The driver gives the reason.
    Driver(DriverError),
    Silent,
    Protocol(hyper::Error),
}

/// Counts one request or tunnel in flight for as long as it lives.
pub(super) struct UnderWay(Arc<Upstream>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstream {
    pub(super) fn new(driver: SharedDriver, sandbox: SandboxRef, port: u16) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            driver,
            sandbox,
            port,
            pool: Mutex::default(),
            under_way: AtomicUsize::new(0),
            tls: AtomicBool::new(false),
            probed: Mutex::default(),
            this: this.clone(),
        })
    }

    /// A permit for one more request in flight; `None` at the limit.
    pub(super) fn begin(self: &Arc<Self>) -> Option<UnderWay> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let place = UnderWay(Arc::clone(self));
        (before < UNDER_WAY_MOST).then_some(place)
    }

    /// An idle connection that is still usable.
    pub(super) fn take(&self) -> Option<Link> {
        loop {
            let (mut link, since) = self.pool.lock().idle.pop()?;
            if since.elapsed() < IDLE_LONGEST && link.is_usable() {
                return Some(link);
            }
        }
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Link, Unreachable> {
        let mut connection = self.open().await?;
        if self.speaks_tls() {
            connection = match self.secured(connection).await {
                Some(secured) => secured,
                // Another application listens now.
                None => {
                    self.tls.store(false, Ordering::Relaxed);
                    self.open().await?
                }
            };
        }
        Link::open(connection).await.map_err(Unreachable::Protocol)
    }

    /// Whether new connections speak TLS.
    pub(super) fn speaks_tls(&self) -> bool {
        self.tls.load(Ordering::Relaxed)
    }

    /// Whether an answer that is only a hint at TLS is followed up: not each of many.
    pub(super) fn is_probe_due(&self) -> bool {
        let mut probed = self.probed.lock();
        let due = probed.is_none_or(|at| at.elapsed() >= PROBE_AGAIN);
        if due {
            *probed = Some(Instant::now());
        }
        due
    }

    /// Finds out, after an answer that is no HTTP, whether the application speaks HTTPS. True if new connections do
    /// so from now on.
    pub(super) async fn turns_out_to_speak_tls(&self) -> bool {
        if self.speaks_tls() {
            return true;
        }
        let Ok(connection) = self.open().await else {
            return false;
        };
        let speaks = self.secured(connection).await.is_some();
        if speaks {
            self.tls.store(true, Ordering::Relaxed);
        }
        speaks
    }

    async fn secured(&self, connection: BoxConnection) -> Option<BoxConnection> {
        tokio::time::timeout(CONNECT, tls::connect(connection))
            .await
            .ok()?
    }

    async fn open(&self) -> Result<BoxConnection, Unreachable> {
        let connect = self.driver.connect(&self.sandbox, Endpoint::Port(self.port));
        tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| Unreachable::Silent)?
            .map_err(Unreachable::Driver)
    }

    /// Keeps a connection for the next request, if it is usable for one.
    pub(super) fn keep(&self, mut link: Link) {
        if !link.is_usable() {
            return;
        }
        let sweep = {
            let mut pool = self.pool.lock();
            if pool.idle.len() >= IDLE_MOST {
                return;
            }
            pool.idle.push((link, Instant::now()));
            !std::mem::replace(&mut pool.swept, true)
        };
        if sweep {
            tokio::spawn(sweeping(self.this.clone()));
        }
    }
}

/// Closes idle connections; ends when there are none.
async fn sweeping(upstream: Weak<Upstream>) {
    loop {
        tokio::time::sleep(IDLE_LONGEST).await;
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        let mut pool = upstream.pool.lock();
        let old = pool
            .idle
            .iter()
            .take_while(|(_, since)| since.elapsed() >= IDLE_LONGEST)
            .count();
        let old: Vec<_> = pool.idle.drain(..old).collect();
        if pool.idle.is_empty() {
            pool.swept = false;
            return;
        }
        drop(pool);
        drop(old);
    }
}
