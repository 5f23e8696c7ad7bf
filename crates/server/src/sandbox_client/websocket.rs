//! WebSocket proxy between a client and sandboxd: forwards sandboxd's own response to the handshake with the
//! client's key, then copies the bytes of each side to the other. Frames are neither parsed nor written here,
//! and their masks are unchanged, because each side keeps its own role.

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fsa_driver::BoxConnection;
use fsa_model::http_fields::lists;
use fsa_sandboxd_client::WebSocketRequest;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::byte_tunnel;
use crate::{
    Error, Result,
    core::Core,
    tunnel::{CloseReason, TunnelProtocol, relay},
};

/// A validated handshake of a client.
pub(crate) struct Handshake {
    request: WebSocketRequest,
    client: OnUpgrade,
}

impl Handshake {
    /// Checks that a request opens a WebSocket, with `protocol` if one is given.
    ///
    /// # Errors
    /// 400 or 426 if it does not.
    pub(crate) fn check(mut request: Request<Body>, protocol: Option<&'static str>) -> Result<Self> {
        let key = key(&request, protocol)?;
        Ok(Self {
            request: WebSocketRequest { key, protocol },
            client: hyper::upgrade::on(&mut request),
        })
    }

    /// The same handshake, for sandboxd.
    pub(crate) fn request(&self) -> &WebSocketRequest {
        &self.request
    }

    /// Sends sandboxd's response to the client, and copies bytes until one side ends or `end` is ready. Holds
    /// `permit` for that time.
    ///
    /// # Errors
    /// 502 if sandboxd's response does not match this handshake.
    pub(crate) fn accept(
        self,
        core: &Core,
        (answer, server): (HeaderMap, Upgraded),
        end: impl Future<Output = CloseReason> + Send + 'static,
        permit: impl Send + 'static,
    ) -> Result<Response> {
        let accept = accept_of(&self.request.key);
        if answer.get(header::SEC_WEBSOCKET_ACCEPT) != Some(&accept) {
            return Err(Error::new(
                StatusCode::BAD_GATEWAY,
                "BrokenAnswer",
                "The sandbox answered a different WebSocket handshake.",
            ));
        }
        let client = self.client;
        core.tunnels.spawn(async move {
            if let Ok(client) = client.await {
                let (client, server) = (TokioIo::new(client), TokioIo::new(server));
                relay(client, server, Bytes::new(), TunnelProtocol::WebSocket, end).await;
            }
            drop(permit);
        });
        Ok(switching(accept, self.request.protocol))
    }

    /// Accepts the handshake, and carries the bytes of `connection` in binary messages until one side ends or `end` is
    /// ready. Holds `permit` for that time.
    pub(crate) fn carry(
        self,
        core: &Core,
        connection: BoxConnection,
        end: impl Future<Output = CloseReason> + Send + 'static,
        permit: impl Send + 'static,
    ) -> Response {
        let client = self.client;
        core.tunnels.spawn(async move {
            if let Ok(client) = client.await {
                byte_tunnel::carry(TokioIo::new(client), connection, end).await;
            }
            drop(permit);
        });
        switching(accept_of(&self.request.key), self.request.protocol)
    }
}

/// The answer to a handshake (RFC 6455 §4.2.2).
fn switching(accept: HeaderValue, protocol: Option<&'static str>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

/// Checks that a request opens a WebSocket (RFC 6455 §4.2.1) and returns its key.
fn key(request: &Request<Body>, protocol: Option<&str>) -> Result<HeaderValue> {
    let headers = request.headers();
    let upgrades = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && lists(headers, header::CONNECTION, "upgrade")
        && lists(headers, header::UPGRADE, "websocket");
    if !upgrades {
        return Err(Error::new(
            StatusCode::UPGRADE_REQUIRED,
            "UpgradeRequired",
            "This path needs a WebSocket client.",
        ));
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(Error::bad_request(
            "Only version 13 of the WebSocket protocol is supported.",
        ));
    }
    if let Some(protocol) = protocol
        && !lists(headers, header::SEC_WEBSOCKET_PROTOCOL, protocol)
    {
        return Err(Error::bad_request(format!(
            "The WebSocket must offer the subprotocol {protocol:?}."
        )));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    key.filter(|key| STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16))
        .cloned()
        .ok_or_else(|| Error::bad_request("The WebSocket's handshake has no valid Sec-WebSocket-Key."))
}

fn accept_of(key: &HeaderValue) -> HeaderValue {
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    HeaderValue::try_from(accept).unwrap_or_else(|_| HeaderValue::from_static(""))
}
