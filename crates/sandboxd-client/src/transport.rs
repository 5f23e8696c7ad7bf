//! HTTP/1.1 over a driver's connection: one request per connection.
//!
//! A connection by Unix socket or port-forward is cheap, and without a pool no request is sent to a sandbox that has been
//! replaced. The responses come from inside a sandbox, so their sizes are bounded and their texts are not trusted.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use fsa_driver::{BoxConnection, DriverError, Endpoint};
use fsa_model::FailureKind;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret;
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::task::AbortOnDropHandle;

use crate::{Error, ErrorResponse, Result, SandboxdClient};

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Default timeout for the head of a response.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum bytes of a JSON response.
const MAX_JSON_BYTES: usize = 8 * 1024 * 1024;
/// Maximum bytes of a line in a stream.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// An empty body.
pub(crate) fn empty() -> Body {
    full(Bytes::new())
}

/// A body in memory.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A response's body. Dropping it ends the connection.
pub struct ResponseBody {
    incoming: Incoming,
    _connection: AbortOnDropHandle<()>,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<http_body::Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.incoming).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.incoming.size_hint()
    }
}

/// A request to a path that needs no encoding.
pub(crate) fn request(method: Method, path: &'static str, body: Body) -> Request<Body> {
    request_to(method, Uri::from_static(path), body)
}

pub(crate) fn request_to(method: Method, uri: Uri, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    request
}

/// A request with a JSON body.
pub(crate) fn json_request(
    method: Method,
    uri: Uri,
    value: &(impl Serialize + Sync),
) -> Result<Request<Body>> {
    let body = serde_json::to_vec(value).map_err(|error| {
        DriverError::new(
            FailureKind::Internal,
            "a request to the sandbox cannot be written",
        )
        .because(error)
    })?;
    let mut request = request_to(method, uri, full(body));
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(request)
}

/// A path with a query or a name in it, both percent-encoded already.
pub(crate) fn uri(text: String) -> Result<Uri> {
    Uri::try_from(text).map_err(|error| {
        DriverError::new(
            FailureKind::Input,
            "a path in the sandbox is too long for a request",
        )
        .because(error)
        .into()
    })
}

impl SandboxdClient<'_> {
    /// Sends a request. Returns the response when its head has arrived; its status is a success or 304.
    pub(crate) async fn send(
        &self,
        mut request: Request<Body>,
        timeout: Duration,
    ) -> Result<Response<ResponseBody>> {
        self.authorize(&mut request);
        let respond = async {
            let connection = self.driver.connect(self.sandbox, Endpoint::Control).await?;
            let (mut sender, task) = handshake(connection).await?;
            let response = sender.send_request(request).await.map_err(broken)?;
            Ok::<_, Error>(response.map(|incoming| ResponseBody {
                incoming,
                _connection: task,
            }))
        };
        let response = tokio::time::timeout(timeout, respond)
            .await
            .map_err(|_| no_answer())??;
        if response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED {
            Ok(response)
        } else {
            Err(refused(response).await)
        }
    }

    /// Sends an upgrade request. Returns the headers of the response and the connection after the upgrade (101, or 200
    /// to CONNECT).
    pub(crate) async fn upgrade(&self, mut request: Request<Body>) -> Result<(HeaderMap, Upgraded)> {
        let connect = request.method() == Method::CONNECT;
        self.authorize(&mut request);
        let respond = async {
            let connection = self.driver.connect(self.sandbox, Endpoint::Control).await?;
            let (mut sender, task) = handshake(connection).await?;
            let response = sender.send_request(request).await.map_err(broken)?;
            let agreed = response.status() == StatusCode::SWITCHING_PROTOCOLS
                || (connect && response.status() == StatusCode::OK);
            if !agreed {
                return Ok(Err(response.map(|incoming| ResponseBody {
                    incoming,
                    _connection: task,
                })));
            }
            let (parts, incoming) = response.into_parts();
            let headers = parts.headers.clone();
            let upgraded = hyper::upgrade::on(Response::from_parts(parts, incoming))
                .await
                .map_err(broken)?;
            Ok::<_, Error>(Ok((headers, upgraded)))
        };
        let outcome = tokio::time::timeout(TIMEOUT, respond)
            .await
            .map_err(|_| no_answer())??;
        match outcome {
            Ok(upgraded) => Ok(upgraded),
            Err(response) => Err(refused(response).await),
        }
    }

    /// Sends a request and reads a JSON response.
    pub(crate) async fn fetch<T: DeserializeOwned>(
        &self,
        request: Request<Body>,
        timeout: Duration,
    ) -> Result<T> {
        self.fetch_bounded(request, timeout, MAX_JSON_BYTES).await
    }

    pub(crate) async fn fetch_bounded<T: DeserializeOwned>(
        &self,
        request: Request<Body>,
        timeout: Duration,
        limit: usize,
    ) -> Result<T> {
        let response = self.send(request, timeout).await?;
        let bytes = read(response.into_body(), timeout, limit).await?;
        serde_json::from_slice(&bytes).map_err(|error| invalid("response", error))
    }

    fn authorize(&self, request: &mut Request<Body>) {
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_static("sandboxd"));
        if let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", self.token.expose_secret())) {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
    }
}

async fn handshake(connection: BoxConnection) -> Result<(http1::SendRequest<Body>, AbortOnDropHandle<()>)> {
    let (sender, connection) = http1::Builder::new()
        .handshake(TokioIo::new(connection))
        .await
        .map_err(broken)?;
    let task = tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    Ok((sender, AbortOnDropHandle::new(task)))
}

async fn refused(response: Response<ResponseBody>) -> Error {
    let (parts, body) = response.into_parts();
    match read(body, TIMEOUT, MAX_JSON_BYTES).await {
        Ok(bytes) => Error::Refused(Box::new(ErrorResponse::parse(parts.status, &bytes))),
        Err(error) => error,
    }
}

/// Reads a bounded body to its end.
async fn read(body: ResponseBody, timeout: Duration, limit: usize) -> Result<Bytes> {
    match tokio::time::timeout(timeout, Limited::new(body, limit).collect()).await {
        Err(_) => Err(no_answer()),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) => Err(DriverError::new(
            FailureKind::Transient,
            "the sandbox's response broke off or is too long",
        )
        .because(error)
        .into()),
    }
}

/// Reads a whole file or archive of at most 8 MiB.
///
/// # Errors
/// The body breaks off or is longer, or the timeout.
pub async fn read_body(body: ResponseBody, timeout: Duration) -> Result<Bytes> {
    read(body, timeout, MAX_JSON_BYTES).await
}

/// The JSON lines of a body. A line of over 1 MiB is an error, and an error ends the stream.
pub(crate) fn json_lines<T: DeserializeOwned + Send>(
    body: ResponseBody,
) -> impl Stream<Item = Result<T>> + Send + use<T> {
    futures_util::stream::unfold(
        (body, BytesMut::new(), false),
        |(mut body, mut buffer, failed)| async move {
            if failed {
                return None;
            }
            loop {
                if let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
                    let line = buffer.split_to(end + 1);
                    let value = serde_json::from_slice(&line[..end]).map_err(|error| invalid("line", error));
                    let failed = value.is_err();
                    return Some((value, (body, buffer, failed)));
                }
                if buffer.len() > MAX_LINE_BYTES {
                    let error =
                        DriverError::new(FailureKind::Transient, "the sandbox sent a line that is too long");
                    return Some((Err(error.into()), (body, buffer, true)));
                }
                match body.frame().await {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            buffer.extend_from_slice(data);
                        }
                    }
                    Some(Err(error)) => return Some((Err(broken(error)), (body, buffer, true))),
                    None => return None,
                }
            }
        },
    )
}

fn invalid(what: &str, error: serde_json::Error) -> Error {
    DriverError::new(
        FailureKind::Transient,
        format!("the sandbox sent a {what} that cannot be parsed"),
    )
    .because(error)
    .into()
}

fn broken(error: hyper::Error) -> Error {
    DriverError::new(
        FailureKind::Transient,
        "the sandbox ended the connection; it may be stopping or restarting",
    )
    .because(error)
    .into()
}

pub(crate) fn no_answer() -> Error {
    DriverError::new(
        FailureKind::Transient,
        "the sandbox does not answer; if this lasts, restart it",
    )
    .into()
}
