//! The API client: one place that sends requests, adds the token and reads errors.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    credentials::{self, Target},
    failure::{Code, Failure},
};

/// How long the server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may take to answer what is not a stream.
const ANSWER: Duration = Duration::from_secs(90);

/// A server and how to talk to it.
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

    /// Sends a body and does not look at the answer's.
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

    /// An event stream, from its beginning or after `last`.
    pub async fn stream(&self, path: &str, last: Option<&str>) -> Result<Response, Failure> {
        let mut request = self
            .request(Method::GET, path)
            .header(header::ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        sent(request).await
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
            format!("the server's answer makes no sense to this version of fsa: {error}"),
        )
    })
}

/// `text` as one segment of a path or one value of a query.
pub fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
