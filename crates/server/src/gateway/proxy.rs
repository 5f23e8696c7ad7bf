//! Reverse proxy: forwards one request to the port of a sandbox, and the response back.
//!
//! Bodies stream both ways and are never buffered whole. A request is retried only where the application cannot
//! notice: nothing of it was sent, or it is idempotent (RFC 9110 §9.2.2), has no body, and met a kept
//! connection that the application was just closing.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use fsa_driver::BoxConnection;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{
    http1_connection::Link,
    upstream::{UnderWay, Unreachable, Upstream},
};

/// Timeout for the start of a response (long polls need this much).
const FIRST_BYTE: Duration = Duration::from_secs(15 * 60);
/// Timeout for a pause within a response. Event streams are quiet for long; most send a comment a minute.
const PAUSE: Duration = Duration::from_secs(60 * 60);
/// A body of at most this many bytes fits the sockets' buffers, so its sender goes on to read the response even
/// if the other side stops reading the body.
const SMALL_BODY: u64 = 64 * 1024;
/// A response that is complete and at most this long is sent in one write with its head.
const WHOLE: usize = 64 * 1024;

/// Why there is no response.
#[derive(Debug)]
pub(super) enum ProxyError {
    Unreachable(Unreachable),
    /// Too many requests to this port are in flight.
    Busy,
    /// The application did not start to respond in time.
    Silent,
    /// The application closed the connection, or what it sent is not HTTP.
    Broken(hyper::Error),
    /// The application speaks HTTPS, which was not known, and the request cannot be sent a second time.
    NowKnownToSpeakTls,
    /// The application switched protocols without a request to do so.
    Unasked,
}

/// Result of a forwarded request.
pub(super) enum Outcome {
    Answer(Response<Body>),
    /// The application agreed to the upgrade: the head of its response, and the connection with the bytes
    /// already read.
    Switched {
        headers: HeaderMap,
        connection: BoxConnection,
        read: Bytes,
        place: UnderWay,
    },
}

/// Forwards `request`; its head has been prepared ([`super::headers::prepare_request`]).
pub(super) async fn pass_on(
    upstream: &Arc<Upstream>,
    mut request: Request<Body>,
    upgrade: bool,
) -> Result<Outcome, ProxyError> {
    let place = upstream.begin().ok_or(ProxyError::Busy)?;
    *request.version_mut() = Version::HTTP_11;
    let large = request
        .body()
        .size_hint()
        .upper()
        .is_none_or(|most| most > SMALL_BODY);
    let repeatable = !upgrade && request.body().is_end_stream() && is_idempotent(request.method());
    let moved = Arc::new(AtomicBool::new(false));
    if large {
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Body::new(Watched {
            body,
            moved: Arc::clone(&moved),
        });
    }
    let mut sent = std::pin::pin!(send(upstream, request, repeatable, large));
    let (link, response) = loop {
        match tokio::time::timeout(FIRST_BYTE, sent.as_mut()).await {
            Ok(result) => break result?,
            // An upload may take any time as long as it makes progress.
            Err(_) if moved.swap(false, Ordering::Relaxed) => {}
            Err(_) => return Err(ProxyError::Silent),
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrade {
            return Err(ProxyError::Unasked);
        }
        let (parts, _) = response.into_parts();
        let (connection, read) = link.into_raw().await.ok_or(ProxyError::Unasked)?;
        return Ok(Outcome::Switched {
            headers: parts.headers,
            connection,
            read,
            place,
        });
    }
    Ok(Outcome::Answer(answer(upstream, link, response, place).await))
}

async fn send(
    upstream: &Arc<Upstream>,
    mut request: Request<Body>,
    repeatable: bool,
    large: bool,
) -> Result<(Link, Response<Incoming>), ProxyError> {
    while let Some(mut link) = upstream.take() {
        let again = repeatable.then(|| copy(&request));
        if large {
            link.detach();
        }
        match link.send(request).await {
            Ok(response) => return Ok((link, response)),
            Err(mut error) => match error.take_message().or(again) {
                Some(unsent) => request = unsent,
                None => return Err(ProxyError::Broken(error.into_error())),
            },
        }
    }
    let knew = upstream.speaks_tls();
    let mut link = upstream.connect().await.map_err(ProxyError::Unreachable)?;
    if large {
        link.detach();
    }
    let again = repeatable.then(|| copy(&request));
    let again = match link.send(request).await {
        // Go, nginx and Apache answer so to plain HTTP where they expect TLS.
        Ok(response) if response.status() == StatusCode::BAD_REQUEST && !knew && upstream.is_probe_due() => {
            let turned_out = upstream.turns_out_to_speak_tls().await;
            match again.filter(|_| turned_out) {
                Some(again) => again,
                None => return Ok((link, response)),
            }
        }
        Ok(response) => return Ok((link, response)),
        Err(error) => {
            if knew || !upstream.turns_out_to_speak_tls().await {
                return Err(ProxyError::Broken(error.into_error()));
            }
            again.ok_or(ProxyError::NowKnownToSpeakTls)?
        }
    };
    let mut link = upstream.connect().await.map_err(ProxyError::Unreachable)?;
    match link.send(again).await {
        Ok(response) => Ok((link, response)),
        Err(error) => Err(ProxyError::Broken(error.into_error())),
    }
}

fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent() && *method != Method::CONNECT
}

/// A copy of the request, whose body is known to be empty.
fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// Wraps the response's body so that it holds its connection until its end and then returns it to the pool. A
/// short response that is already complete returns it at once.
async fn answer(
    upstream: &Arc<Upstream>,
    mut link: Link,
    response: Response<Incoming>,
    place: UnderWay,
) -> Response<Body> {
    let (mut parts, mut incoming) = response.into_parts();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let mut ahead = Vec::new();
    let ended = loop {
        if incoming.is_end_stream() {
            break true;
        }
        if ahead.len() == 2 {
            break false;
        }
        let next = std::future::poll_fn(|context| {
            Poll::Ready(match link.poll_frame(context, &mut incoming) {
                Poll::Ready(frame) => Some(frame),
                Poll::Pending => None,
            })
        });
        match next.await {
            Some(None) => break true,
            Some(Some(Ok(frame))) if frame.data_ref().is_some_and(|data| data.len() <= WHOLE) => {
                ahead.push(frame);
            }
            Some(Some(Ok(frame))) => {
                ahead.push(frame);
                break false;
            }
            Some(Some(Err(error))) => {
                tracing::debug!(%error, "an application's answer broke off");
                let broken = Body::new(BrokenOff(Some(error)));
                return Response::from_parts(parts, broken);
            }
            None => break false,
        }
    };
    let whole = ended && ahead.len() <= 1 && ahead.first().is_none_or(Frame::is_data);
    if whole {
        upstream.keep(link);
        let bytes = ahead
            .pop()
            .and_then(|frame| frame.into_data().ok())
            .unwrap_or_default();
        let body = if bytes.is_empty() {
            Body::empty()
        } else {
            Body::from(bytes)
        };
        return Response::from_parts(parts, body);
    }
    ahead.reverse();
    let body = Answer {
        size: if ahead.is_empty() {
            incoming.size_hint()
        } else {
            known_size(&parts.headers)
        },
        ended,
        ahead,
        incoming,
        link: Some(link),
        upstream: Arc::clone(upstream),
        pause: Box::pin(tokio::time::sleep(PAUSE)),
        _place: place,
    };
    Response::from_parts(parts, Body::new(body))
}

/// A request's body that sets a flag whenever some of it is read.
struct Watched {
    body: Body,
    moved: Arc<AtomicBool>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.moved.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn known_size(headers: &HeaderMap) -> SizeHint {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .map_or_else(SizeHint::default, SizeHint::with_exact)
}

/// A response's body as it arrives. Dropped before its end, it closes the connection, so the application learns
/// that the client stopped reading.
struct Answer {
    /// Frames that were already read, in reverse order.
    ahead: Vec<Frame<Bytes>>,
    /// Size of the whole body.
    size: SizeHint,
    /// No frames follow those in `ahead`.
    ended: bool,
    incoming: Incoming,
    link: Option<Link>,
    upstream: Arc<Upstream>,
    pause: Pin<Box<Sleep>>,
    _place: UnderWay,
}

impl Answer {
    fn finish(&mut self) {
        self.ended = true;
        if let Some(link) = self.link.take() {
            self.upstream.keep(link);
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        if let Some(frame) = this.ahead.pop() {
            if this.ended && this.ahead.is_empty() {
                this.finish();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(link) = this.link.as_mut().filter(|_| !this.ended) else {
            return Poll::Ready(None);
        };
        match link.poll_frame(context, &mut this.incoming) {
            Poll::Ready(Some(Ok(frame))) => {
                if this.incoming.is_end_stream() {
                    this.finish();
                } else {
                    this.pause.as_mut().reset(Instant::now() + PAUSE);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.link = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Pending => {
                if this.pause.as_mut().poll(context).is_ready() {
                    this.link = None;
                    return Poll::Ready(Some(Err("nothing came for an hour".into())));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && (self.ended || self.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// A body that ends with the error of the application's body, so that the client sees a broken response and not
/// a short one.
struct BrokenOff(Option<hyper::Error>);

impl http_body::Body for BrokenOff {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Poll::Ready(self.0.take().map(Err))
    }
}
