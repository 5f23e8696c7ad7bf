//! Terminal port.

use fsa_model::tty::{self, WindowSize};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::harness::{ReservedPort, Sandbox, SandboxBuilder, TOKEN, find, within_timeout};

async fn start(token: Option<&str>) -> (Sandbox, ReservedPort) {
    let port = ReservedPort::new();
    let mut plan = SandboxBuilder::new()
        .argument("--terminal")
        .argument(format!("127.0.0.1:{}", port.number));
    if let Some(token) = token {
        plan = plan.with("terminalToken", json!(token));
    }
    (plan.start().await, port)
}

/// Sends a plain-text request and reads the response to its end.
async fn send_request(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream
        .write_all(format!("{request}\r\nhost: a:1\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    within_timeout("an answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    answer
}

async fn open(port: u16, header: Option<(&str, &str)>) -> Result<WebSocketStream<TcpStream>, String> {
    let mut request = http::Request::builder()
        .uri(format!("ws://127.0.0.1:{port}/ws"))
        .header("host", format!("127.0.0.1:{port}"))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header(
            "sec-websocket-key",
            tokio_tungstenite::tungstenite::handshake::client::generate_key(),
        )
        .header("sec-websocket-protocol", tty::SUBPROTOCOL);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    client_async(request.body(()).unwrap(), stream)
        .await
        .map(|(socket, _)| socket)
        .map_err(|error| error.to_string())
}

async fn send_hello(socket: &mut WebSocketStream<TcpStream>, token: &str) {
    let hello = tty::hello(
        token,
        WindowSize {
            columns: 80,
            rows: 24,
        },
    );
    socket.send(Message::Text(hello.into())).await.unwrap();
}

/// Whether the terminal echoes input.
async fn works(socket: &mut WebSocketStream<TcpStream>) -> bool {
    if socket
        .send(Message::Binary(tty::input(b"echo up-$((1+1))\n").into()))
        .await
        .is_err()
    {
        return false;
    }
    let mut seen = Vec::new();
    within_timeout("an echo or the end", async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(_) = message {
                return false;
            }
            seen.extend_from_slice(&message.into_data());
            if find(&seen, b"up-2").is_some() {
                return true;
            }
        }
        false
    })
    .await
}

#[tokio::test]
async fn the_terminals_port_serves_the_terminal_and_nothing_else() {
    let (sandbox, reserved) = start(None).await;
    let port = reserved.number;
    assert!(
        send_request(port, "GET / HTTP/1.1")
            .await
            .contains("terminal of a sandbox")
    );
    assert!(
        send_request(port, "GET /token HTTP/1.1")
            .await
            .contains(r#"{"token":""}"#)
    );
    for request in [
        "GET /v1/status",
        "POST /v1/exec",
        "GET /v1/exec",
        "GET /v1/files?path=/etc/passwd",
        "PUT /v1/files?path=x",
        "GET /v1/terminals",
        "DELETE /v1/terminals/main",
        "CONNECT 127.0.0.1:80",
        "GET /ws/../v1/status",
        "POST /ws",
    ] {
        for token in [String::new(), format!("\r\nauthorization: Bearer {TOKEN}")] {
            let answer = send_request(port, &format!("{request} HTTP/1.1{token}")).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{request}: {answer}");
        }
    }
    let mut socket = open(port, None).await.unwrap();
    send_hello(&mut socket, "").await;
    assert!(works(&mut socket).await);
    let mut control = sandbox.terminal("main").await;
    control.until_shown("up-2").await;
    let ports = sandbox.status().await.ports;
    assert!(
        ports.iter().all(|found| found.port != port),
        "its own port is not listed"
    );
}

#[tokio::test]
async fn with_a_token_the_terminal_opens_only_with_it() {
    let (_sandbox, reserved) = start(Some("tt")).await;
    let port = reserved.number;
    let refused = send_request(port, "GET /token HTTP/1.1").await;
    assert!(
        refused.starts_with("HTTP/1.1 401") && !refused.contains("tt\""),
        "{refused}"
    );
    // `any:tt`, in the form in which ttyd's client sends it.
    let reported = send_request(port, "GET /token HTTP/1.1\r\nauthorization: Basic YW55OnR0").await;
    assert!(reported.contains(r#"{"token":"tt"}"#), "{reported}");
    for (header, hello, opens) in [
        (None, "", false),
        (None, "wrong", false),
        (Some(("authorization", "Bearer wrong")), "", false),
        (None, "tt", true),
        (Some(("authorization", "Bearer tt")), "", true),
    ] {
        let mut socket = open(port, header).await.unwrap();
        send_hello(&mut socket, hello).await;
        assert_eq!(works(&mut socket).await, opens, "{header:?} {hello}");
    }
}

#[tokio::test]
async fn without_a_token_a_page_of_another_site_cannot_connect() {
    let (_sandbox, reserved) = start(None).await;
    let port = reserved.number;
    assert!(
        open(port, Some(("origin", "https://evil.example")))
            .await
            .is_err()
    );
    let own = format!("http://127.0.0.1:{port}");
    assert!(open(port, Some(("origin", own.as_str()))).await.is_ok());
}
