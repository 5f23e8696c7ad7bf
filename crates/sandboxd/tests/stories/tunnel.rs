//! Tunnel: CONNECT to a port of the sandbox.

use std::net::SocketAddr;

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
};

use crate::harness::{ReservedPort, Sandbox, TOKEN, within_timeout};

/// Sends the request and reads the response's head.
async fn connect(sandbox: &Sandbox, target: &str) -> (String, UnixStream) {
    let mut stream = sandbox.dial().await.unwrap();
    let head =
        format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(
            within_timeout("the answer's head", stream.read_u8())
                .await
                .unwrap(),
        );
    }
    (String::from_utf8(answer).unwrap(), stream)
}

async fn listener(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn each_side_of_a_tunnel_may_close_before_the_other() {
    let sandbox = Sandbox::start().await;
    let (listener, address) = listener("127.0.0.1:0").await;
    let (head, mut tunnel) = connect(&sandbox, &format!("127.0.0.1:{}", address.port())).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (mut program, _) = within_timeout("the connection", listener.accept()).await.unwrap();

    tunnel.write_all(b"question").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut question = String::new();
    within_timeout("the question", program.read_to_string(&mut question))
        .await
        .unwrap();
    assert_eq!(question, "question");

    program.write_all(b"answer").await.unwrap();
    drop(program);
    let mut answer = String::new();
    within_timeout("the answer", tunnel.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, "answer");
}

#[tokio::test]
async fn a_tunnel_reaches_a_program_on_either_loopback_address() {
    let sandbox = Sandbox::start().await;
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        // A machine without IPv6 has no other loopback.
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let (head, _tunnel) = connect(&sandbox, &format!("localhost:{port}")).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    within_timeout("the connection", listener.accept()).await.unwrap();
}

#[tokio::test]
async fn a_tunnel_to_a_port_without_a_listener_is_refused() {
    let sandbox = Sandbox::start().await;
    let port = ReservedPort::new();
    let (head, mut stream) = connect(&sandbox, &format!("127.0.0.1:{}", port.number)).await;
    assert!(
        head.starts_with(&format!("HTTP/1.1 {}", StatusCode::BAD_GATEWAY.as_u16())),
        "{head}"
    );
    let mut body = vec![0; 500];
    let length = stream.read(&mut body).await.unwrap();
    assert!(String::from_utf8_lossy(&body[..length]).contains("nothing listens there"));
}

#[tokio::test]
async fn other_machines_cannot_be_reached_through_a_sandbox() {
    let sandbox = Sandbox::start().await;
    for target in [
        "10.0.0.1:80",
        "169.254.169.254:80",
        "example.org:80",
        "0.0.0.0:80",
    ] {
        let (head, _) = connect(&sandbox, target).await;
        assert!(head.starts_with("HTTP/1.1 403"), "{target}: {head}");
    }
}
