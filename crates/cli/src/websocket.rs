//! WebSockets over the API client, which adds TLS and the token.

use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::client::generate_key, protocol::Role},
};

use crate::{
    client::Client,
    failure::{Code, Failure},
};

/// A WebSocket to the server.
pub type Socket = WebSocketStream<reqwest::Upgraded>;

/// Timeout of the upgrade.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens `path` as a WebSocket (RFC 6455), with a subprotocol if one is given.
pub async fn open(client: &Client, path: &str, subprotocol: Option<&str>) -> Result<Socket, Failure> {
    let mut request = client
        .request(Method::GET, path)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key());
    if let Some(subprotocol) = subprotocol {
        request = request.header(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    let response = tokio::time::timeout(UPGRADE_TIMEOUT, request.send())
        .await
        .map_err(|_| {
            Failure::new(
                Code::Unreachable,
                "the server took too long to open the connection",
            )
        })??;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status().as_u16();
        let bytes = response.bytes().await.unwrap_or_default();
        return Err(Failure::from_response(status, &bytes));
    }
    let upgraded = response.upgrade().await?;
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
}
