//! API client: sends requests with the token, and reads answers, errors and event streams.

use std::time::Duration;

use eventsource_stream::{Event, EventStreamError, Eventsource as _};
use futures_util::{StreamExt as _, TryStreamExt as _, stream::LocalBoxStream};
use reqwest::{Method, RequestBuilder, Response, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    credentials::{self, Target},
    failure::{Code, Failure},
};

/// Timeout of connecting.
const CONNECT: Duration = Duration::from_secs(10);
/// Timeout of an answer that is no stream.
const ANSWER: Duration = Duration::from_secs(90);

/// Maximum length of a line of an event stream, which is kept in memory until it ends.
const LINE_MOST: usize = 4 << 20;

/// Server-sent events. It ends when the server ends the stream.
pub type EventStream = LocalBoxStream<'static, Result<Event, Failure>>;

/// A server, and the token for it.
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<SecretString>,
}

impl Client {
    /// To the server of `--url`, `FSA_URL` or the last sign-in.
    pub fn connect(url: Option<&str>) -> Result<Self, Failure> {
        let Target { url, token } = credentials::target(url)?;
        Self::to(url, token)
    }

    pub fn to(url: String, token: Option<SecretString>) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .user_agent(concat!("fsa/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, url, token })
    }

    /// A request with the token, and no limit on how long its answer goes on.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        request
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        read(sent(self.request(Method::GET, path).timeout(ANSWER)).await?).await
    }

    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, Failure> {
        read(sent(self.request(method, path).timeout(ANSWER).json(body)).await?).await
    }

    /// Sends a body and ignores the answer's.
    pub async fn order(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<(), Failure> {
        sent(self.request(method, path).timeout(ANSWER).json(body))
            .await
            .map(drop)
    }

    /// An event stream, from its beginning or after the event with the id `last`.
    pub async fn events(&self, path: &str, last: Option<&str>) -> Result<EventStream, Failure> {
        let mut request = self
            .request(Method::GET, path)
            .header(header::ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = sent(request).await?;
        let mut line = 0;
        let bytes = response
            .bytes_stream()
            .map_err(Failure::from)
            .and_then(move |bytes| {
                line = unfinished(line, &bytes);
                std::future::ready(if line > LINE_MOST {
                    let most = LINE_MOST >> 20;
                    Err(Failure::failed(format!(
                        "the server sent an event of more than {most} MiB"
                    )))
                } else {
                    Ok(bytes)
                })
            });
        Ok(bytes.eventsource().map_err(broken).boxed_local())
    }
}

/// Pure: the length of the unfinished line after `bytes`, of which `before` came earlier.
fn unfinished(before: usize, bytes: &[u8]) -> usize {
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => bytes.len() - end - 1,
        None => before + bytes.len(),
    }
}

/// Why an event stream cannot be read on.
fn broken(error: EventStreamError<Failure>) -> Failure {
    match error {
        EventStreamError::Transport(failure) => failure,
        error => Failure::failed(format!("the server sent a malformed event stream: {error}")),
    }
}

/// Sends, and turns an error answer into its sentence.
pub async fn sent(request: RequestBuilder) -> Result<Response, Failure> {
    let response = request.send().await?;
    let status = response.status();
    if status.is_success() || status.is_informational() {
        return Ok(response);
    }
    let bytes = response.bytes().await.unwrap_or_default();
    Err(Failure::from_answer(status.as_u16(), &bytes))
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, Failure> {
    let bytes = response.bytes().await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(
            Code::Failed,
            format!("this version of fsa cannot read the server's answer: {error}"),
        )
    })
}

/// `text` as one segment of a path or one value of a query.
pub fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_grows_until_it_ends() {
        assert_eq!(unfinished(3, b"ab"), 5);
        assert_eq!(unfinished(3, b"ab\ncd\ne"), 1);
        assert_eq!(unfinished(LINE_MOST, b"\n"), 0);
    }
}
