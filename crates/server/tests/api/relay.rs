//! LLM proxy tests: agents in a sandbox call models with credentials that they never see; usage is metered,
//! and a budget limits it. The sandbox's side is an HTTP/2 client on a pipe, like sandboxd.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use fsa_model::{llm_provider::Mode, money::Micros};
use fsa_server::{Settings, callback, llm_proxy::CallingSandbox};
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use crate::common::{Client, World, project};

/// A request that the provider received.
#[derive(Clone, Debug)]
struct Sent {
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A stand-in for a provider. It answers each request with the pieces that the test sends, or with a short
/// message.
struct Model {
    url: String,
    sent: Arc<Mutex<Vec<Sent>>>,
    _task: JoinHandle<()>,
}

const MESSAGE: &str = concat!(
    "event: message_start\n",
    r#"data: {"type":"message_start","message":{"model":"claude-sonnet-4-5","usage":{"input_tokens":1000,"output_tokens":1}}}"#,
    "\n\nevent: message_delta\n",
    r#"data: {"type":"message_delta","delta":{},"usage":{"output_tokens":100}}"#,
    "\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
);
/// 1000 tokens at $3 and 100 at $15 per million, in micro-dollars.
const COST: i64 = 1000 * 3 + 100 * 15;

type Pieces = Arc<Mutex<Option<mpsc::Receiver<Bytes>>>>;

impl Model {
    async fn start(pieces: Option<mpsc::Receiver<Bytes>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let sent = Arc::new(Mutex::new(Vec::new()));
        let pieces: Pieces = Arc::new(Mutex::new(pieces));
        let requests = Arc::clone(&sent);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (sent, pieces) = (Arc::clone(&requests), Arc::clone(&pieces));
                tokio::spawn(async move {
                    let service =
                        service_fn(move |request| respond(request, Arc::clone(&sent), Arc::clone(&pieces)));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            url,
            sent,
            _task: task,
        }
    }
}

async fn respond(
    request: Request<Incoming>,
    sent: Arc<Mutex<Vec<Sent>>>,
    pieces: Pieces,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    sent.lock().push(Sent {
        target: parts.uri.to_string(),
        headers: parts.headers,
        body,
    });
    let body = match pieces.lock().take() {
        Some(pieces) => {
            let pieces = futures_util::stream::unfold(pieces, |mut pieces| async {
                Some((Ok(Frame::data(pieces.recv().await?)), pieces))
            });
            StreamBody::new(pieces.boxed()).boxed_unsync()
        }
        None => Full::new(Bytes::from_static(MESSAGE.as_bytes())).boxed_unsync(),
    };
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream")
        .header(header::SET_COOKIE, "tracking=1")
        .header(header::CONNECTION, "x-hop")
        .header("x-hop", "1")
        .body(body)
        .unwrap();
    Ok(answer)
}

/// A project whose desired state is running, and the connection for its requests.
struct Sandbox {
    owner: Client,
    sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
}

async fn sandbox(world: &World, name: &str) -> Sandbox {
    let owner = world.member("ada").await;
    let project = project(&owner, name).await;
    let sandbox = world.database.sql(&format!(
        "select id from sandboxes where project_id = '{}'",
        project.id
    ));
    let sandbox = CallingSandbox {
        id: sandbox.trim().parse().expect("an id"),
        project: project.id,
    };
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(callback::serve(
        world.app.callback.clone(),
        sandbox,
        TokioIo::new(theirs),
    ));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(ours))
            .await
            .unwrap();
    tokio::spawn(connection);
    Sandbox { owner, sender }
}

impl Sandbox {
    async fn send(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://control{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        self.sender
            .clone()
            .send_request(request)
            .await
            .expect("an answer")
    }

    /// Sends a request, and reads the whole response.
    async fn request(&self, path: &str) -> (StatusCode, Bytes) {
        let response = self.send(path, &[], "{}").await;
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    async fn account(&self, name: &str) -> Value {
        self.owner
            .get(&format!("/api/projects/{name}/agent"))
            .await
            .expect(200)
            .json()
    }

    /// Waits until this usage is recorded, which happens after the response has ended.
    async fn until_spent(&self, name: &str, micros: i64) -> Value {
        let wait = async {
            loop {
                let account = self.account(name).await;
                if account["spent"].as_f64() == Some(Micros(micros).dollars()) {
                    return account;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(240), wait)
            .await
            .unwrap_or_else(|_| panic!("{micros} was not spent"))
    }
}

fn operator(settings: &mut Settings, pairs: &[(&str, &str)]) {
    settings.agent_environment = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned().into()))
        .collect();
}

async fn world_of(model: &Model) -> World {
    let url = model.url.clone();
    World::with(move |settings| {
        operator(
            settings,
            &[("ANTHROPIC_BASE_URL", &url), ("ANTHROPIC_API_KEY", "sk-real")],
        );
    })
    .await
}

#[tokio::test]
async fn a_request_is_sent_with_the_real_key_and_without_credentials_of_the_sandbox() {
    let model = Model::start(None).await;
    let world = world_of(&model).await;
    let sandbox = sandbox(&world, "shop").await;

    let shown = [
        ("x-api-key", "fake"),
        ("authorization", "Bearer fake"),
        ("cookie", "a=b"),
        ("accept-encoding", "gzip"),
        ("anthropic-version", "2023-06-01"),
        ("fsa-task", "x"),
    ];
    let answer = sandbox
        .send("/anthropic/v1/messages?beta=true", &shown, "{\"model\":\"m\"}")
        .await;

    assert_eq!(answer.status(), StatusCode::OK);
    for name in ["set-cookie", "x-hop"] {
        assert!(
            !answer.headers().contains_key(name),
            "{name}: {:?}",
            answer.headers()
        );
    }
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), MESSAGE);
    let sent = model.sent.lock()[0].clone();
    assert_eq!(
        (sent.target.as_str(), &sent.body[..]),
        ("/v1/messages?beta=true", &b"{\"model\":\"m\"}"[..])
    );
    assert_eq!(sent.headers["x-api-key"], "sk-real");
    assert_eq!(sent.headers["anthropic-version"], "2023-06-01");
    for name in ["authorization", "cookie", "accept-encoding", "fsa-task"] {
        assert!(!sent.headers.contains_key(name), "{name}: {:?}", sent.headers);
    }
}

#[tokio::test]
async fn a_response_is_streamed_and_metered() {
    let (pieces, received) = mpsc::channel(1);
    let model = Model::start(Some(received)).await;
    let world = world_of(&model).await;
    let sandbox = sandbox(&world, "shop").await;

    let mut body = sandbox
        .send("/anthropic/v1/messages", &[], "{}")
        .await
        .into_body();
    let (first, second) = MESSAGE.split_at(70);
    for piece in [first, second] {
        pieces.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
        // The next piece is sent only after this one has arrived: nothing is buffered.
        let got = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(got, piece);
    }
    drop(pieces);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "");

    let account = sandbox.until_spent("shop", COST).await;
    assert_eq!(account["models"][0]["model"], "claude-sonnet-4-5");
    assert_eq!(account["models"][0]["inputTokens"], 1000);
    assert_eq!(account["models"][0]["outputTokens"], 100);
    assert_eq!(account["providers"], json!(["anthropic"]));
    assert_eq!(account["mode"], json!(Mode::Relay));
}

#[tokio::test]
async fn an_aborted_response_is_metered() {
    let (pieces, received) = mpsc::channel(1);
    let model = Model::start(Some(received)).await;
    let world = world_of(&model).await;
    let sandbox = sandbox(&world, "shop").await;
    let mut body = sandbox
        .send("/anthropic/v1/messages", &[], "{}")
        .await
        .into_body();
    let start = &MESSAGE[..MESSAGE.find("event: message_delta").unwrap()];
    pieces.send(Bytes::from_static(start.as_bytes())).await.unwrap();
    body.frame().await.unwrap().unwrap();

    drop(body);

    // The input, and the output as estimated from its length.
    let output = i64::try_from(start.len() / 32).unwrap();
    sandbox.until_spent("shop", 1000 * 3 + output * 15).await;
}

#[tokio::test]
async fn a_spent_budget_is_reported_in_the_providers_form() {
    let model = Model::start(None).await;
    let world = world_of(&model).await;
    let sandbox = sandbox(&world, "shop").await;
    let agent = "/api/projects/shop/agent";
    let budget = json!({"monthlyBudget": 0.004});
    sandbox
        .owner
        .send(Method::PATCH, agent, Some(&budget))
        .await
        .expect(200);
    assert_eq!(sandbox.request("/anthropic/v1/messages").await.0, StatusCode::OK);
    sandbox.until_spent("shop", COST).await;

    let (status, body) = sandbox.request("/anthropic/v1/messages").await;

    assert_eq!(status, StatusCode::PAYMENT_REQUIRED);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["error"]["type"], "billing_error", "{body}");
    assert_eq!(model.sent.lock().len(), 1);
    let more = json!({"monthlyBudget": 1});
    sandbox
        .owner
        .send(Method::PATCH, agent, Some(&more))
        .await
        .expect(200);
    assert_eq!(sandbox.request("/anthropic/v1/messages").await.0, StatusCode::OK);
    let none = json!({"monthlyBudget": null});
    let account = sandbox
        .owner
        .send(Method::PATCH, agent, Some(&none))
        .await
        .expect(200)
        .json();
    assert_eq!(account["monthlyBudget"], Value::Null);
}

#[tokio::test]
async fn credentials_of_project_and_user_override_the_operators() {
    let model = Model::start(None).await;
    let world = world_of(&model).await;
    let sandbox = sandbox(&world, "shop").await;
    let key_of_last = |model: &Model| model.sent.lock().last().unwrap().headers["x-api-key"].clone();

    let own = json!({"envVars": {"ANTHROPIC_API_KEY": "sk-of-ada"}});
    let names = sandbox
        .owner
        .send(Method::PATCH, "/api/me/agent-credentials", Some(&own))
        .await
        .expect(200);
    assert_eq!(names.json()["envVars"], json!({"ANTHROPIC_API_KEY": null}));
    sandbox.request("/anthropic/v1/messages").await;
    assert_eq!(key_of_last(&model), "sk-of-ada");
    let projects = json!({"envVars": {"ANTHROPIC_API_KEY": "sk-of-shop"}});
    sandbox
        .owner
        .send(Method::PATCH, "/api/projects/shop/environment", Some(&projects))
        .await
        .expect(200);
    sandbox.request("/anthropic/v1/messages").await;
    assert_eq!(key_of_last(&model), "sk-of-shop");
}

#[tokio::test]
async fn base_urls_of_projects_get_no_operator_key_and_must_be_public() {
    let (model, evil) = (Model::start(None).await, Model::start(None).await);
    let world = world_of(&model).await;
    let sandbox = sandbox(&world, "shop").await;
    let environment = "/api/projects/shop/environment";
    let only_address = json!({"envVars": {"ANTHROPIC_BASE_URL": evil.url}});
    sandbox
        .owner
        .send(Method::PATCH, environment, Some(&only_address))
        .await
        .expect(200);
    let (status, _) = sandbox.request("/anthropic/v1/messages").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);

    let with_key = json!({"envVars": {"ANTHROPIC_API_KEY": "own"}});
    sandbox
        .owner
        .send(Method::PATCH, environment, Some(&with_key))
        .await
        .expect(200);
    let (status, body) = sandbox.request("/anthropic/v1/messages").await;

    assert_eq!(status, StatusCode::FORBIDDEN, "{body:?}");
    assert!(evil.sent.lock().is_empty() && model.sent.lock().is_empty());
}

#[tokio::test]
async fn other_paths_of_a_provider_are_refused() {
    let model = Model::start(None).await;
    let world = world_of(&model).await;
    let sandbox = sandbox(&world, "shop").await;
    for path in [
        "/anthropic/v1/files",
        "/anthropic/v1/messages/batches",
        "/anthropic/v1/messages/../organizations",
        "/openai/v1/responses",
        "/elsewhere",
    ] {
        let (status, _) = sandbox.request(path).await;
        assert!(status.is_client_error(), "{path}: {status}");
    }
    assert!(model.sent.lock().is_empty());
}

#[tokio::test]
async fn requests_to_other_providers_have_their_form() {
    let model = Model::start(None).await;
    let url = model.url.clone();
    let world = World::with(move |settings| {
        operator(
            settings,
            &[
                ("OPENAI_BASE_URL", &format!("{url}/v1")),
                ("OPENAI_API_KEY", "sk-openai"),
                ("GOOGLE_GEMINI_BASE_URL", &url),
                ("GEMINI_API_KEY", "sk-gemini"),
            ],
        );
    })
    .await;
    let sandbox = sandbox(&world, "shop").await;
    let chat = sandbox
        .send(
            "/openai/chat/completions",
            &[("content-length", "15")],
            r#"{"stream":true}"#,
        )
        .await;
    assert_eq!(chat.status(), StatusCode::OK);
    sandbox.request("/openai/v1/responses").await;
    sandbox
        .request("/gemini/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse")
        .await;

    let sent = model.sent.lock().clone();
    let targets: Vec<_> = sent.iter().map(|sent| sent.target.as_str()).collect();
    assert_eq!(
        targets,
        [
            "/v1/chat/completions",
            "/v1/responses",
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"
        ]
    );
    assert_eq!(sent[0].headers["authorization"], "Bearer sk-openai");
    let body: Value = serde_json::from_slice(&sent[0].body).unwrap();
    assert_eq!(body["stream_options"]["include_usage"], true);
    assert_eq!(sent[2].headers["x-goog-api-key"], "sk-gemini");
}

#[tokio::test]
async fn requests_of_a_stopped_sandbox_are_refused() {
    let model = Model::start(None).await;
    let world = world_of(&model).await;
    let sandbox = sandbox(&world, "shop").await;
    sandbox
        .owner
        .post("/api/projects/shop/stop", &json!({}))
        .await
        .expect(202);
    let (status, _) = sandbox.request("/anthropic/v1/messages").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(model.sent.lock().is_empty());
}

#[tokio::test]
async fn git_gets_the_credential_of_the_projects_repository_only() {
    let world = World::new().await;
    let sandbox = sandbox(&world, "shop").await;
    let path = "/api/projects/shop/git-credential";
    sandbox.owner.get(path).await.expect(404);
    let login = json!({"url": "https://git.example/team/shop", "username": "ada", "password": "hunter2"});
    let stored = sandbox
        .owner
        .send(Method::PUT, path, Some(&login))
        .await
        .expect(200);
    assert!(!String::from_utf8_lossy(&stored.body).contains("hunter2"));
    let credential = async |input: &str| {
        let answer = sandbox.send("/git-credential", &[], input).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    };

    let own = credential("protocol=https\nhost=git.example\npath=team/shop.git\n").await;
    let other = credential("protocol=https\nhost=git.example\npath=team/other.git\n").await;
    let host = credential("protocol=https\nhost=git.example\n").await;

    assert_eq!(
        own,
        (StatusCode::OK, "username=ada\npassword=hunter2\n".to_owned())
    );
    assert_eq!(other, (StatusCode::NO_CONTENT, String::new()));
    assert_eq!(host.0, StatusCode::NO_CONTENT);
    let row = world
        .database
        .sql("select encode(password, 'escape') from git_credentials");
    assert!(!row.contains("hunter2"));
    sandbox.owner.send(Method::DELETE, path, None).await.expect(204);
    let gone = credential("protocol=https\nhost=git.example\npath=team/shop.git\n").await;
    assert_eq!(gone.0, StatusCode::NO_CONTENT);
}
