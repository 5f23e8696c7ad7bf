//! Lingering close of a connection whose client is still sending, such as an upload that was rejected at its head.
//!
//! If a socket is closed while unread bytes wait in it or still arrive, the kernel resets it, and the reset
//! discards the response that the client has not read yet: the client sees a broken pipe instead of a 403. So
//! the connection shuts down its own half, then reads and discards until the client is done too (nginx calls
//! this a lingering close).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// Limits on reading data that is discarded.
#[derive(Clone, Copy)]
struct Limits {
    /// A client that is silent for this long has read the response, or is gone.
    idle: Duration,
    /// A client that sends for longer than this, or more bytes than the limit, does not read.
    total: Duration,
    bytes: u64,
}

const LIMITS: Limits = Limits {
    idle: Duration::from_secs(2),
    total: Duration::from_secs(30),
    bytes: 1 << 30,
};
const BUFFER_SIZE: usize = 64 * 1024;

/// Whether part of the last request was not read: set by the requests' bodies, read by the stream.
#[derive(Clone, Default)]
pub(super) struct UnreadBody(Arc<AtomicBool>);

impl UnreadBody {
    /// Wraps the request, so that its body records here how far it was read.
    pub(super) fn watch<B>(&self, request: Request<B>) -> Request<Body>
    where
        B: HttpBody<Data = Bytes, Error: Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        if request.body().is_end_stream() {
            self.clear();
            return request.map(Body::new);
        }
        self.0.store(true, Ordering::Relaxed);
        let unread = self.clone();
        request.map(|body| Body::new(TrackedBody { body, unread }))
    }

    /// The bytes from now on are not a request: the connection is a tunnel, and each side ends its own half.
    pub(super) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A body that records when it has been read to its end.
struct TrackedBody<B> {
    body: B,
    unread: UnreadBody,
}

impl<B: HttpBody + Unpin> HttpBody for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.unread.clear();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection's stream, whose shutdown lingers if a request was not read to its end.
pub(super) struct Lingering<S> {
    stream: S,
    unread: UnreadBody,
    limits: Limits,
    state: CloseState,
}

enum CloseState {
    Open,
    /// The server's half is shut down; the client's half is still read.
    Discarding(Box<Discard>),
    Done,
}

struct Discard {
    limits: Limits,
    idle: Pin<Box<Sleep>>,
    last: Instant,
    bytes: u64,
    buffer: [u8; BUFFER_SIZE],
}

impl<S> Lingering<S> {
    pub(super) const fn new(stream: S, unread: UnreadBody) -> Self {
        Self {
            stream,
            unread,
            limits: LIMITS,
            state: CloseState::Open,
        }
    }
}

impl Discard {
    fn begin(limits: Limits) -> Box<Self> {
        let now = Instant::now();
        let last = now + limits.total;
        Box::new(Self {
            limits,
            idle: Box::pin(tokio::time::sleep_until((now + limits.idle).min(last))),
            last,
            bytes: 0,
            buffer: [0; BUFFER_SIZE],
        })
    }

    /// Ready when there is nothing more to wait for, for any reason.
    fn poll(&mut self, stream: Pin<&mut impl AsyncRead>, context: &mut Context<'_>) -> Poll<()> {
        let mut stream = stream;
        loop {
            let mut buffer = ReadBuf::new(&mut self.buffer);
            match stream.as_mut().poll_read(context, &mut buffer) {
                Poll::Pending => return self.idle.as_mut().poll(context),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(()),
                Poll::Ready(Ok(())) => self.bytes += buffer.filled().len() as u64,
            }
            let now = Instant::now();
            if self.bytes > self.limits.bytes || now >= self.last {
                return Poll::Ready(());
            }
            self.idle.as_mut().reset((now + self.limits.idle).min(self.last));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.state, CloseState::Open) {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            this.state = match this.unread.0.load(Ordering::Relaxed) {
                true => CloseState::Discarding(Discard::begin(this.limits)),
                false => CloseState::Done,
            };
        }
        if let CloseState::Discarding(discard) = &mut this.state {
            ready!(discard.poll(Pin::new(&mut this.stream), context));
            this.state = CloseState::Done;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// Longer than any test.
    const NEVER: Duration = Duration::from_secs(24 * 60 * 60);
    const UNBOUNDED: Limits = Limits {
        idle: NEVER,
        total: NEVER,
        bytes: u64::MAX,
    };

    /// A client and the server's end of its connection, after a request whose body was `read` or not.
    async fn connection(read: bool, limits: Limits) -> (DuplexStream, Lingering<DuplexStream>) {
        let (client, server) = duplex(1024);
        let unread = UnreadBody::default();
        let request = unread.watch(Request::new(Full::from("a body")));
        if read {
            request.into_body().collect().await.unwrap();
        }
        let server = Lingering {
            limits,
            ..Lingering::new(server, unread)
        };
        (client, server)
    }

    #[tokio::test]
    async fn a_client_that_is_still_sending_receives_the_response() {
        let (mut client, mut server) = connection(false, UNBOUNDED).await;
        let client = tokio::spawn(async move {
            client
                .write_all(&[0; 200 * 1024])
                .await
                .expect("the server reads");
            client.shutdown().await.expect("it ends");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("the answer");
            answer
        });
        server.write_all(b"403").await.unwrap();

        server.shutdown().await.unwrap();

        assert_eq!(client.await.unwrap(), "403");
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0, "all of it was read");
    }

    #[tokio::test]
    async fn discarding_stops_at_the_idle_time_and_byte_limits() {
        let short = Duration::from_millis(1);
        let (_silent, mut server) = connection(
            false,
            Limits {
                idle: short,
                ..UNBOUNDED
            },
        )
        .await;
        server.shutdown().await.unwrap();

        for limits in [
            Limits {
                total: short,
                ..UNBOUNDED
            },
            Limits {
                bytes: 4096,
                ..UNBOUNDED
            },
        ] {
            let (mut client, mut server) = connection(false, limits).await;
            let client = tokio::spawn(async move { while client.write_all(b"more").await.is_ok() {} });
            server.shutdown().await.unwrap();
            drop(server);
            client.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_read_request_or_a_tunnel_closes_at_once() {
        let (_client, mut server) = connection(true, UNBOUNDED).await;
        server.shutdown().await.unwrap();

        let (mut client, mut server) = connection(false, UNBOUNDED).await;
        server.unread.clear();
        client.write_all(b"frame").await.unwrap();
        server.shutdown().await.unwrap();
        let mut frame = [0; 5];
        server.read_exact(&mut frame).await.unwrap();
        assert_eq!(&frame, b"frame", "the tunnel's reader gets the bytes");
    }
}
