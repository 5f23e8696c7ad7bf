//! HTTP/1.1 client connection into a sandbox, driven by the request that uses it.
//!
//! hyper's client splits a connection into a handle and a task. A separate task costs two wake-ups between
//! threads for every message, so here the request that uses the connection also drives it. The exception is a
//! large upload: it must continue while the client does not read the response, so its connection gets a task.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use axum::body::Body;
use bytes::Bytes;
use fsa_driver::BoxConnection;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

/// Maximum size of a read, in bytes: hyper grows its reads up to this size while they are filled. Larger reads cost
/// page faults instead of system calls.
const READ_AHEAD: usize = 256 * 1024;
/// Maximum number of header fields in a response.
const MAX_HEADER_FIELDS: usize = 200;
/// Maximum number of times that one call polls the connection before it yields.
const MAX_ROUNDS: usize = 32;

type HyperConnection = http1::Connection<TokioIo<BoxConnection>, Body>;

/// An HTTP/1.1 connection with at most one request in flight.
pub(super) struct Http1Connection {
    sender: http1::SendRequest<Body>,
    drive: Drive,
    filter: Arc<WakeFilter>,
    /// `filter` as a waker.
    waker: Waker,
}

enum Drive {
    Inline(Box<HyperConnection>),
    /// The connection has ended; it still holds the socket and the bytes for [`Http1Connection::into_raw`].
    Ended(Box<HyperConnection>),
    Task {
        _until_dropped: AbortOnDropHandle<()>,
    },
    None,
}

impl Http1Connection {
    pub(super) async fn open(connection: BoxConnection) -> hyper::Result<Self> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_AHEAD)
            .max_headers(MAX_HEADER_FIELDS)
            .handshake(TokioIo::new(connection))
            .await?;
        let filter = Arc::new(WakeFilter {
            driving: AtomicBool::new(false),
            rewoken: AtomicBool::new(false),
            outer: Mutex::new(Waker::noop().clone()),
        });
        Ok(Self {
            sender,
            drive: Drive::Inline(Box::new(connection)),
            waker: Waker::from(Arc::clone(&filter)),
            filter,
        })
    }

    /// Whether the next request can be sent. First processes what has arrived from the other side.
    pub(super) fn is_usable(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let _ = self.drive(&mut context, |_| Poll::<()>::Pending);
        !matches!(self.drive, Drive::Ended(_) | Drive::None) && self.sender.is_ready()
    }

    /// Moves the connection to its own task, which drives it from now on.
    pub(super) fn detach(&mut self) {
        if let Drive::Inline(connection) = std::mem::replace(&mut self.drive, Drive::None) {
            let task = tokio::spawn(async move {
                let _ = connection.await;
            });
            self.drive = Drive::Task {
                _until_dropped: AbortOnDropHandle::new(task),
            };
        }
    }

    /// Sends a request and returns the response's head.
    ///
    /// # Errors
    /// hyper's error, with the request if nothing of it was sent.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let mut response = std::pin::pin!(self.sender.try_send_request(request));
        std::future::poll_fn(|context| self.drive(context, |inner| response.as_mut().poll(inner))).await
    }

    /// The next frame of the response's body.
    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.drive(context, |inner| Pin::new(&mut *body).poll_frame(inner))
    }

    /// The raw connection with the bytes already read from it, after a response of 101.
    pub(super) async fn into_raw(mut self) -> Option<(BoxConnection, Bytes)> {
        std::future::poll_fn(|context| {
            let _ = self.drive(context, |_| Poll::<()>::Pending);
            match self.drive {
                Drive::Inline(_) => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
        match self.drive {
            Drive::Ended(connection) => {
                let parts = connection.into_parts();
                Some((parts.io.into_inner(), parts.read_buf))
            }
            _ => None,
        }
    }

    /// Polls the connection and `ready` until `ready` is ready or neither makes progress.
    fn drive<T>(
        &mut self,
        context: &mut Context<'_>,
        mut ready: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if matches!(self.drive, Drive::Task { .. }) {
            return ready(context);
        }
        self.filter.set_outer(context.waker());
        let mut inner = Context::from_waker(&self.waker);
        for _ in 0..MAX_ROUNDS {
            self.filter.rewoken.store(false, Ordering::SeqCst);
            if let Drive::Inline(connection) = &mut self.drive
                && connection.poll_without_shutdown(&mut inner).is_ready()
                && let Drive::Inline(connection) = std::mem::replace(&mut self.drive, Drive::None)
            {
                self.drive = Drive::Ended(connection);
            }
            if let Poll::Ready(value) = ready(&mut inner) {
                self.filter.driving.store(false, Ordering::SeqCst);
                return Poll::Ready(value);
            }
            if !self.filter.rewoken.load(Ordering::SeqCst) {
                self.filter.driving.store(false, Ordering::SeqCst);
                // A wake-up between the two lines above saw `driving` and only set the flag.
                if !self.filter.rewoken.load(Ordering::SeqCst) {
                    return Poll::Pending;
                }
                self.filter.driving.store(true, Ordering::SeqCst);
            }
        }
        self.filter.driving.store(false, Ordering::SeqCst);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Waker that ignores wake-ups of a task by itself. Handle and connection wake each other through their channel, and
/// each such wake-up would queue the running task again and wake another thread for it.
struct WakeFilter {
    driving: AtomicBool,
    rewoken: AtomicBool,
    outer: Mutex<Waker>,
}

impl WakeFilter {
    fn set_outer(&self, waker: &Waker) {
        let mut outer = self.outer.lock();
        if !outer.will_wake(waker) {
            outer.clone_from(waker);
        }
        drop(outer);
        self.driving.store(true, Ordering::SeqCst);
    }
}

impl Wake for WakeFilter {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rewoken.store(true, Ordering::SeqCst);
        if !self.driving.load(Ordering::SeqCst) {
            // Not under the lock: waking may run arbitrary code.
            let outer = self.outer.lock().clone();
            outer.wake();
        }
    }
}
