//! HTTP/1.1: listening, connections, bodies. The routes are in [`routes`].

pub mod refusal;
pub mod routes;
pub mod socket;
pub mod stream;
pub mod terminal_only;

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::Stream as Items;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

pub use self::refusal::Refusal;
use self::stream::{Listener, Stream};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// What a route answers.
pub type Answer = Result<Response<Body>, Refusal>;

/// Connections at a time; more wait in the listener's queue.
const CONNECTIONS: usize = 512;
/// From a connection's first byte, or from the last answer on it, to the end of a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Of a request that is read into memory as JSON.
const JSON_LIMIT: usize = 4 * 1024 * 1024;

/// Accepts connections for as long as sandboxd lives, and answers each request with `route`.
pub async fn serve<F, Fut>(listener: Listener, route: F)
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors or memory: both come back when something else ends.
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let route = route.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let answer = route(request);
                async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(Refusal::answer)) }
            });
            // An error here is the client's going away; there is nobody to tell.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .max_buf_size(128 * 1024)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            drop(permit);
        });
    }
}

/// The raw stream under an upgraded connection, and what was already read of it.
///
/// # Errors
/// The client went away before the upgrade was done.
pub async fn upgraded(upgrade: hyper::upgrade::OnUpgrade) -> io::Result<(Stream, Bytes)> {
    let parts = upgrade
        .await
        .map_err(io::Error::other)?
        .downcast::<TokioIo<Stream>>()
        .map_err(|_| io::Error::other("the connection is of an unknown kind"))?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

/// Nothing.
#[must_use]
pub fn empty() -> Body {
    full(Bytes::new())
}

/// These bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Pieces as they come.
#[must_use]
pub fn streamed(pieces: impl Items<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures_util::TryStreamExt;
    StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
}

/// An answer without a body.
#[must_use]
pub fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

/// JSON, with 200.
#[must_use]
pub fn json(value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    typed("application/json", full(bytes))
}

/// A body of that type, with 200.
#[must_use]
pub fn typed(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The request's body as JSON.
///
/// # Errors
/// It is too large, broken off, or not what was expected, which the refusal says.
pub async fn read_json<T: DeserializeOwned>(body: Incoming) -> Result<T, Refusal> {
    let bytes = Limited::new(body, JSON_LIMIT)
        .collect()
        .await
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "TooLarge",
                    format!("the request has more than {JSON_LIMIT} bytes"),
                )
            } else {
                Refusal::bad(format!("the request's body could not be read: {error}"))
            }
        })?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::bad(format!(
            "the request's body is not what this route takes: {error}"
        ))
    })
}
