//! Sandbox callback: requests of programs in the sandbox, answered by a stand-in for the control plane.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use fsa_model::callback;
use futures_util::StreamExt as _;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::harness::{Sandbox, TestResponse, within_timeout};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Request as the control plane received it.
#[derive(Clone, Debug)]
struct Received {
    target: String,
    headers: http::HeaderMap,
    body: Bytes,
}

/// Requests that the control plane received.
type Record = Arc<Mutex<Vec<Received>>>;

/// Opens the callback connection and answers requests, like the control plane, until the task is aborted.
async fn control_plane(
    sandbox: &Sandbox,
    answer: impl Fn(&Received) -> Response<Body> + Clone + Send + Sync + 'static,
) -> (JoinHandle<()>, Record) {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(sandbox.dial().await.unwrap()))
            .await
            .unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Sandbox::builder(Method::POST, callback::ROUTE)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, callback::UPGRADE)
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    let record = Record::default();
    let kept = Arc::clone(&record);
    let service = service_fn(move |request: Request<Incoming>| {
        let (record, answer) = (Arc::clone(&kept), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let asked = Received {
                target: parts
                    .uri
                    .path_and_query()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                headers: parts.headers,
                body: body.collect().await.unwrap().to_bytes(),
            };
            let response = answer(&asked);
            record.lock().push(asked);
            Ok::<_, Infallible>(response)
        }
    });
    let task = tokio::spawn(async move {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(upgraded, service)
            .await;
    });
    (task, record)
}

fn text(text: &str) -> Response<Body> {
    Response::new(Full::new(Bytes::from(text.to_owned())).boxed_unsync())
}

/// The callback's URL and token, as the sandbox's programs get them.
async fn variables(sandbox: &Sandbox) -> (String, String) {
    let reported = sandbox.sh("echo $FSA_ASKS_URL $FSA_ASKS_TOKEN").await.stdout;
    let (url, token) = reported.trim().split_once(' ').expect("two variables");
    (url.to_owned(), token.to_owned())
}

/// Sends a request as a program in the sandbox.
async fn program(url: &str, path: &str, shown: &[(&str, &str)], body: &str) -> TestResponse {
    let address = url.strip_prefix("http://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut request = Request::post(path).header(header::HOST, address);
    for (name, value) in shown {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let (head, body) = within_timeout("an answer", sender.send_request(request))
        .await
        .unwrap()
        .into_parts();
    TestResponse {
        status: head.status,
        headers: head.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

#[tokio::test]
async fn a_request_waits_for_the_control_plane_and_sets_the_flag_in_the_status() {
    let sandbox = Sandbox::start().await;
    let (url, token) = variables(&sandbox).await;
    assert!(!sandbox.status().await.callback_requested);
    let question = tokio::spawn({
        let shown = format!("Bearer {token}");
        async move {
            program(
                &url,
                "/anthropic/v1/messages?beta=true",
                &[("authorization", &shown)],
                "{}",
            )
            .await
        }
    });
    sandbox
        .until_status("the callback flag", |status| status.callback_requested)
        .await;

    let (_task, record) = control_plane(&sandbox, |_| text("hello")).await;

    let answer = question.await.unwrap().expect(StatusCode::OK);
    assert_eq!(answer.body, "hello");
    let asked = record.lock()[0].clone();
    assert_eq!(
        (asked.target.as_str(), &asked.body[..]),
        ("/anthropic/v1/messages?beta=true", &b"{}"[..])
    );
    assert!(
        !asked.headers.contains_key(header::AUTHORIZATION),
        "{:?}",
        asked.headers
    );
    sandbox
        .until_status("the end of the callback flag", |status| {
            !status.callback_requested
        })
        .await;
}

#[tokio::test]
async fn a_request_without_the_sandboxs_token_is_refused_in_the_providers_format() {
    let sandbox = Sandbox::start().await;
    let (url, token) = variables(&sandbox).await;
    let (_task, record) = control_plane(&sandbox, |_| text("a secret")).await;
    for shown in [
        &[][..],
        &[("authorization", "Bearer fsa-sandbox-00")],
        &[("x-api-key", "")],
        &[("cookie", "token=x")],
    ] {
        let answer = program(&url, "/anthropic/v1/messages", shown, "{}").await;
        assert_eq!(
            answer.expect(StatusCode::UNAUTHORIZED).json()["error"]["type"],
            "authentication_error"
        );
    }
    let elsewhere = program(
        &url,
        "/v1/exec",
        &[("authorization", &format!("Bearer {token}"))],
        "{}",
    )
    .await;
    elsewhere.expect(StatusCode::NOT_FOUND);
    assert!(record.lock().is_empty());
}

#[tokio::test]
async fn the_token_is_accepted_in_every_form_and_never_forwarded() {
    let sandbox = Sandbox::start().await;
    let (url, token) = variables(&sandbox).await;
    let (_task, record) = control_plane(&sandbox, |_| text("ok")).await;
    let bearer = format!("Bearer {token}.task-7");
    program(
        &url,
        "/openai/v1/responses",
        &[("authorization", &bearer), ("fsa-task", "8")],
        "",
    )
    .await
    .expect(StatusCode::OK);
    program(&url, "/anthropic/v1/messages", &[("x-api-key", &token)], "")
        .await
        .expect(StatusCode::OK);
    program(&url, "/gemini/v1beta/models", &[("x-goog-api-key", &token)], "")
        .await
        .expect(StatusCode::OK);
    let by_query = format!("/gemini/v1beta/models?key={token}&alt=sse");
    program(&url, &by_query, &[], "").await.expect(StatusCode::OK);

    let asked = record.lock().clone();
    assert!(!format!("{asked:?}").contains(&token), "{asked:?}");
    assert_eq!(asked[0].headers["fsa-task"], "task-7");
    assert!(
        asked[1..]
            .iter()
            .all(|asked| !asked.headers.contains_key("fsa-task"))
    );
    assert_eq!(asked[3].target, "/gemini/v1beta/models?alt=sse");
}

#[tokio::test]
async fn a_response_is_streamed_and_ends_with_its_connection() {
    let sandbox = Sandbox::start().await;
    let (url, token) = variables(&sandbox).await;
    let (pieces, received) = tokio::sync::mpsc::channel::<Bytes>(1);
    let received = Arc::new(Mutex::new(Some(received)));
    let (task, _) = control_plane(&sandbox, move |_| {
        let received = received.lock().take().expect("one request");
        let stream = futures_util::stream::unfold(received, |mut received| async {
            Some((received.recv().await?, received))
        });
        Response::new(StreamBody::new(stream.map(|piece| Ok(Frame::data(piece)))).boxed_unsync())
    })
    .await;
    let address = url.strip_prefix("http://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post("/anthropic/v1/messages")
        .header(header::HOST, address)
        .header("x-api-key", &token)
        .body(Full::new(Bytes::new()))
        .unwrap();
    let mut body = within_timeout("the head", sender.send_request(request))
        .await
        .unwrap()
        .into_body();
    for piece in ["event: one\n\n", "event: two\n\n"] {
        pieces.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
        let got = within_timeout("a piece", body.frame())
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap();
        assert_eq!(got, piece);
    }

    task.abort();

    assert!(
        within_timeout("the end", body.frame())
            .await
            .is_some_and(|frame| frame.is_err())
    );
    let (_task, _) = control_plane(&sandbox, |_| text("again")).await;
    let again = program(&url, "/anthropic/v1/messages", &[("x-api-key", &token)], "").await;
    assert_eq!(again.expect(StatusCode::OK).body, "again");
}

#[tokio::test]
async fn git_gets_a_credential_and_stores_it_nowhere() {
    let sandbox = Sandbox::start().await;
    let (_task, record) = control_plane(&sandbox, |asked| {
        if String::from_utf8_lossy(&asked.body).contains("path=team/shop.git") {
            text("username=fsa\npassword=hunter2\n")
        } else {
            let mut none = text("");
            *none.status_mut() = StatusCode::NO_CONTENT;
            none
        }
    })
    .await;
    let fill = |url: &str| format!("printf 'url={url}\\n\\n' | GIT_TERMINAL_PROMPT=0 git credential fill");

    let own = sandbox.sh(&fill("https://git.example/team/shop.git")).await;
    let other = sandbox.sh(&fill("https://git.example/team/other.git")).await;

    assert!(own.stdout.contains("password=hunter2"), "{own:?}");
    assert_ne!(other.exit_code, 0, "{other:?}");
    let asked = String::from_utf8_lossy(&record.lock()[0].body).into_owned();
    assert!(
        asked.contains("host=git.example") && asked.contains("protocol=https"),
        "{asked}"
    );
    let left = sandbox
        .exec(json!({"command": ["sh", "-c", "env; grep -r hunter2 $HOME /proc/self/environ"]}))
        .await;
    assert!(!left.stdout.contains("hunter2"), "{left:?}");
}
