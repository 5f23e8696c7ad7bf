//! Test harness: starts a sandboxd and is its client.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use fsa_model::{
    sandboxd::{ExecResult, LogLine, Status, paths::TERMINAL_WATCH},
    tty::{self, WindowSize, input_queue::InputQueue},
};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

pub const TOKEN: &str = "the-control-token";
/// Timeout of every wait.
pub const TIMEOUT: Duration = Duration::from_secs(240);

pub type Socket = WebSocketStream<UnixStream>;

/// Running sandboxd, killed when this is dropped.
pub struct Sandbox {
    pub folder: tempfile::TempDir,
    child: Child,
}

/// Response.
pub struct TestResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl TestResponse {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    /// The message of an error.
    pub fn error(&self) -> String {
        self.json()["error"]
            .as_str()
            .expect("an error has a message")
            .to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: StatusCode) -> Self {
        assert_eq!(self.status, status, "{:?}", self.body);
        self
    }
}

/// Change to the sandbox's folder before the start.
type Prepare = Box<dyn FnOnce(&Path)>;

/// Settings of a sandbox.
pub struct SandboxBuilder {
    boot: Value,
    arguments: Vec<String>,
    prepare: Option<Prepare>,
}

impl SandboxBuilder {
    pub fn new() -> Self {
        Self {
            boot: json!({
                "controlToken": TOKEN,
                "hostname": "box",
                "environment": {"GREETING": "hello", "PS1": "$ "},
            }),
            arguments: Vec::new(),
            prepare: None,
        }
    }

    /// Sets a field of the boot document.
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.boot[name] = value;
        self
    }

    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Changes the home before the start.
    pub fn prepare_home(mut self, prepare: impl FnOnce(&Path) + 'static) -> Self {
        self.prepare = Some(Box::new(prepare));
        self
    }

    pub async fn start(self) -> Sandbox {
        let folder = tempfile::Builder::new().prefix("sandboxd-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let etc = folder.path().join("etc");
        fs::create_dir_all(etc.join("skel")).unwrap();
        fs::write(etc.join("passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        fs::write(etc.join("group"), "root:x:0:\nwork:x:4242:dev\n").unwrap();
        fs::write(etc.join("skel/.profile"), "# from /etc/skel\n").unwrap();
        // A plain prompt, without sequences that only a real screen needs.
        fs::write(etc.join("skel/.gitconfig"), "[safe]\n\tdirectory = *\n").unwrap();
        fs::write(etc.join("skel/.inputrc"), "set enable-bracketed-paste off\n").unwrap();
        fs::write(folder.path().join("boot.json"), self.boot.to_string()).unwrap();
        if let Some(prepare) = self.prepare {
            let home = folder.path().join("home");
            fs::create_dir_all(home.join("project")).unwrap();
            prepare(&home);
            if is_root() {
                chown_to_user(&home);
            }
        }
        let sandbox = Sandbox {
            child: launch(folder.path(), &self.arguments),
            folder,
        };
        sandbox.await_ready().await;
        sandbox
    }
}

/// Makes the person the owner of a tree.
fn chown_to_user(path: &Path) {
    std::os::unix::fs::lchown(path, Some(1000), Some(1000)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            chown_to_user(&entry.unwrap().path());
        }
    }
}

fn launch(folder: &Path, arguments: &[String]) -> Child {
    let path = |name: &str| folder.join(name);
    Command::new(env!("CARGO_BIN_EXE_fsa-sandboxd"))
        .arg("--control")
        .arg(path("control.sock"))
        .arg("--boot")
        .arg(path("boot.json"))
        .arg("--home")
        .arg(path("home"))
        .arg("--etc")
        .arg(path("etc"))
        .args(["--callback", "127.0.0.1:0"])
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .expect("sandboxd is built")
}

/// A port of the loopback for a server that sets `SO_REUSEADDR`; no other process gets it while this lives.
pub struct ReservedPort {
    pub number: u16,
    _socket: tokio::net::TcpSocket,
}

impl ReservedPort {
    pub fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self {
            number: socket.local_addr().unwrap().port(),
            _socket: socket,
        }
    }
}

/// Whether the process runs, and is not a zombie.
pub fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Polls until `check` returns something. For conditions that have no event.
pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for a future with a timeout.
pub async fn within_timeout<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
}

impl Sandbox {
    pub async fn start() -> Self {
        SandboxBuilder::new().start().await
    }

    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub fn project(&self) -> PathBuf {
        self.home().join("project")
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    async fn await_ready(&self) {
        until("the control socket", async || self.dial().await.ok()).await;
        // A connection is accepted before the setup has ended; the response comes after it.
        self.status().await;
    }

    pub async fn dial(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(self.folder.path().join("control.sock")).await
    }

    /// Kills sandboxd with SIGKILL, and starts it again on the same folders.
    pub async fn restart(&mut self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGKILL).unwrap();
        self.child.wait().unwrap();
        let _ = fs::remove_file(self.folder.path().join("control.sock"));
        self.child = launch(self.folder.path(), &[]);
        self.await_ready().await;
    }

    /// Sends SIGTERM, and waits for the orderly stop.
    pub async fn stop(&mut self) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).unwrap();
        until("the end of sandboxd", async || self.child.try_wait().unwrap()).await
    }

    pub async fn request(&self, request: Request<Full<Bytes>>) -> TestResponse {
        within_timeout("an answer", async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(self.dial().await.unwrap()))
                    .await
                    .unwrap();
            let connection = tokio::spawn(connection);
            let response = sender.send_request(request).await.expect("an answer");
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes();
            connection.abort();
            TestResponse {
                status: head.status,
                headers: head.headers,
                body,
            }
        })
        .await
    }

    pub fn builder(method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "sandbox")
            .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
    }

    pub async fn call(&self, method: Method, path: &str, body: impl Into<Bytes>) -> TestResponse {
        self.request(Self::builder(method, path).body(Full::new(body.into())).unwrap())
            .await
    }

    pub async fn get(&self, path: &str) -> TestResponse {
        self.call(Method::GET, path, "").await
    }

    pub async fn exec_raw(&self, request: Value) -> TestResponse {
        self.call(Method::POST, "/v1/exec", request.to_string()).await
    }

    pub async fn exec(&self, request: Value) -> ExecResult {
        serde_json::from_slice(&self.exec_raw(request).await.expect(StatusCode::OK).body).unwrap()
    }

    pub async fn sh(&self, script: &str) -> ExecResult {
        self.exec(json!({"command": ["sh", "-c", script]})).await
    }

    pub async fn status(&self) -> Status {
        serde_json::from_slice(&self.get("/v1/status").await.body).unwrap()
    }

    /// Reads `/v1/watch` until a status matches.
    pub async fn until_status(&self, what: &str, mut matches: impl FnMut(&Status) -> bool) -> Status {
        self.until_line("/v1/watch", what, |line| {
            let status: Status = serde_json::from_str(line).unwrap();
            matches(&status).then_some(status)
        })
        .await
    }

    /// Follows the log until a line matches.
    pub async fn until_log(&self, what: &str, matches: impl Fn(&LogLine) -> bool) -> LogLine {
        self.until_line("/v1/logs?follow=true", what, |line| {
            let line: LogLine = serde_json::from_str(line).unwrap();
            matches(&line).then_some(line)
        })
        .await
    }

    async fn until_line<T>(&self, path: &str, what: &str, mut matches: impl FnMut(&str) -> Option<T>) -> T {
        within_timeout(what, async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(self.dial().await.unwrap()))
                    .await
                    .unwrap();
            let connection = tokio::spawn(connection);
            let request = Self::builder(Method::GET, path)
                .body(Full::new(Bytes::new()))
                .unwrap();
            let mut body = sender.send_request(request).await.unwrap().into_body();
            let mut text = Vec::new();
            while let Some(frame) = body.frame().await {
                text.extend_from_slice(&frame.unwrap().into_data().unwrap());
                while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    if let Some(found) = matches(std::str::from_utf8(&line).unwrap()) {
                        connection.abort();
                        return found;
                    }
                }
            }
            panic!("the stream ended before {what}");
        })
        .await
    }

    pub async fn logs(&self) -> Vec<LogLine> {
        let body = self.get("/v1/logs").await.body;
        std::str::from_utf8(&body)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub async fn socket(&self, path: &str, protocol: Option<&str>) -> Socket {
        let mut request = http::Request::builder()
            .uri(format!("ws://sandbox{path}"))
            .header("host", "sandbox")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header(
                "sec-websocket-key",
                tokio_tungstenite::tungstenite::handshake::client::generate_key(),
            )
            .header("authorization", format!("Bearer {TOKEN}"));
        if let Some(protocol) = protocol {
            request = request.header("sec-websocket-protocol", protocol);
        }
        let stream = self.dial().await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(request.body(()).unwrap(), stream)
            .await
            .unwrap();
        socket
    }

    pub async fn terminal(&self, session: &str) -> Viewer {
        let path = format!("/v1/terminal?session={session}");
        Viewer::hello(self.socket(&path, Some(tty::SUBPROTOCOL)).await, 80, 24).await
    }

    /// Viewer that numbers its input, and resends what the session has not acknowledged.
    pub async fn viewer_with_input_sequence(&self, session: &str, keys: &mut InputQueue) -> Viewer {
        let path = format!("/v1/terminal?session={session}");
        let mut socket = self.socket(&path, Some(tty::SUBPROTOCOL)).await;
        let size = WindowSize {
            columns: 80,
            rows: 24,
        };
        let hello = tty::hello_with_input("", size, &keys.connect());
        socket.send(Message::Text(hello.into())).await.unwrap();
        let mut viewer = Viewer::new(socket);
        while let Some(message) = keys.next_message() {
            viewer.send(message).await;
        }
        viewer
    }

    /// Read-only viewer.
    pub async fn watcher(&self, session: &str) -> Viewer {
        let path = format!("{TERMINAL_WATCH}?session={session}");
        Viewer::hello(self.socket(&path, Some(tty::SUBPROTOCOL)).await, 40, 10).await
    }

    /// The resident memory of sandboxd, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            #[allow(clippy::disallowed_methods, reason = "std has no wait with a limit")]
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Viewer of a terminal.
pub struct Viewer {
    pub socket: Socket,
    /// Output that [`Self::until_shown`] has not consumed yet.
    pub seen: Vec<u8>,
    pub title: String,
    /// The last acknowledgment of input.
    pub taken: Option<Vec<u8>>,
    pub closed: Option<String>,
}

impl Viewer {
    pub async fn hello(mut socket: Socket, columns: u16, rows: u16) -> Self {
        let hello = tty::hello("", WindowSize { columns, rows });
        socket.send(Message::Text(hello.into())).await.unwrap();
        Self::new(socket)
    }

    fn new(socket: Socket) -> Self {
        Self {
            socket,
            seen: Vec::new(),
            title: String::new(),
            taken: None,
            closed: None,
        }
    }

    pub async fn type_text(&mut self, text: &str) {
        self.send(tty::input(text.as_bytes())).await;
    }

    pub async fn send(&mut self, message: Vec<u8>) {
        self.socket.send(Message::Binary(message.into())).await.unwrap();
    }

    /// Receives one message; false at the end.
    pub async fn receive(&mut self) -> bool {
        match self.socket.next().await {
            Some(Ok(Message::Binary(bytes))) => {
                match bytes.first() {
                    Some(&tty::OUTPUT) => self.seen.extend_from_slice(&bytes[1..]),
                    Some(&tty::TITLE) => self.title = String::from_utf8_lossy(&bytes[1..]).into_owned(),
                    Some(&tty::INPUT_ACK) => self.taken = Some(bytes[1..].to_vec()),
                    other => panic!("an unknown message {other:?}"),
                }
                true
            }
            Some(Ok(Message::Close(frame))) => {
                self.closed = frame.map(|frame| frame.reason.to_string());
                false
            }
            Some(Ok(_)) => true,
            Some(Err(_)) | None => false,
        }
    }

    /// Waits until the text is shown, and consumes the output up to its end.
    #[track_caller]
    pub fn until_shown<'a>(&'a mut self, text: &'a str) -> impl Future<Output = String> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let shown = tokio::time::timeout(TIMEOUT, async {
                loop {
                    if let Some(at) = find(&self.seen, text.as_bytes()) {
                        let taken: Vec<u8> = self.seen.drain(..at + text.len()).collect();
                        return Some(String::from_utf8_lossy(&taken).into_owned());
                    }
                    if !self.receive().await {
                        return None;
                    }
                }
            })
            .await;
            match shown {
                Ok(Some(shown)) => shown,
                _ => panic!(
                    "{place}: {text:?} was not shown, but {:?}",
                    String::from_utf8_lossy(&self.seen)
                ),
            }
        }
    }

    /// Reads to the end. Returns the close reason.
    pub async fn until_end(&mut self) -> String {
        within_timeout("the end of the terminal", async { while self.receive().await {} }).await;
        self.closed.clone().unwrap_or_default()
    }
}

pub fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, part)
}
