//! A client for sandboxd's control interface over any driver's connection.
//!
//! One request per connection: a Unix socket or a port-forward is cheap, and no pool can then
//! hand out a connection into a sandbox that has since been replaced. The answers come from
//! inside a sandbox, so their sizes are bounded and their words are not trusted.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use fsa_model::{FailureKind, SandboxRef, sandboxd::Status};
use futures_util::{Stream, StreamExt as _};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};

use crate::{BoxConnection, Driver, DriverError, Endpoint, Result};

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// How long sandboxd may take to accept and to begin its answer, unless the caller says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// A JSON answer's length.
const JSON_LIMIT: usize = 8 * 1024 * 1024;
/// A line of a stream's length.
const LINE_LIMIT: usize = 1024 * 1024;

/// A body with nothing in it.
#[must_use]
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body that is in memory already.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// sandboxd of one sandbox.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    driver: &'a dyn Driver,
    sandbox: &'a SandboxRef,
    token: &'a SecretString,
}

/// Ends the connection's task when the answer is no longer wanted.
struct Ended(tokio::task::JoinHandle<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer's body, whose connection lives exactly as long as it is read.
pub struct AnswerBody {
    incoming: Incoming,
    _connection: Ended,
}

impl http_body::Body for AnswerBody {
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

impl<'a> Control<'a> {
    #[must_use]
    pub fn new(driver: &'a dyn Driver, sandbox: &'a SandboxRef, token: &'a SecretString) -> Self {
        Self {
            driver,
            sandbox,
            token,
        }
    }

    /// Sends one request and returns its answer as it begins, whatever its status. `request`'s
    /// path is sandboxd's (`/v1/…`); the token and the host are added here. Bodies stream.
    ///
    /// # Errors
    /// Where sandboxd cannot be reached, or does not answer within `patience`.
    pub async fn send(&self, mut request: Request<Body>, patience: Duration) -> Result<Response<AnswerBody>> {
        self.authorize(&mut request);
        let answer = async {
            let connection = self.driver.connect(self.sandbox, Endpoint::Control).await?;
            let (mut sender, task) = handshake(connection).await?;
            let response = sender.send_request(request).await.map_err(unanswered)?;
            Ok(response.map(|incoming| AnswerBody {
                incoming,
                _connection: task,
            }))
        };
        tokio::time::timeout(patience, answer)
            .await
            .map_err(|_| silent())?
    }

    /// Sends a request that asks for an upgrade, and returns the connection once sandboxd has
    /// agreed (101, or 200 to CONNECT); otherwise its refusal.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn upgrade(
        &self,
        mut request: Request<Body>,
        patience: Duration,
    ) -> Result<std::result::Result<(http::response::Parts, hyper::upgrade::Upgraded), Response<AnswerBody>>>
    {
        let connect = request.method() == http::Method::CONNECT;
        self.authorize(&mut request);
        let answer = async {
            let connection = self.driver.connect(self.sandbox, Endpoint::Control).await?;
            let (mut sender, task) = handshake(connection).await?;
            let response = sender.send_request(request).await.map_err(unanswered)?;
            let agreed = response.status() == StatusCode::SWITCHING_PROTOCOLS
                || (connect && response.status() == StatusCode::OK);
            if !agreed {
                return Ok(Err(response.map(|incoming| AnswerBody {
                    incoming,
                    _connection: task,
                })));
            }
            let (parts, incoming) = response.into_parts();
            let upgraded = hyper::upgrade::on(Response::from_parts(parts.clone(), incoming))
                .await
                .map_err(unanswered)?;
            Ok(Ok((parts, upgraded)))
        };
        tokio::time::timeout(patience, answer)
            .await
            .map_err(|_| silent())?
    }

    /// Sends JSON (or nothing) and reads a JSON answer of success.
    ///
    /// # Errors
    /// As [`Self::send`], and where the answer is not of success or not what was expected.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        patience: Duration,
    ) -> Result<T> {
        let mut request = Request::builder().method(method).uri(path);
        let body = match body {
            Some(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                full(
                    serde_json::to_vec(value)
                        .map_err(|e| internal("a request cannot be written").because(e))?,
                )
            }
            None => empty(),
        };
        let request = request
            .body(body)
            .map_err(|e| internal("a request cannot be made").because(e))?;
        let response = self.send(request, patience).await?;
        let status = response.status();
        let bytes = read(response.into_body(), patience).await?;
        if !status.is_success() {
            return Err(DriverError::new(
                FailureKind::Transient,
                format!("the sandbox refused a request ({status}): {}", said(&bytes)),
            ));
        }
        serde_json::from_slice(&bytes).map_err(|e| {
            DriverError::new(
                FailureKind::Transient,
                "the sandbox gave an answer that makes no sense",
            )
            .because(e)
        })
    }

    /// What is so now.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub async fn status(&self) -> Result<Status> {
        self.json(http::Method::GET, "/v1/status", None::<&()>, PATIENCE)
            .await
    }

    /// The status now and at each change, until the sandbox ends or the stream is dropped.
    ///
    /// # Errors
    /// As [`Self::send`]; later ones end the stream.
    pub async fn watch(&self) -> Result<impl Stream<Item = Result<Status>> + Send + use<>> {
        let request = Request::get("/v1/watch")
            .body(empty())
            .map_err(|e| internal("a request cannot be made").because(e))?;
        let response = self.send(request, PATIENCE).await?;
        if !response.status().is_success() {
            let status = response.status();
            return Err(DriverError::new(
                FailureKind::Transient,
                format!("the sandbox would not be watched ({status})"),
            ));
        }
        Ok(lines(response.into_body()).map(|line| {
            line.and_then(|line| {
                serde_json::from_slice(&line).map_err(|e| {
                    DriverError::new(
                        FailureKind::Transient,
                        "the sandbox sent a status that makes no sense",
                    )
                    .because(e)
                })
            })
        }))
    }

    /// Waits until terminals can be opened.
    ///
    /// # Errors
    /// As [`Self::watch`], and where the sandbox ends first or `patience` runs out.
    pub async fn await_ready(&self, patience: Duration) -> Result<Status> {
        let wait = async {
            let mut statuses = std::pin::pin!(self.watch().await?);
            while let Some(status) = statuses.next().await {
                let status = status?;
                if status.ready {
                    return Ok(status);
                }
            }
            Err(DriverError::new(
                FailureKind::Transient,
                "the sandbox ended before its terminal was ready",
            ))
        };
        tokio::time::timeout(patience, wait).await.map_err(|_| silent())?
    }

    fn authorize(&self, request: &mut Request<Body>) {
        let headers = request.headers_mut();
        headers.insert(header::HOST, header::HeaderValue::from_static("sandboxd"));
        if let Ok(mut value) = header::HeaderValue::try_from(format!("Bearer {}", self.token.expose_secret()))
        {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
    }
}

async fn handshake(connection: BoxConnection) -> Result<(http1::SendRequest<Body>, Ended)> {
    let (sender, connection) = http1::Builder::new()
        .handshake(TokioIo::new(connection))
        .await
        .map_err(unanswered)?;
    let task = tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    Ok((sender, Ended(task)))
}

/// Reads a bounded body to its end.
///
/// # Errors
/// Where it breaks off, is longer than 8 MiB, or takes longer than `patience`.
pub async fn read(body: AnswerBody, patience: Duration) -> Result<Bytes> {
    let collected = tokio::time::timeout(patience, Limited::new(body, JSON_LIMIT).collect()).await;
    match collected {
        Err(_) => Err(silent()),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) => Err(DriverError::new(
            FailureKind::Transient,
            "the sandbox's answer broke off or is too long",
        )
        .because(error)),
    }
}

/// The lines of a body, without their ends. A line of over 1 MiB is an error.
pub fn lines(body: AnswerBody) -> impl Stream<Item = Result<Bytes>> + Send {
    futures_util::stream::unfold(
        (body, BytesMut::new(), false),
        |(mut body, mut buffer, failed)| async move {
            if failed {
                return None;
            }
            loop {
                if let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
                    let mut line = buffer.split_to(end + 1);
                    line.truncate(end);
                    return Some((Ok(line.freeze()), (body, buffer, false)));
                }
                if buffer.len() > LINE_LIMIT {
                    let error =
                        DriverError::new(FailureKind::Transient, "the sandbox sent a line that is too long");
                    return Some((Err(error), (body, buffer, true)));
                }
                match body.frame().await {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            buffer.extend_from_slice(data);
                        }
                    }
                    Some(Err(error)) => return Some((Err(unanswered(error)), (body, buffer, true))),
                    None => return None,
                }
            }
        },
    )
}

/// At most 300 characters of an answer that nobody vouches for.
fn said(bytes: &[u8]) -> String {
    let text = serde_json::from_slice::<serde_json::Value>(bytes)
        .ok()
        .and_then(|value| value.get("error")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned());
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn unanswered(error: hyper::Error) -> DriverError {
    DriverError::new(
        FailureKind::Transient,
        "the sandbox ended the connection; it may be stopping or restarting",
    )
    .because(error)
}

fn silent() -> DriverError {
    DriverError::new(
        FailureKind::Transient,
        "the sandbox does not answer; if this lasts, restart it",
    )
}

fn internal(message: &str) -> DriverError {
    DriverError::new(FailureKind::Internal, message)
}
