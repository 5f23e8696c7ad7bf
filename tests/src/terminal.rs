//! Terminal client: speaks ttyd's protocol over the API's WebSocket.

use std::time::Duration;

use fsa_model::tty::{self, WindowSize};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{StatusCode, header};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::client::generate_key, protocol::Role},
};

use crate::api::Api;

const TIMEOUT: Duration = Duration::from_secs(240);

/// Open terminal.
pub struct TestTerminal {
    pub socket: WebSocketStream<reqwest::Upgraded>,
    /// Everything shown so far.
    pub shown: Vec<u8>,
}

impl TestTerminal {
    /// Opens a session of a project's sandbox.
    pub async fn open(api: &Api, project: &str, session: &str) -> Self {
        let path = format!("/api/projects/{project}/terminal?session={session}");
        Self::over(api.request(reqwest::Method::GET, &path)).await
    }

    /// Opens the terminal of a request.
    pub async fn over(request: reqwest::RequestBuilder) -> Self {
        let response = request
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .header(header::SEC_WEBSOCKET_PROTOCOL, tty::SUBPROTOCOL)
            .timeout(Duration::from_secs(3600))
            .send()
            .await
            .expect("an answer");
        assert_eq!(
            response.status(),
            StatusCode::SWITCHING_PROTOCOLS,
            "{:?}",
            response.text().await
        );
        let upgraded = response.upgrade().await.expect("an upgraded connection");
        let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
        let size = WindowSize {
            columns: 100,
            rows: 30,
        };
        socket
            .send(Message::binary(tty::hello("", size).into_bytes()))
            .await
            .expect("a hello is taken");
        Self {
            socket,
            shown: Vec::new(),
        }
    }

    pub async fn type_in(&mut self, text: &str) {
        self.socket
            .send(Message::binary(tty::input(text.as_bytes())))
            .await
            .expect("input is taken");
    }

    /// Reads until `text` has been shown since the last call that found something.
    pub async fn until(&mut self, text: &str) -> String {
        let wait = async {
            loop {
                if let Some(at) = find(&self.shown, text.as_bytes()) {
                    let rest = self.shown.split_off(at + text.len());
                    let seen = std::mem::replace(&mut self.shown, rest);
                    return String::from_utf8_lossy(&seen).into_owned();
                }
                match self.socket.next().await {
                    Some(Ok(Message::Binary(bytes))) => {
                        if let Some((&tty::OUTPUT, output)) = bytes.split_first() {
                            self.shown.extend_from_slice(output);
                        }
                    }
                    Some(Ok(_)) => {}
                    other => panic!("the terminal ended before {text:?}: {other:?}"),
                }
            }
        };
        match tokio::time::timeout(TIMEOUT, wait).await {
            Ok(seen) => seen,
            Err(_) => panic!("{text:?} was not shown in {TIMEOUT:?}"),
        }
    }
}

pub(crate) fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}
