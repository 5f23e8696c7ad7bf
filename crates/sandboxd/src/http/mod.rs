//! HTTP/1.1 server: accept loop, connections, request and response bodies. The routes are in [`crate::routes`].

pub mod api_error;
pub mod query;
pub mod stream;
pub mod websocket;

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::Stream as Items;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use self::stream::{Listener, Stream};
pub use self::{api_error::ApiError, query::Query};

/// Response body.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// Result of a route.
pub type RouteResult = Result<Response<Body>, ApiError>;

/// Maximum number of connections; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 512;
/// Timeout for a request's head, from the connection's first byte or from the last response on it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum bytes of a JSON request body.
const MAX_JSON_BYTES: usize = 4 * 1024 * 1024;

/// Accepts connections until sandboxd ends, and handles each request with `route`.
pub async fn serve<F, Fut>(listener: Listener, route: F)
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = RouteResult> + Send,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors or memory: retry, both may be freed.
                tracing::warn!("accept failed: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let route = route.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let response = route(request);
                async move { Ok::<_, Infallible>(response.await.unwrap_or_else(ApiError::into_response)) }
            });
            // An error means that the client disconnected.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(128 * 1024)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            drop(permit);
        });
    }
}

/// Returns the raw stream of an upgraded connection, and the bytes that were already read from it.
///
/// # Errors
/// The client disconnected before the upgrade was done.
pub async fn upgraded(upgrade: hyper::upgrade::OnUpgrade) -> io::Result<(Stream, Bytes)> {
    let parts = upgrade
        .await
        .map_err(io::Error::other)?
        .downcast::<TokioIo<Stream>>()
        .map_err(|_| io::Error::other("the connection is of an unknown kind"))?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

/// Empty body.
#[must_use]
pub fn empty() -> Body {
    full(Bytes::new())
}

/// Body of these bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Streamed body.
#[must_use]
pub fn streamed(pieces: impl Items<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures_util::TryStreamExt;
    StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
}

/// Response without a body.
#[must_use]
pub fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

/// Response with a JSON body and status 200.
#[must_use]
pub fn json(value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    typed("application/json", full(bytes))
}

/// Response with a body of that media type and status 200.
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

/// Reads the request's body as JSON.
///
/// # Errors
/// The body is too large, incomplete, or not valid for `T`.
pub async fn read_json<T: DeserializeOwned>(body: Incoming) -> Result<T, ApiError> {
    let bytes = Limited::new(body, MAX_JSON_BYTES)
        .collect()
        .await
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "TooLarge",
                    format!("the request has more than {MAX_JSON_BYTES} bytes"),
                )
            } else {
                ApiError::bad_request(format!("the request's body could not be read: {error}"))
            }
        })?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::bad_request(format!("the request's body is not valid for this route: {error}"))
    })
}
