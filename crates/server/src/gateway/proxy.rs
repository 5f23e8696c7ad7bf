//! Reverse proxy: forwards one request to the port of a sandbox, and the response back.
//!
//! Bodies stream both ways and are never buffered whole. A request is retried only where that is safe: nothing of it
//! was sent, or it is idempotent (RFC 9110 §9.2.2), has no body, and was sent on a pooled connection that the
//! application was closing.

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
    http1_connection::Http1Connection,
    upstream::{InFlight, Unreachable, Upstream},
};

/// Timeout for the head of a response. Long polls need this much.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Timeout for the next bytes of a response. Event streams are quiet for long; most send a comment every minute.
const READ_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Maximum size of a body that fits the sockets' buffers: its sender reads the response even if the application does
/// not read the body.
const MAX_SMALL_BODY: u64 = 64 * 1024;
/// Maximum size of a complete response that is sent in one write with its head.
const MAX_WHOLE_RESPONSE: usize = 64 * 1024;

/// Why there is no response.
#[derive(Debug)]
pub(super) enum ProxyError {
    Unreachable(Unreachable),
    /// Too many requests to this port are in flight.
    Busy,
    /// The application did not start to respond in time.
    Timeout,
    /// The application closed the connection, or its response is not HTTP.
    Broken(hyper::Error),
    /// The application speaks HTTPS, which was detected by this request, and the request cannot be retried.
    TlsDetected,
    /// The application switched protocols without a request to do so.
    UnrequestedUpgrade,
}

/// Result of a forwarded request.
pub(super) enum Outcome {
    Response(Response<Body>),
    /// The application agreed to the upgrade: the head of its response, and the connection with the bytes
    /// already read.
    Switched {
        headers: HeaderMap,
        connection: BoxConnection,
        read: Bytes,
        permit: InFlight,
    },
}

/// Forwards `request`; its head has been prepared ([`super::headers::prepare_request`]).
pub(super) async fn forward(
    upstream: &Arc<Upstream>,
    mut request: Request<Body>,
    upgrade: bool,
) -> Result<Outcome, ProxyError> {
    let permit = upstream.begin().ok_or(ProxyError::Busy)?;
    *request.version_mut() = Version::HTTP_11;
    let large = request
        .body()
        .size_hint()
        .upper()
        .is_none_or(|most| most > MAX_SMALL_BODY);
    let repeatable = !upgrade && request.body().is_end_stream() && is_idempotent(request.method());
    let progressed = Arc::new(AtomicBool::new(false));
    if large {
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Body::new(ProgressBody {
            body,
            progressed: Arc::clone(&progressed),
        });
    }
    let mut sent = std::pin::pin!(send(upstream, request, repeatable, large));
    let (connection, response) = loop {
        match tokio::time::timeout(FIRST_BYTE_TIMEOUT, sent.as_mut()).await {
            Ok(result) => break result?,
            // An upload may take any time as long as it makes progress.
            Err(_) if progressed.swap(false, Ordering::Relaxed) => {}
            Err(_) => return Err(ProxyError::Timeout),
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrade {
            return Err(ProxyError::UnrequestedUpgrade);
        }
        let (parts, _) = response.into_parts();
        let (connection, read) = connection
            .into_raw()
            .await
            .ok_or(ProxyError::UnrequestedUpgrade)?;
        return Ok(Outcome::Switched {
            headers: parts.headers,
            connection,
            read,
            permit,
        });
    }
    Ok(Outcome::Response(
        respond(upstream, connection, response, permit).await,
    ))
}

async fn send(
    upstream: &Arc<Upstream>,
    mut request: Request<Body>,
    repeatable: bool,
    large: bool,
) -> Result<(Http1Connection, Response<Incoming>), ProxyError> {
    while let Some(mut connection) = upstream.take() {
        let retry = repeatable.then(|| copy(&request));
        if large {
            connection.detach();
        }
        match connection.send(request).await {
            Ok(response) => return Ok((connection, response)),
            Err(mut error) => match error.take_message().or(retry) {
                Some(unsent) => request = unsent,
                None => return Err(ProxyError::Broken(error.into_error())),
            },
        }
    }
    let known_tls = upstream.uses_tls();
    let mut connection = upstream.connect().await.map_err(ProxyError::Unreachable)?;
    if large {
        connection.detach();
    }
    let retry = repeatable.then(|| copy(&request));
    let retry = match connection.send(request).await {
        // Go, nginx and Apache respond with 400 to plain HTTP where they expect TLS.
        Ok(response)
            if response.status() == StatusCode::BAD_REQUEST && !known_tls && upstream.is_probe_due() =>
        {
            let detected = upstream.detect_tls().await;
            match retry.filter(|_| detected) {
                Some(retry) => retry,
                None => return Ok((connection, response)),
            }
        }
        Ok(response) => return Ok((connection, response)),
        Err(error) => {
            if known_tls || !upstream.detect_tls().await {
                return Err(ProxyError::Broken(error.into_error()));
            }
            retry.ok_or(ProxyError::TlsDetected)?
        }
    };
    let mut connection = upstream.connect().await.map_err(ProxyError::Unreachable)?;
    match connection.send(retry).await {
        Ok(response) => Ok((connection, response)),
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

/// Wraps the response's body: at its end it returns the connection to the pool. For a short response that is already
/// complete the connection is returned at once.
async fn respond(
    upstream: &Arc<Upstream>,
    mut connection: Http1Connection,
    response: Response<Incoming>,
    permit: InFlight,
) -> Response<Body> {
    let (mut parts, mut incoming) = response.into_parts();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let mut read_ahead = Vec::new();
    let ended = loop {
        if incoming.is_end_stream() {
            break true;
        }
        if read_ahead.len() == 2 {
            break false;
        }
        let next = std::future::poll_fn(|context| {
            Poll::Ready(match connection.poll_frame(context, &mut incoming) {
                Poll::Ready(frame) => Some(frame),
                Poll::Pending => None,
            })
        });
        match next.await {
            Some(None) => break true,
            Some(Some(Ok(frame)))
                if frame
                    .data_ref()
                    .is_some_and(|data| data.len() <= MAX_WHOLE_RESPONSE) =>
            {
                read_ahead.push(frame);
            }
            Some(Some(Ok(frame))) => {
                read_ahead.push(frame);
                break false;
            }
            Some(Some(Err(error))) => {
                tracing::debug!(%error, "an application's response broke off");
                let broken = Body::new(FailedBody(Some(error)));
                return Response::from_parts(parts, broken);
            }
            None => break false,
        }
    };
    let whole = ended && read_ahead.len() <= 1 && read_ahead.first().is_none_or(Frame::is_data);
    if whole {
        upstream.release(connection);
        let bytes = read_ahead
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
    read_ahead.reverse();
    let body = PooledBody {
        size: if read_ahead.is_empty() {
            incoming.size_hint()
        } else {
            known_size(&parts.headers)
        },
        ended,
        read_ahead,
        incoming,
        connection: Some(connection),
        upstream: Arc::clone(upstream),
        pause: Box::pin(tokio::time::sleep(READ_TIMEOUT)),
        _permit: permit,
    };
    Response::from_parts(parts, Body::new(body))
}

/// A request's body that sets a flag whenever some of it is read.
struct ProgressBody {
    body: Body,
    progressed: Arc<AtomicBool>,
}

impl http_body::Body for ProgressBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.progressed.store(true, Ordering::Relaxed);
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

/// Body of a response in flight. If it is dropped before its end, the connection is closed, so the application learns
/// that the client stopped reading.
struct PooledBody {
    /// Frames that were already read, in reverse order.
    read_ahead: Vec<Frame<Bytes>>,
    /// Size of the whole body.
    size: SizeHint,
    /// No frames follow those in `read_ahead`.
    ended: bool,
    incoming: Incoming,
    connection: Option<Http1Connection>,
    upstream: Arc<Upstream>,
    pause: Pin<Box<Sleep>>,
    _permit: InFlight,
}

impl PooledBody {
    fn finish(&mut self) {
        self.ended = true;
        if let Some(connection) = self.connection.take() {
            self.upstream.release(connection);
        }
    }
}

impl http_body::Body for PooledBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        if let Some(frame) = this.read_ahead.pop() {
            if this.ended && this.read_ahead.is_empty() {
                this.finish();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(connection) = this.connection.as_mut().filter(|_| !this.ended) else {
            return Poll::Ready(None);
        };
        match connection.poll_frame(context, &mut this.incoming) {
            Poll::Ready(Some(Ok(frame))) => {
                if this.incoming.is_end_stream() {
                    this.finish();
                } else {
                    this.pause.as_mut().reset(Instant::now() + READ_TIMEOUT);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.connection = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Pending => {
                if this.pause.as_mut().poll(context).is_ready() {
                    this.connection = None;
                    return Poll::Ready(Some(Err("the application sent no data for an hour".into())));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read_ahead.is_empty() && (self.ended || self.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// A body that fails with the error of the application's body, so that the client sees a broken response and not a
/// short one.
struct FailedBody(Option<hyper::Error>);

impl http_body::Body for FailedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Poll::Ready(self.0.take().map(Err))
    }
}
