//! API client for tests: a user with a token or a cookie, and the responses to their requests.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use fsa_model::{ErrorBody, event::Event};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Timeout of every wait in a test.
const TIMEOUT: Duration = Duration::from_secs(240);

/// A client with its headers.
#[derive(Clone)]
pub struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    headers: HeaderMap,
}

/// A response.
#[derive(Debug)]
pub struct ApiResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An event stream that is being read.
pub struct Events {
    body: Incoming,
    buffer: String,
}

/// One message of a stream.
#[derive(Debug)]
pub struct Message {
    pub id: i64,
    pub event: Event,
}

impl Client {
    /// A client without credentials.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            http: Http::builder(TokioExecutor::new()).build(HttpConnector::new()),
            address,
            headers: HeaderMap::new(),
        }
    }

    /// The same client with one more header on every request.
    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        client
            .headers
            .insert(name, value.parse().expect("a header's value"));
        client
    }

    /// The value of a header that it sends.
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("a header is text")
    }

    /// The same client with an API token.
    pub fn token(&self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    /// The same client with the cookie of a signed-in browser on the control plane's own page.
    pub fn browser(&self, answer: &ApiResponse) -> Self {
        let cookie = answer.cookie().expect("a session's cookie");
        self.with("cookie", &cookie)
            .with("origin", &format!("http://{}", self.address))
    }

    /// The same client with one more cookie.
    pub fn also_cookie(&self, cookie: &str) -> Self {
        let cookies = self.headers[header::COOKIE].to_str().expect("a cookie is text");
        self.with("cookie", &format!("{cookies}; {cookie}"))
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> ApiResponse {
        let body = body.map(|value| Bytes::from(value.to_string()));
        let kind = body.is_some().then_some("application/json");
        self.send_bytes(method, path, kind, body.unwrap_or_default())
            .await
    }

    pub async fn send_bytes(
        &self,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: Bytes,
    ) -> ApiResponse {
        let response = self.begin(method, path, kind, body).await;
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(TIMEOUT, body.collect())
            .await
            .expect("the answer ends in time")
            .expect("the answer does not break off")
            .to_bytes();
        ApiResponse {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn begin(
        &self,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: Bytes,
    ) -> http::Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        *request.headers_mut().expect("a well-formed request") = self.headers.clone();
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request.body(Full::new(body)).expect("a well-formed request");
        tokio::time::timeout(TIMEOUT, self.http.request(request))
            .await
            .expect("an answer begins in time")
            .expect("the server answers")
    }

    pub async fn get(&self, path: &str) -> ApiResponse {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> ApiResponse {
        self.send(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> ApiResponse {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> ApiResponse {
        self.send(Method::PATCH, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> ApiResponse {
        self.send(Method::DELETE, path, None).await
    }

    /// A POST without a body.
    pub async fn post_empty(&self, path: &str) -> ApiResponse {
        self.send(Method::POST, path, None).await
    }

    /// Opens a stream of events.
    pub async fn events(&self, path: &str) -> Events {
        let response = self.begin(Method::GET, path, None, Bytes::new()).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Events {
            body: response.into_body(),
            buffer: String::new(),
        }
    }
}

impl ApiResponse {
    /// The response, if it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status.as_u16(),
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        self
    }

    #[track_caller]
    pub fn read<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        self.read()
    }

    /// The error, in the form that all errors have.
    #[track_caller]
    pub fn error(&self) -> ErrorBody {
        self.read()
    }

    /// The name of the refused field.
    #[track_caller]
    pub fn field(&self) -> String {
        self.error().details.field.expect("a field is named").name
    }

    pub fn cookie(&self) -> Option<String> {
        let cookie = self.headers.get(header::SET_COOKIE)?.to_str().ok()?;
        cookie.split(';').next().map(str::to_owned)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Events {
    /// The next event; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some((message, rest)) = self.buffer.split_once("\n\n") {
                let (message, rest) = (message.to_owned(), rest.to_owned());
                self.buffer = rest;
                let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                    return Some(Message {
                        id: id.parse().expect("an event's id is a number"),
                        event: serde_json::from_str(data).expect("an event is JSON"),
                    });
                }
                continue;
            }
            let frame = tokio::time::timeout(TIMEOUT, self.body.frame())
                .await
                .expect("an event comes in time")?;
            if let Some(data) = frame.ok()?.data_ref() {
                self.buffer
                    .push_str(std::str::from_utf8(data).expect("events are UTF-8"));
            }
        }
    }
}
