//! WebSockets: the handshake over hyper, and the limits that hold for all of them.

use std::{future::Future, io, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{ApiError, Body, status, stream::Stream, upgraded};

/// Open WebSocket.
pub type Socket = WebSocketStream<Stream>;

/// Maximum bytes of a message from a client: room for a large paste.
pub const MESSAGE_LIMIT: usize = 1024 * 1024;
/// Interval of pings.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);
/// A peer that sent nothing for so long, not even a pong, is gone.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(65);

/// Validates the handshake (RFC 6455, section 4.2.1). Returns the response to send, and the socket,
/// which is open once the response was sent.
///
/// # Errors
/// The handshake is invalid.
pub fn accept(
    mut request: Request<Incoming>,
    protocol: Option<&'static str>,
) -> Result<(Response<Body>, impl Future<Output = io::Result<Socket>> + Send), ApiError> {
    let headers = request.headers();
    if !is_upgrade(headers) {
        let mut error =
            ApiError::bad_request("this route is a WebSocket; connect with a client that speaks it");
        error.status = StatusCode::UPGRADE_REQUIRED;
        return Err(error);
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(ApiError::bad_request(
            "only version 13 of the WebSocket protocol is supported",
        ));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| ApiError::bad_request("the WebSocket handshake has no Sec-WebSocket-Key"))?;
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    let accept = derive_accept_key(key.as_bytes());
    let response_headers = response.headers_mut();
    response_headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response_headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        response_headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        if offered.iter().any(|offer| has_word(offer, protocol)) {
            response_headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        } else if offered.iter().next().is_some() {
            return Err(ApiError::bad_request(format!(
                "the only supported subprotocol is `{protocol}`"
            )));
        }
    }
    let upgrade = hyper::upgrade::on(&mut request);
    Ok((response, async move {
        let (stream, read) = upgraded(upgrade).await?;
        // Small buffers: most sockets carry keys. Each message is written immediately.
        let config = WebSocketConfig::default()
            .read_buffer_size(8 * 1024)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * MESSAGE_LIMIT)
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(MESSAGE_LIMIT));
        Ok(WebSocketStream::from_partially_read(stream, read.into(), Role::Server, Some(config)).await)
    }))
}

/// Whether the request is a WebSocket upgrade.
#[must_use]
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let has = |name: header::HeaderName, word: &str| headers.get_all(name).iter().any(|v| has_word(v, word));
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// Whether a comma-separated list contains the word, ignoring case.
fn has_word(list: &HeaderValue, word: &str) -> bool {
    list.to_str()
        .is_ok_and(|list| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(word)))
}
