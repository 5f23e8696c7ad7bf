//! Upgrade requests: WebSockets, tunnels to a port, the sandbox callback.

use fsa_model::{callback, sandboxd::paths};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use hyper::upgrade::Upgraded;
use url::form_urlencoded::Serializer;

use crate::{
    Result, SandboxdClient,
    transport::{Body, empty, request, request_to, uri},
};

/// A client's opening handshake (RFC 6455 §4.1), which is forwarded with the client's key.
#[derive(Clone, Debug)]
pub struct WebSocketRequest {
    pub key: HeaderValue,
    pub protocol: Option<&'static str>,
}

/// A terminal session.
#[derive(Clone, Copy, Debug, Default)]
pub struct TerminalQuery<'a> {
    /// Default: `main`.
    pub session: Option<&'a str>,
    /// `dev` (default) or `root`, for a new session.
    pub user: Option<&'a str>,
    /// Read-only access to an existing session.
    pub watch: bool,
}

impl TerminalQuery<'_> {
    fn uri(&self) -> Result<Uri> {
        let mut query = Serializer::new(String::new());
        for (name, value) in [("session", self.session), ("user", self.user)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let path = if self.watch {
            paths::TERMINAL_WATCH
        } else {
            paths::TERMINAL
        };
        uri(format!("{path}?{}", query.finish()))
    }
}

impl SandboxdClient<'_> {
    /// Opens a terminal. Returns the headers of sandboxd's handshake, and the connection after it.
    ///
    /// # Errors
    /// [`crate::Error`].
    pub async fn terminal(
        &self,
        query: &TerminalQuery<'_>,
        websocket: &WebSocketRequest,
    ) -> Result<(HeaderMap, Upgraded)> {
        self.websocket(query.uri()?, websocket).await
    }

    /// Opens a WebSocket for a command, which is in its first message. Returns as [`Self::terminal`].
    ///
    /// # Errors
    /// [`crate::Error`].
    pub async fn exec_websocket(&self, websocket: &WebSocketRequest) -> Result<(HeaderMap, Upgraded)> {
        self.websocket(Uri::from_static(paths::EXEC), websocket).await
    }

    /// Opens the sandbox callback: a connection on which sandboxd is the HTTP/2 client.
    ///
    /// # Errors
    /// [`crate::Error`].
    pub async fn open_callback(&self) -> Result<Upgraded> {
        let request = upgrading(
            request(Method::POST, callback::ROUTE, empty()),
            HeaderValue::from_static(callback::UPGRADE),
        );
        self.upgrade(request).await.map(|(_, connection)| connection)
    }

    /// Opens a connection to a port on the sandbox's loopback.
    ///
    /// # Errors
    /// [`crate::Error`]: also if no process listens on the port.
    pub async fn connect_port(&self, port: u16) -> Result<Upgraded> {
        let request = request_to(Method::CONNECT, uri(format!("127.0.0.1:{port}"))?, empty());
        self.upgrade(request).await.map(|(_, connection)| connection)
    }

    async fn websocket(&self, uri: Uri, websocket: &WebSocketRequest) -> Result<(HeaderMap, Upgraded)> {
        let mut request = upgrading(
            request_to(Method::GET, uri, empty()),
            HeaderValue::from_static("websocket"),
        );
        let headers = request.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(header::SEC_WEBSOCKET_KEY, websocket.key.clone());
        if let Some(protocol) = websocket.protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        self.upgrade(request).await
    }
}

fn upgrading(mut request: http::Request<Body>, protocol: HeaderValue) -> http::Request<Body> {
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, protocol);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_and_its_user_are_parameters() {
        let query = TerminalQuery {
            session: Some("a.b-c_1"),
            user: Some("root"),
            watch: false,
        };
        assert_eq!(query.uri().unwrap(), "/v1/terminal?session=a.b-c_1&user=root");
        assert_eq!(TerminalQuery::default().uri().unwrap(), "/v1/terminal?");
        let watch = TerminalQuery {
            session: Some("a&user=root"),
            watch: true,
            ..TerminalQuery::default()
        };
        assert_eq!(watch.uri().unwrap(), "/v1/terminal/watch?session=a%26user%3Droot");
    }
}
