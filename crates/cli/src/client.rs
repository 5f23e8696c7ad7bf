//! API client: sends requests with the token, and parses responses, errors and event streams.

use std::{sync::Arc, time::Duration};

use eventsource_stream::{Event, EventStreamError, Eventsource as _};
use futures_util::{StreamExt as _, TryStreamExt as _, stream::LocalBoxStream};
use reqwest::{Method, RequestBuilder, Response, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    credentials::{self, Target},
    failure::{Code, Failure},
    loopback_names::LoopbackNames,
};

/// Timeout of the connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a response that is not a stream.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(90);

/// Maximum length of a line in an event stream. A line is buffered until it is complete.
const MAX_LINE_BYTES: usize = 4 << 20;

/// Server-sent events, until the server ends the stream.
pub type EventStream = LocalBoxStream<'static, Result<Event, Failure>>;

/// A server, and the token for it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<SecretString>,
}

impl Client {
    /// Client for the server of `--url`, `FSA_URL` or the last sign-in.
    pub fn connect(url: Option<&str>) -> Result<Self, Failure> {
        let Target { url, token } = credentials::target(url)?;
        Self::with_token(url, token)
    }

    pub fn with_token(url: String, token: Option<SecretString>) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("fsa/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(LoopbackNames))
            .build()?;
        Ok(Self { http, url, token })
    }

    /// A request with the token, and without a timeout for the response.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        request
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parse(checked(self.request(Method::GET, path).timeout(RESPONSE_TIMEOUT)).await?).await
    }

    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, Failure> {
        parse(checked(self.request(method, path).timeout(RESPONSE_TIMEOUT).json(body)).await?).await
    }

    /// Sends a request and ignores the response's body.
    pub async fn execute(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<(), Failure> {
        checked(self.request(method, path).timeout(RESPONSE_TIMEOUT).json(body))
            .await
            .map(drop)
    }

    /// Opens an event stream, after the event with the id `last` if one is given.
    pub async fn events(&self, path: &str, last: Option<&str>) -> Result<EventStream, Failure> {
        let mut request = self
            .request(Method::GET, path)
            .header(header::ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = checked(request).await?;
        let mut line = 0;
        let bytes = response
            .bytes_stream()
            .map_err(Failure::from)
            .and_then(move |bytes| {
                line = unfinished_line(line, &bytes);
                std::future::ready(if line > MAX_LINE_BYTES {
                    let most = MAX_LINE_BYTES >> 20;
                    Err(Failure::failed(format!(
                        "the server sent an event of more than {most} MiB"
                    )))
                } else {
                    Ok(bytes)
                })
            });
        Ok(bytes.eventsource().map_err(stream_failure).boxed_local())
    }
}

/// The length of the unfinished line after `bytes`; `before` is its length before them.
fn unfinished_line(before: usize, bytes: &[u8]) -> usize {
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => bytes.len() - end - 1,
        None => before + bytes.len(),
    }
}

/// The failure of an event stream.
fn stream_failure(error: EventStreamError<Failure>) -> Failure {
    match error {
        EventStreamError::Transport(failure) => failure,
        error => Failure::failed(format!("the server sent a malformed event stream: {error}")),
    }
}

/// Sends a request. A response with an error status becomes a failure.
pub async fn checked(request: RequestBuilder) -> Result<Response, Failure> {
    let response = request.send().await?;
    let status = response.status();
    if status.is_success() || status.is_informational() {
        return Ok(response);
    }
    let bytes = response.bytes().await.unwrap_or_default();
    Err(Failure::from_response(status.as_u16(), &bytes))
}

async fn parse<T: DeserializeOwned>(response: Response) -> Result<T, Failure> {
    let bytes = response.bytes().await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(
            Code::Failed,
            format!("this version of fsa cannot read the server's response: {error}"),
        )
    })
}

/// Percent-encodes a segment of a path or a value of a query.
pub fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_unfinished_until_its_line_feed() {
        assert_eq!(unfinished_line(3, b"ab"), 5);
        assert_eq!(unfinished_line(3, b"ab\ncd\ne"), 1);
        assert_eq!(unfinished_line(MAX_LINE_BYTES, b"\n"), 0);
    }
}
