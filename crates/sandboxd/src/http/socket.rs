//! WebSockets: the handshake over hyper, and the limits of every one of them.

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

use super::{Body, Refusal, status, stream::Stream, upgraded};

/// An open WebSocket.
pub type Socket = WebSocketStream<Stream>;

/// Of a message from a client: a large paste, no more.
pub const MESSAGE_LIMIT: usize = 1024 * 1024;
/// How often a peer is asked whether it is still there.
pub const PING_EVERY: Duration = Duration::from_secs(20);
/// A peer that said nothing for so long, not even to a ping, is gone.
pub const SILENT_FOR: Duration = Duration::from_secs(65);

/// Checks the handshake (RFC 6455, section 4.2.1), and gives the answer to send and the socket
/// that is open once it was sent.
///
/// # Errors
/// What the handshake lacks.
pub fn accept(
    mut request: Request<Incoming>,
    protocol: Option<&'static str>,
) -> Result<(Response<Body>, impl Future<Output = io::Result<Socket>> + Send), Refusal> {
    let headers = request.headers();
    if !wanted(headers) {
        let mut refusal = Refusal::bad("this route is a WebSocket; connect with a client that speaks it");
        refusal.status = StatusCode::UPGRADE_REQUIRED;
        return Err(refusal);
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(Refusal::bad(
            "only version 13 of the WebSocket protocol is spoken here",
        ));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Refusal::bad("the WebSocket handshake has no Sec-WebSocket-Key"))?;
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    let accept = derive_accept_key(key.as_bytes());
    let answers = response.headers_mut();
    answers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        answers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        if offered.iter().any(|offer| has_word(offer, protocol)) {
            answers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        } else if offered.iter().next().is_some() {
            return Err(Refusal::bad(format!("the only subprotocol here is `{protocol}`")));
        }
    }
    let upgrade = hyper::upgrade::on(&mut request);
    Ok((response, async move {
        let (stream, read) = upgraded(upgrade).await?;
        // Small buffers: most sockets carry keys. Each message is written at once.
        let config = WebSocketConfig::default()
            .read_buffer_size(8 * 1024)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * MESSAGE_LIMIT)
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(MESSAGE_LIMIT));
        Ok(WebSocketStream::from_partially_read(stream, read.into(), Role::Server, Some(config)).await)
    }))
}

/// Whether the request asks to become a WebSocket.
#[must_use]
pub fn wanted(headers: &HeaderMap) -> bool {
    let has = |name: header::HeaderName, word: &str| headers.get_all(name).iter().any(|v| has_word(v, word));
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// Whether a comma-separated list has the word, in either case.
fn has_word(list: &HeaderValue, word: &str) -> bool {
    list.to_str()
        .is_ok_and(|list| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(word)))
}
