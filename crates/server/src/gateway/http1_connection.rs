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

/// Upper bound, in bytes, on how much of a response is read ahead: hyper grows its reads up to this size while
/// they are filled. Larger reads cost page faults instead of system calls.
const READ_AHEAD: usize = 256 * 1024;
/// Maximum number of header fields in a response.
const HEAD_FIELDS: usize = 200;
/// How many times one call drives the connection before it yields.
const ROUNDS: usize = 32;

type Connection = http1::Connection<TokioIo<BoxConnection>, Body>;

/// A connection with at most one request in flight.
pub(super) struct Link {
    sender: http1::SendRequest<Body>,
    drive: Drive,
    gate: Arc<Gate>,
    /// The same gate, as the waker that a `Context` takes.
    waker: Waker,
}

enum Drive {
    Here(Box<Connection>),
    /// The connection has ended; what is left in it is for [`Link::into_raw`].
    Ended(Box<Connection>),
    Task {
        _until_dropped: AbortOnDropHandle<()>,
    },
    Gone,
}

impl Link {
    pub(super) async fn open(connection: BoxConnection) -> hyper::Result<Self> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_AHEAD)
            .max_headers(HEAD_FIELDS)
            .handshake(TokioIo::new(connection))
            .await?;
        let gate = Arc::new(Gate {
            inside: AtomicBool::new(false),
            again: AtomicBool::new(false),
            outer: Mutex::new(Waker::noop().clone()),
        });
        Ok(Self {
            sender,
            drive: Drive::Here(Box::new(connection)),
            waker: Waker::from(Arc::clone(&gate)),
            gate,
        })
    }

    /// Whether the next request can be sent. Processes first what the other side did in the meantime.
    pub(super) fn is_usable(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let _ = self.drive(&mut context, |_| Poll::<()>::Pending);
        !matches!(self.drive, Drive::Ended(_) | Drive::Gone) && self.sender.is_ready()
    }

    /// Moves the connection to its own task, which drives it from now on.
    pub(super) fn detach(&mut self) {
        if let Drive::Here(connection) = std::mem::replace(&mut self.drive, Drive::Gone) {
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
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        std::future::poll_fn(|context| self.drive(context, |inner| answer.as_mut().poll(inner))).await
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
                Drive::Here(_) => Poll::Pending,
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

    /// Drives the connection and polls `ready`, until it is ready or no more progress is possible now.
    fn drive<T>(
        &mut self,
        context: &mut Context<'_>,
        mut ready: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if matches!(self.drive, Drive::Task { .. }) {
            return ready(context);
        }
        self.gate.enter(context.waker());
        let mut inner = Context::from_waker(&self.waker);
        for _ in 0..ROUNDS {
            self.gate.again.store(false, Ordering::SeqCst);
            if let Drive::Here(connection) = &mut self.drive
                && connection.poll_without_shutdown(&mut inner).is_ready()
                && let Drive::Here(connection) = std::mem::replace(&mut self.drive, Drive::Gone)
            {
                self.drive = Drive::Ended(connection);
            }
            if let Poll::Ready(value) = ready(&mut inner) {
                self.gate.inside.store(false, Ordering::SeqCst);
                return Poll::Ready(value);
            }
            if !self.gate.again.load(Ordering::SeqCst) {
                self.gate.inside.store(false, Ordering::SeqCst);
                // A wake-up between the two lines above saw `inside` and only set the flag.
                if !self.gate.again.load(Ordering::SeqCst) {
                    return Poll::Pending;
                }
                self.gate.inside.store(true, Ordering::SeqCst);
            }
        }
        self.gate.inside.store(false, Ordering::SeqCst);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Keeps a task from waking itself: handle and connection wake each other through their channel, and each such
/// wake-up of the running task would queue it again and wake another thread for it.
struct Gate {
    inside: AtomicBool,
    again: AtomicBool,
    outer: Mutex<Waker>,
}

impl Gate {
    fn enter(&self, waker: &Waker) {
        let mut outer = self.outer.lock();
        if !outer.will_wake(waker) {
            outer.clone_from(waker);
        }
        drop(outer);
        self.inside.store(true, Ordering::SeqCst);
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.again.store(true, Ordering::SeqCst);
        if !self.inside.load(Ordering::SeqCst) {
            // Not under the lock: waking may run arbitrary code.
            let outer = self.outer.lock().clone();
            outer.wake();
        }
    }
}
