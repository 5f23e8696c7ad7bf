//! Fake sandboxd: status, watch, files, a few commands, and ports that echo.
//!
//! It speaks the same HTTP as sandboxd, so that tests cover the clients above a driver.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use bytes::Bytes;
use fsa_model::sandboxd::{
    ExecRequest, ExecResult, HOME, LogLine, PROJECT_FOLDER, RepositoryState, Status, paths,
};
use futures_util::StreamExt as _;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::{io::DuplexStream, sync::watch};
use tokio_stream::wrappers::WatchStream;

/// Bytes that a connection buffers before its writer waits.
const PIPE_CAPACITY: usize = 64 * 1024;

type Files = Arc<Mutex<BTreeMap<String, Bytes>>>;
type FakeResponse = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// One run of a container's processes. It ends when this is dropped, or by `ended`.
pub(super) struct Process {
    pub token: SecretString,
    pub environment: BTreeMap<String, SecretString>,
    pub status: watch::Sender<Status>,
    pub ended: watch::Sender<bool>,
    /// The project's home volume, which is kept after the container.
    pub volume: Files,
    /// All other files.
    pub root: Files,
    pub logs: Mutex<Vec<LogLine>>,
    /// The URL of the project's repository.
    pub repository: Option<String>,
    pub clones: super::Clones,
}

impl Process {
    fn volume_of(&self, path: &str) -> &Files {
        if path.starts_with(HOME) {
            &self.volume
        } else {
            &self.root
        }
    }

    /// Clones the repository with the result that the test has set. False if there is no repository.
    pub(super) fn clone_repository(&self) -> bool {
        let Some(url) = &self.repository else { return false };
        let result = self.clones.lock().get(url).cloned();
        self.status.send_modify(|status| {
            status.repository = result.unwrap_or(RepositoryState::Cloned);
        });
        true
    }

    fn listens(&self, port: u16) -> bool {
        self.status.borrow().ports.iter().any(|open| open.port == port)
    }
}

/// A connection to the control interface.
pub(super) fn control(process: &Arc<Process>) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(PIPE_CAPACITY);
    let process = Arc::clone(process);
    let mut ended = process.ended.subscribe();
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let process = Arc::clone(&process);
            async move { Ok::<_, Infallible>(respond(process, request).await) }
        });
        let serve = http1::Builder::new()
            .serve_connection(TokioIo::new(theirs), service)
            .with_upgrades();
        tokio::select! {
            _ = serve => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    });
    ours
}

/// A connection to an echoing port; `None` if the process does not listen on it.
pub(super) fn port(process: &Arc<Process>, port: u16) -> Option<DuplexStream> {
    process.listens(port).then(|| {
        let (ours, theirs) = tokio::io::duplex(PIPE_CAPACITY);
        let mut ended = process.ended.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = echo(theirs) => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
        });
        ours
    })
}

async fn echo(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite) {
    let (mut read, mut write) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
}

async fn respond(process: Arc<Process>, request: Request<Incoming>) -> FakeResponse {
    let expected = format!("Bearer {}", process.token.expose_secret());
    if request
        .headers()
        .get(header::AUTHORIZATION)
        .is_none_or(|given| given.as_bytes() != expected.as_bytes())
    {
        return error_response(StatusCode::UNAUTHORIZED, "the token is wrong");
    }
    if request.method() == Method::CONNECT {
        return tunnel(process, request);
    }
    let route = (request.method().clone(), request.uri().path().to_owned());
    match (&route.0, route.1.as_str()) {
        (&Method::GET, paths::STATUS) => json(&*process.status.borrow()),
        (&Method::GET, paths::WATCH) => watch_status(&process),
        (_, paths::FILES | paths::PROJECT_FILES) => files(&process, request).await,
        (&Method::POST, paths::EXEC) => exec(&process, request).await,
        (&Method::GET, paths::LOGS) => {
            let lines = process.logs.lock().iter().map(line).collect::<Vec<_>>().concat();
            body(StatusCode::OK, lines)
        }
        (&Method::POST, paths::CLONE) => {
            if process.clone_repository() {
                body(StatusCode::ACCEPTED, "")
            } else {
                error_response(StatusCode::CONFLICT, "this project has no repository")
            }
        }
        (&Method::GET, paths::TERMINALS) => json(&[(); 0]),
        _ => error_response(StatusCode::NOT_FOUND, "the fake sandboxd has no such route"),
    }
}

fn watch_status(process: &Process) -> FakeResponse {
    let mut ended = process.ended.subscribe();
    let lines = WatchStream::new(process.status.subscribe())
        .map(|status| Ok(Frame::data(Bytes::from(line(&status)))))
        .take_until(async move {
            let _ = ended.wait_for(|ended| *ended).await;
        });
    Response::new(StreamBody::new(lines).boxed_unsync())
}

async fn files(process: &Process, request: Request<Incoming>) -> FakeResponse {
    let query = request.uri().query().unwrap_or_default();
    let Some(path) = query.split('&').find_map(|pair| pair.strip_prefix("path=")) else {
        return error_response(StatusCode::BAD_REQUEST, "path is missing");
    };
    let path = path.replace("%2F", "/");
    let path = if path.starts_with('/') {
        path
    } else {
        format!("{PROJECT_FOLDER}/{path}")
    };
    let files = process.volume_of(&path).clone();
    match *request.method() {
        Method::PUT => {
            let Ok(content) = Limited::new(request.into_body(), 64 * 1024 * 1024)
                .collect()
                .await
            else {
                return error_response(StatusCode::PAYLOAD_TOO_LARGE, "the file is too long");
            };
            files.lock().insert(path, content.to_bytes());
            body(StatusCode::NO_CONTENT, "")
        }
        Method::DELETE => match files.lock().remove(&path) {
            Some(_) => body(StatusCode::NO_CONTENT, ""),
            None => error_response(StatusCode::NOT_FOUND, "there is no such file"),
        },
        _ => match files.lock().get(&path) {
            Some(content) => body(StatusCode::OK, content.clone()),
            None => error_response(StatusCode::NOT_FOUND, "there is no such file"),
        },
    }
}

/// Runs `echo`, `cat`, `env`, `true` or `false`; for other commands 127, as a shell does.
async fn exec(process: &Process, request: Request<Incoming>) -> FakeResponse {
    let Ok(content) = Limited::new(request.into_body(), 8 * 1024 * 1024).collect().await else {
        return error_response(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long");
    };
    let Ok(exec) = serde_json::from_slice::<ExecRequest>(&content.to_bytes()) else {
        return error_response(StatusCode::BAD_REQUEST, "the request is invalid");
    };
    let mut words = exec.command.iter().map(String::as_str);
    let (exit_code, stdout, stderr) = match words.next() {
        Some("echo") => (
            0,
            format!("{}\n", words.collect::<Vec<_>>().join(" ")),
            String::new(),
        ),
        Some("cat") => (0, exec.stdin.unwrap_or_default(), String::new()),
        Some("true") => (0, String::new(), String::new()),
        Some("false") => (1, String::new(), String::new()),
        Some("env") => {
            let mut all = String::new();
            for (name, value) in &process.environment {
                all.push_str(&format!("{name}={}\n", value.expose_secret()));
            }
            for (name, value) in &exec.env {
                all.push_str(&format!("{name}={value}\n"));
            }
            (0, all, String::new())
        }
        other => (
            127,
            String::new(),
            format!("{}: not found\n", other.unwrap_or_default()),
        ),
    };
    json(&ExecResult {
        exit_code,
        stdout,
        stderr,
        truncated: false,
        timed_out: false,
    })
}

fn tunnel(process: Arc<Process>, request: Request<Incoming>) -> FakeResponse {
    let port = request.uri().authority().and_then(http::uri::Authority::port_u16);
    if !port.is_some_and(|port| process.listens(port)) {
        return error_response(StatusCode::BAD_GATEWAY, "nothing listens on this port");
    }
    let mut ended = process.ended.subscribe();
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            tokio::select! {
                () = echo(TokioIo::new(upgraded)) => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
        }
    });
    body(StatusCode::OK, "")
}

fn line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> FakeResponse {
    let mut respond = body(StatusCode::OK, serde_json::to_vec(value).unwrap_or_default());
    respond.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    respond
}

fn error_response(status: StatusCode, message: &str) -> FakeResponse {
    let mut respond = json(&serde_json::json!({ "error": message }));
    *respond.status_mut() = status;
    respond
}

fn body(status: StatusCode, content: impl Into<Bytes>) -> FakeResponse {
    let mut respond = Response::new(Full::new(content.into()).boxed_unsync());
    *respond.status_mut() = status;
    respond
}
