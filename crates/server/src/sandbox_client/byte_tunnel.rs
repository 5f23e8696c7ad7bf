//! Byte tunnel: a WebSocket whose binary messages are the bytes of a connection, for clients that cannot reach the
//! other end by themselves. Where the messages begin and end means nothing.

use std::time::Duration;

use fsa_driver::BoxConnection;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::tunnel::CloseReason;

/// Bytes of a message to the client.
const BUFFER: usize = 32 * 1024;
/// Largest message of a client.
const MESSAGE_MAX: usize = 1 << 20;
/// A ping keeps proxies from closing a tunnel without traffic, and finds a client that is gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Timeout for the close frame and for the client's.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Copies both ways until one side ends or `end` is ready. `client` is a connection after the handshake.
pub(super) async fn carry(
    client: impl AsyncRead + AsyncWrite + Unpin,
    connection: BoxConnection,
    end: impl Future<Output = CloseReason>,
) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let socket = WebSocketStream::from_raw_socket(client, Role::Server, Some(config)).await;
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_server, mut to_server) = tokio::io::split(connection);
    let up = async {
        while let Some(message) = from_client.next().await {
            match message {
                Ok(Message::Binary(bytes)) => {
                    if to_server.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Ok(Message::Close(_)) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    let code = {
        let down = async {
            let mut buffer = vec![0; BUFFER];
            let mut ping = interval(PING_INTERVAL);
            ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let message = tokio::select! {
                    read = from_server.read(&mut buffer) => match read {
                        Ok(length @ 1..) => Message::binary(buffer[..length].to_vec()),
                        Ok(0) | Err(_) => return,
                    },
                    _ = ping.tick() => Message::Ping(Vec::new().into()),
                };
                if to_client.send(message).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            reason = end => CloseCode::from(reason as u16),
            () = up => CloseCode::Normal,
            () = down => CloseCode::Normal,
        }
    };
    let close = Message::Close(Some(CloseFrame {
        code,
        reason: "".into(),
    }));
    let closed = async {
        to_client.send(close).await?;
        // Until the client has closed too (RFC 6455, 7.1.1): one that still answers a ping would find the connection
        // broken, and not read what was sent before.
        while from_client.next().await.transpose()?.is_some() {}
        Ok::<_, tungstenite::Error>(())
    };
    let _ = timeout(CLOSE_TIMEOUT, closed).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_end_of_the_server_closes_the_client() {
        let (client, browser) = tokio::io::duplex(64);
        let (server, mut database) = tokio::io::duplex(64);
        let tunnel = carry(client, Box::new(server), std::future::pending());
        let story = async {
            let mut browser = WebSocketStream::from_raw_socket(browser, Role::Client, None).await;
            let question = vec![7; 1000];
            let asked = browser.send(Message::binary(question.clone()));
            let mut arrived = vec![0; question.len()];
            let (sent, read) = tokio::join!(asked, database.read_exact(&mut arrived));
            sent.unwrap();
            read.unwrap();
            assert_eq!(arrived, question);
            database.write_all(b"answer").await.unwrap();
            drop(database);
            let mut answer = Vec::new();
            while let Some(Ok(message)) = browser.next().await {
                match message {
                    Message::Binary(bytes) => answer.extend_from_slice(&bytes),
                    Message::Close(frame) => assert_eq!(frame.unwrap().code, CloseCode::Normal),
                    _ => {}
                }
            }
            answer
        };
        let ((), answer) = tokio::join!(tunnel, story);
        assert_eq!(answer, b"answer");
    }

    #[tokio::test]
    async fn a_client_whose_permission_ends_gets_the_reason() {
        let (client, browser) = tokio::io::duplex(64);
        let (server, _database) = tokio::io::duplex(64);
        let tunnel = carry(client, Box::new(server), std::future::ready(CloseReason::Refused));
        let story = async {
            let mut browser = WebSocketStream::from_raw_socket(browser, Role::Client, None).await;
            while let Some(message) = browser.next().await {
                if let Message::Close(frame) = message.unwrap() {
                    return frame.unwrap().code;
                }
            }
            CloseCode::Abnormal
        };
        let ((), code) = tokio::join!(tunnel, story);
        assert_eq!(code, CloseCode::Policy);
    }
}
