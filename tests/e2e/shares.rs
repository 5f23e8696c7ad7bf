//! Project sharing tests: what a member may open, and that it ends with the share, or with the token that
//! opened it.

use std::time::Duration;

use fsa_model::sandboxd::ExecRequest;
use fsa_tests::{Api, TestTerminal, World, invitation::join, preview_client::PreviewClient};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::client::generate_key, protocol::Role},
};

const TIMEOUT: Duration = Duration::from_secs(240);

/// Creates a token of the same user with other permissions.
async fn token(api: &Api, request: Value) -> (String, Api) {
    let made: Value = api.send(Method::POST, "/api/tokens", &request).await;
    let text = |name: &str| made[name].as_str().expect("text").to_owned();
    (text("id"), Api::new(&api.url, &text("token")))
}

async fn share(owner: &Api, user: &str, role: &str) {
    let path = format!("/api/projects/common/members/{user}");
    let request = owner.request(Method::PUT, &path).json(&json!({"role": role}));
    let (status, answer) = owner.answer(request).await;
    assert!(status.is_success(), "{answer}");
}

/// Program over a WebSocket, which runs until it is stopped.
async fn long_exec(api: &Api) -> WebSocketStream<reqwest::Upgraded> {
    let request = api.request(Method::GET, "/api/projects/common/exec");
    let response = request
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let upgraded = response.upgrade().await.expect("an upgraded connection");
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    let request = ExecRequest {
        command: ["/bin/sh", "-c", "echo begun; exec cat"]
            .map(str::to_owned)
            .into(),
        ..ExecRequest::default()
    };
    let request = serde_json::to_string(&request).expect("a request");
    socket.send(Message::text(request)).await.expect("it is taken");
    let begun = async {
        while let Some(Ok(message)) = socket.next().await {
            if message.into_data().ends_with(b"begun\n") {
                return;
            }
        }
        panic!("the program did not begin");
    };
    tokio::time::timeout(TIMEOUT, begun)
        .await
        .expect("the program begins");
    socket
}

/// Reads until the other side has ended the connection.
async fn ends(what: &str, socket: &mut WebSocketStream<reqwest::Upgraded>) {
    let end = async {
        while let Some(Ok(message)) = socket.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
        }
    };
    let ended = tokio::time::timeout(TIMEOUT, end).await;
    assert!(ended.is_ok(), "{what} goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_opened_by_a_share_or_a_token_end_with_it() {
    let world = World::start(&[]);
    let owner = world.api();
    owner.create_running("common").await;
    let served = "mkdir -p www && echo private > www/index.html && cd www && (setsid python3 -m http.server 3000 >/dev/null 2>&1 &)";
    owner.shell("common", served).await;
    owner.until_port("common", 3000).await;
    let (grace, ada) = (join(&world, "grace").await, join(&world, "ada").await);
    share(&owner, "grace", "editor").await;
    let preview_client = |api: &Api| PreviewClient::with_token(&world, &api.token);

    // A private preview is open to members only.
    let seen = preview_client(&grace).open("common", 3000, "/").await;
    assert_eq!((seen.status, seen.body.as_str()), (StatusCode::OK, "private\n"));
    assert_ne!(
        preview_client(&ada).open("common", 3000, "/").await.status,
        StatusCode::OK
    );

    // A viewer watches a terminal, and their input is ignored. A read-only token opens none.
    share(&owner, "ada", "viewer").await;
    let (_, reader) = token(&grace, json!({"name": "reads", "scope": "read"})).await;
    let request = reader
        .request(Method::GET, "/api/projects/common/terminal?session=main")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key());
    assert_eq!(reader.answer(request).await.0, StatusCode::FORBIDDEN);
    let mut typed = TestTerminal::open(&owner, "common", "main").await;
    let mut watched = TestTerminal::open(&ada, "common", "main").await;
    watched.type_in("echo typed-by-$((1+1))-viewers\r").await;
    typed.type_in("echo typed-by-$((2+2))-owners\r").await;
    watched.until("typed-by-4-owners").await;
    let so_far = typed.until("typed-by-4-owners").await;
    assert!(!so_far.contains("typed-by-2"), "{so_far}");

    // Revoking a token ends the connections that it opened, and no others.
    let (id, short) = token(&grace, json!({"name": "short"})).await;
    let mut by_token = TestTerminal::open(&short, "common", "main").await;
    let mut exec_by_token = long_exec(&short).await;
    let path = format!("/api/tokens/{id}");
    let (status, answer) = grace.answer(grace.request(Method::DELETE, &path)).await;
    assert!(status.is_success(), "{answer}");
    ends("a terminal of a revoked token", &mut by_token.socket).await;
    ends("a program of a revoked token", &mut exec_by_token).await;
    typed.type_in("echo still-$((3+3))\r").await;
    watched.until("still-6").await;

    // Ending the share ends everything that it opened.
    let mut hers = TestTerminal::open(&grace, "common", "main").await;
    let mut exec = long_exec(&grace).await;
    let (status, answer) = owner
        .answer(owner.request(Method::DELETE, "/api/projects/common/members/grace"))
        .await;
    assert!(status.is_success(), "{answer}");
    ends("a terminal of a share that was withdrawn", &mut hers.socket).await;
    ends("a program of a share that was withdrawn", &mut exec).await;
    assert_ne!(
        preview_client(&grace).open("common", 3000, "/").await.status,
        StatusCode::OK
    );
    typed.type_in("echo owner-$((4+4))\r").await;
    typed.until("owner-8").await;
    watched.until("owner-8").await;
    let gone = owner.request(Method::DELETE, "/api/projects/common/members/ada");
    assert!(owner.answer(gone).await.0.is_success());
    ends("a viewer's terminal", &mut watched.socket).await;
    world.finish().await;
}
