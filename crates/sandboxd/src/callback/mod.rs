//! Sandbox callback: sends requests of programs in the sandbox to the control plane
//! ([`fsa_model::callback`]).
//!
//! No connection is open while there is no request: the first request sets a flag in the status,
//! the control plane opens a connection, and a connection that was idle for a while is closed
//! again. So two hundred idle sandboxes cost nothing.

pub mod git_credential;
mod local_proxy;

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

pub use self::local_proxy::{serve, url, variables};
use crate::{
    http::{ApiError, RouteResult, status},
    sandbox::Sandbox,
};

/// Requests in flight; more wait.
const MAX_IN_FLIGHT: usize = 32;
/// How long a request waits for a permit, and then for a connection.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection without a request for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval and timeout of HTTP/2 pings.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Bytes of a response that are sent before its reader takes them: of one response, and of all together.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Largest frame of a response. With the protocol's default of 16 KiB most of the time goes into framing.
const MAX_FRAME: u32 = 128 * 1024;

type Sender = http2::SendRequest<Incoming>;

/// State of the callback.
#[derive(Debug)]
pub struct Callback {
    sandbox: Arc<Sandbox>,
    connection: watch::Sender<Option<Connection>>,
    permits: Arc<Semaphore>,
    usage: Mutex<Usage>,
}

/// The current connection to the control plane.
#[derive(Clone, Debug)]
struct Connection {
    number: u64,
    sender: Sender,
}

#[derive(Debug)]
struct Usage {
    /// Requests that wait for a connection.
    waiting: usize,
    last_request: Instant,
    /// Connections so far.
    connections: u64,
}

/// Permit of one request, held until its response is read.
#[derive(Debug)]
struct RequestPermit {
    callback: Arc<Callback>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.callback.usage.lock().last_request = Instant::now();
    }
}

impl Callback {
    #[must_use]
    pub fn new(sandbox: Arc<Sandbox>) -> Self {
        Self {
            sandbox,
            connection: watch::Sender::new(None),
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            usage: Mutex::new(Usage {
                waiting: 0,
                last_request: Instant::now(),
                connections: 0,
            }),
        }
    }

    /// Removes the current connection if it has this number.
    fn forget(&self, number: u64) {
        self.connection.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|current| current.number == number);
            if same {
                *current = None;
            }
            same
        });
    }

    /// Sets the flag in the status: requests wait, and there is no connection.
    fn update_status(&self) {
        let requested = self.usage.lock().waiting > 0 && self.connection.borrow().is_none();
        self.sandbox
            .update_status(|status| status.callback_requested = requested);
    }
}

/// Why there is no response.
#[derive(Clone, Copy, Debug)]
enum CallbackError {
    TooManyRequests,
    NotConnected,
    ConnectionLost,
}

impl CallbackError {
    const fn sentence(self) -> &'static str {
        match self {
            Self::TooManyRequests => "too many requests of this sandbox are in flight; try again",
            Self::NotConnected => "the control plane cannot be reached at the moment; try again",
            Self::ConnectionLost => "the connection to the control plane was lost; try again",
        }
    }
}

/// `POST /v1/asks`: the control plane opens a connection. After the upgrade sandboxd is the client on it.
///
/// # Errors
/// The request asks for another upgrade.
pub fn accept(callback: &Arc<Callback>, mut request: Request<Incoming>) -> RouteResult {
    if request
        .headers()
        .get(header::UPGRADE)
        .is_none_or(|protocol| protocol != UPGRADE)
    {
        return Err(ApiError::bad_request("this route is upgraded to `fsa-asks`"));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let callback = Arc::clone(callback);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => drive(&callback, upgraded).await,
            Err(error) => tracing::info!("callback connection failed: {error}"),
        }
    });
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
    Ok(response)
}

/// Drives this connection until it ends, until another one has replaced it and its last response was
/// read, or until it was idle for too long.
async fn drive(callback: &Callback, upgraded: hyper::upgrade::Upgraded) {
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_send_buf_size(64 * 1024)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .handshake(upgraded)
        .await;
    let (sender, connection) = match handshake {
        Ok(both) => both,
        Err(error) => {
            tracing::info!("callback handshake failed: {error}");
            return;
        }
    };
    let number = {
        let mut usage = callback.usage.lock();
        usage.connections += 1;
        usage.last_request = Instant::now();
        usage.connections
    };
    callback
        .connection
        .send_replace(Some(Connection { number, sender }));
    callback.update_status();
    let mut connection = std::pin::pin!(connection);
    let mut idle = std::pin::pin!(idle(callback));
    let mut closing = false;
    loop {
        tokio::select! {
            _ = &mut connection => break,
            () = &mut idle, if !closing => {
                // Without a sender the connection closes by itself.
                callback.forget(number);
                closing = true;
            }
        }
    }
    callback.forget(number);
    callback.update_status();
}

/// Ready when there was no request for [`IDLE_TIMEOUT`].
async fn idle(callback: &Callback) {
    loop {
        let until = callback.usage.lock().last_request + IDLE_TIMEOUT;
        sleep_until(until).await;
        let none_in_flight = callback.permits.available_permits() == MAX_IN_FLIGHT;
        let mut usage = callback.usage.lock();
        if !none_in_flight {
            usage.last_request = Instant::now();
        } else if usage.last_request + IDLE_TIMEOUT <= Instant::now() {
            return;
        }
    }
}

/// Waits for a connection on which a request can be sent.
async fn connected(callback: &Callback) -> Result<Sender, CallbackError> {
    struct Waiting<'a>(&'a Callback);
    impl Drop for Waiting<'_> {
        fn drop(&mut self) {
            self.0.usage.lock().waiting -= 1;
            self.0.update_status();
        }
    }
    let mut connections = callback.connection.subscribe();
    let find = async {
        loop {
            let current = connections.borrow_and_update().clone();
            let Some(mut current) = current else {
                callback.update_status();
                connections
                    .changed()
                    .await
                    .map_err(|_| CallbackError::NotConnected)?;
                continue;
            };
            if current.sender.ready().await.is_ok() {
                return Ok(current.sender);
            }
            callback.forget(current.number);
        }
    };
    callback.usage.lock().waiting += 1;
    let _waiting = Waiting(callback);
    timeout(WAIT_TIMEOUT, find)
        .await
        .unwrap_or(Err(CallbackError::NotConnected))
}

/// Sends a request. Returns its response when that begins.
async fn send(
    callback: &Arc<Callback>,
    request: Request<Incoming>,
) -> Result<(Response<Incoming>, RequestPermit), CallbackError> {
    let permits = Arc::clone(&callback.permits);
    let permit = timeout(WAIT_TIMEOUT, permits.acquire_owned())
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or(CallbackError::TooManyRequests)?;
    let permit = RequestPermit {
        callback: Arc::clone(callback),
        _permit: permit,
    };
    let mut sender = connected(callback).await?;
    match sender.send_request(request).await {
        Ok(response) => Ok((response, permit)),
        Err(error) => {
            tracing::info!("callback request failed: {error}");
            Err(CallbackError::ConnectionLost)
        }
    }
}

fn broken(error: hyper::Error) -> io::Error {
    io::Error::other(error)
}
