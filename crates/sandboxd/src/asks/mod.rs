//! Passes on what programs in the sandbox ask of the control plane ([`fsa_model::callback`]).
//!
//! Nothing is open while nobody asks: the first question makes the status say so, the control
//! plane opens a connection, and one that nobody used for a while is closed again. Two hundred
//! idle sandboxes cost nothing this way.

pub mod credential;
mod port;

use std::{io, sync::Arc, time::Duration};

use fsa_model::callback::UPGRADE;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};

pub use self::port::{serve, url, variables};
use crate::{
    http::{Answer, Refusal, status},
    sandbox::Sandbox,
};

/// Questions that are on their way or being answered; more wait.
const AT_ONCE: usize = 32;
/// How long a question waits for its turn, and then for the control plane.
const WAIT: Duration = Duration::from_secs(30);
/// A connection on which nobody asked for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// While somebody waits for an answer, how often the control plane is asked whether it is there.
const ALIVE: Duration = Duration::from_secs(20);
/// Of an answer, before its reader takes it: of one, and of all together.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Of an answer, in one piece. With the protocol's 16 KiB most of the time goes into the pieces.
const FRAME: u32 = 128 * 1024;

type Sender = http2::SendRequest<Incoming>;

/// The way to the control plane.
#[derive(Debug)]
pub struct Asks {
    open: watch::Sender<Option<Open>>,
    places: Arc<Semaphore>,
    used: Mutex<Use>,
}

#[derive(Clone, Debug)]
struct Open {
    number: u64,
    sender: Sender,
}

#[derive(Debug)]
struct Use {
    /// Questions that wait for a connection.
    waiting: usize,
    last: Instant,
    connections: u64,
}

/// A question's place, for as long as its answer is read.
#[derive(Debug)]
struct Place {
    sandbox: Arc<Sandbox>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sandbox.asks.used.lock().last = Instant::now();
    }
}

impl Default for Asks {
    fn default() -> Self {
        Self {
            open: watch::Sender::new(None),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            used: Mutex::new(Use {
                waiting: 0,
                last: Instant::now(),
                connections: 0,
            }),
        }
    }
}

/// Why a question was not answered.
#[derive(Clone, Copy, Debug)]
enum Unanswered {
    Crowded,
    Nobody,
    BrokenOff,
}

impl Unanswered {
    const fn sentence(self) -> &'static str {
        match self {
            Self::Crowded => "too many requests of this sandbox are under way; try again",
            Self::Nobody => "the control plane is not there at the moment; try again",
            Self::BrokenOff => "the connection to the control plane broke off; try again",
        }
    }
}

/// `POST /v1/asks`: the control plane offers itself. From the upgrade on it is asked.
///
/// # Errors
/// The request is not for this upgrade.
pub fn offer(sandbox: Arc<Sandbox>, mut request: Request<Incoming>) -> Answer {
    if request
        .headers()
        .get(header::UPGRADE)
        .is_none_or(|word| word != UPGRADE)
    {
        return Err(Refusal::bad("this route is upgraded to `fsa-asks`"));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => converse(&sandbox, upgraded).await,
            Err(error) => tracing::info!("the control plane could not be asked: {error}"),
        }
    });
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
    Ok(response)
}

/// Asks over this connection until it ends, another one takes its place and its last answer was
/// read, or nobody asks any more.
async fn converse(sandbox: &Arc<Sandbox>, upgraded: hyper::upgrade::Upgraded) {
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buf_size(64 * 1024)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(ALIVE)
        .keep_alive_timeout(ALIVE)
        .handshake(upgraded)
        .await;
    let (sender, connection) = match handshake {
        Ok(both) => both,
        Err(error) => {
            tracing::info!("the control plane could not be asked: {error}");
            return;
        }
    };
    let asks = &sandbox.asks;
    let number = {
        let mut used = asks.used.lock();
        used.connections += 1;
        used.last = Instant::now();
        used.connections
    };
    asks.open.send_replace(Some(Open { number, sender }));
    tell(sandbox);
    let mut connection = std::pin::pin!(connection);
    let mut idle = std::pin::pin!(idle(asks));
    let mut closing = false;
    loop {
        tokio::select! {
            _ = &mut connection => break,
            () = &mut idle, if !closing => {
                // Without a sender the connection ends itself.
                asks.forget(number);
                closing = true;
            }
        }
    }
    asks.forget(number);
    tell(sandbox);
}

/// Ready when nobody has asked for [`IDLE`].
async fn idle(asks: &Asks) {
    loop {
        let until = asks.used.lock().last + IDLE;
        sleep_until(until).await;
        let quiet = asks.places.available_permits() == AT_ONCE;
        let mut used = asks.used.lock();
        if !quiet {
            used.last = Instant::now();
        } else if used.last + IDLE <= Instant::now() {
            return;
        }
    }
}

impl Asks {
    fn forget(&self, number: u64) {
        self.open.send_if_modified(|open| {
            let ours = open.as_ref().is_some_and(|open| open.number == number);
            if ours {
                *open = None;
            }
            ours
        });
    }
}

/// Says in the status whether somebody waits.
fn tell(sandbox: &Sandbox) {
    let waits = sandbox.asks.used.lock().waiting > 0 && sandbox.asks.open.borrow().is_none();
    sandbox.tell(|status| status.asking = waits);
}

/// Waits for a connection on which a request can be sent.
async fn connected(sandbox: &Arc<Sandbox>) -> Result<Sender, Unanswered> {
    struct Waiting<'a>(&'a Arc<Sandbox>);
    impl Drop for Waiting<'_> {
        fn drop(&mut self) {
            self.0.asks.used.lock().waiting -= 1;
            tell(self.0);
        }
    }
    let mut opens = sandbox.asks.open.subscribe();
    let find = async {
        loop {
            let open = opens.borrow_and_update().clone();
            let Some(mut open) = open else {
                tell(sandbox);
                opens.changed().await.map_err(|_| Unanswered::Nobody)?;
                continue;
            };
            if open.sender.ready().await.is_ok() {
                return Ok(open.sender);
            }
            sandbox.asks.forget(open.number);
        }
    };
    sandbox.asks.used.lock().waiting += 1;
    let _waiting = Waiting(sandbox);
    timeout(WAIT, find).await.unwrap_or(Err(Unanswered::Nobody))
}

/// Sends a question and returns its answer as it begins.
async fn ask(
    sandbox: &Arc<Sandbox>,
    request: Request<Incoming>,
) -> Result<(Response<Incoming>, Place), Unanswered> {
    let places = Arc::clone(&sandbox.asks.places);
    let permit = timeout(WAIT, places.acquire_owned())
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or(Unanswered::Crowded)?;
    let place = Place {
        sandbox: Arc::clone(sandbox),
        _permit: permit,
    };
    let mut sender = connected(sandbox).await?;
    match sender.send_request(request).await {
        Ok(response) => Ok((response, place)),
        Err(error) => {
            tracing::info!("a question was not answered: {error}");
            Err(Unanswered::BrokenOff)
        }
    }
}

fn broken(error: hyper::Error) -> io::Error {
    io::Error::other(error)
}
