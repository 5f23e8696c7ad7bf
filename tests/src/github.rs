//! Stand-in for GitHub with real repositories: the OAuth code exchange, the used parts of its API, and git over
//! HTTP by git's own program (git-http-backend(1)). Every repository needs a valid token.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, process::Command};

use crate::Api;

/// Prefix of every token of the stand-in.
pub const TOKEN_MARK: &str = "gho_";

/// Repositories as `owner/name.git` below a folder, and the valid tokens.
#[derive(Clone)]
pub struct Github(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    tokens: Mutex<Tokens>,
}

#[derive(Default)]
struct Tokens {
    access: Vec<String>,
    refresh: Vec<String>,
    issued: usize,
}

type GithubResponse = Response<Full<Bytes>>;

impl Github {
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self(Arc::new(Inner {
            folder: folder.to_owned(),
            tokens: Mutex::default(),
        }))
    }

    /// Creates a repository with one file.
    pub fn create(&self, name: &str, file: &str, content: &str) {
        bare(&self.path(name));
        self.commit(name, file, content);
    }

    /// Commits a file from another clone, and pushes it.
    pub fn commit(&self, name: &str, file: &str, content: &str) {
        let (bare, work) = (self.path(name), tempfile::tempdir().expect("a folder"));
        let bare = bare.to_str().expect("a path of UTF-8");
        git(work.path(), &["clone", "--quiet", bare, "."]);
        std::fs::write(work.path().join(file), content).expect("a file");
        git(work.path(), &["add", "."]);
        git(work.path(), &["commit", "--quiet", "-m", "From another clone"]);
        git(work.path(), &["push", "--quiet", "origin", "HEAD:main"]);
    }

    /// Invalidates the issued access tokens; refresh tokens stay valid.
    pub fn refuse_tokens(&self) {
        self.tokens().access.clear();
    }

    /// Invalidates access and refresh tokens.
    pub fn revoke(&self) {
        self.refuse_tokens();
        self.tokens().refresh.clear();
    }

    /// Every token that was ever issued, in plain form and as git sends it, and the refresh tokens.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        (1..=self.tokens().issued)
            .flat_map(|number| {
                let [token, refresh] = issued(number);
                [shown(&token), token, refresh]
            })
            .collect()
    }

    /// Path of a repository.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.folder.join(format!("{name}.git"))
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens> {
        self.0.tokens.lock().expect("the tokens")
    }

    pub async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let github = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let github = github.clone();
                    async move { Ok::<_, Infallible>(github.answer(request).await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> GithubResponse {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a whole request").to_bytes();
        let path = head.uri.path();
        let at = format!("http://{}", head.headers[header::HOST].to_str().expect("a host"));
        match (&head.method, path) {
            (&Method::POST, "/login/oauth/access_token") => self.exchange(&body),
            (_, api) if api.starts_with("/api/") && !self.is_bearer(&head.headers) => {
                answer(StatusCode::UNAUTHORIZED, &json!({"message": "Bad credentials"}))
            }
            (&Method::GET, "/api/user") => answer(StatusCode::OK, &json!({"id": 1, "login": "ada-l"})),
            (&Method::POST, "/api/user/repos") => {
                self.created(&at, &serde_json::from_slice(&body).expect("JSON"))
            }
            (_, path) if path.contains(".git/") => self.git(&head, path, body).await,
            _ => answer(StatusCode::NOT_FOUND, &json!({"message": "Not Found"})),
        }
    }

    /// Exchanges a code or a refresh token, which is valid once, for a token.
    fn exchange(&self, body: &[u8]) -> GithubResponse {
        let sent = String::from_utf8_lossy(body).into_owned();
        let field = |name: &str| {
            sent.split('&')
                .find_map(|pair| pair.strip_prefix(&format!("{name}=")))
                .unwrap_or_default()
                .to_owned()
        };
        let mut tokens = self.tokens();
        let may = match field("grant_type").as_str() {
            "authorization_code" => field("code") == "code",
            _ => {
                let shown = field("refresh_token");
                let before = tokens.refresh.len();
                tokens.refresh.retain(|one| *one != shown);
                tokens.refresh.len() < before
            }
        };
        if field("client_secret") != "client-secret" || !may {
            return answer(StatusCode::OK, &json!({"error": "bad_refresh_token"}));
        }
        tokens.issued += 1;
        let [token, refresh] = issued(tokens.issued);
        tokens.access.push(token.clone());
        tokens.refresh.push(refresh.clone());
        answer(
            StatusCode::OK,
            &json!({"access_token": token, "token_type": "bearer", "expires_in": 28800, "refresh_token": refresh}),
        )
    }

    fn is_bearer(&self, headers: &HeaderMap) -> bool {
        let shown = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        shown.is_some_and(|shown| self.tokens().access.iter().any(|token| token == shown))
    }

    fn created(&self, at: &str, request: &Value) -> GithubResponse {
        let name = request["name"].as_str().expect("a name");
        let full = format!("ada-l/{name}");
        let path = self.path(&full);
        if path.exists() {
            let errors = json!([{"message": "name already exists on this account"}]);
            return answer(
                StatusCode::UNPROCESSABLE_ENTITY,
                &json!({"message": "Repository creation failed.", "errors": errors}),
            );
        }
        bare(&path);
        answer(
            StatusCode::CREATED,
            &json!({"full_name": full, "description": null, "private": request["private"],
                "clone_url": format!("{at}/{full}.git"), "default_branch": "main", "pushed_at": null}),
        )
    }

    #[allow(clippy::disallowed_methods, reason = "the other side of git is git")]
    async fn git(&self, head: &hyper::http::request::Parts, path: &str, body: Bytes) -> GithubResponse {
        // Only the password counts: GitHub ignores the user name with a token.
        let shown = head
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
        let right = |token: &String| shown == Some(self::shown(token).as_str());
        if !self.tokens().access.iter().any(right) {
            let mut refused = answer(StatusCode::UNAUTHORIZED, &json!({}));
            let challenge = "Basic realm=\"GitHub\"".parse().expect("a header");
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            return refused;
        }
        let text = |name: &str| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let mut backend = Command::new("git")
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", &self.0.folder)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("REMOTE_USER", "ada-l")
            .env("REQUEST_METHOD", head.method.as_str())
            .env("PATH_INFO", path)
            .env("QUERY_STRING", head.uri.query().unwrap_or_default())
            .env("CONTENT_TYPE", text("content-type"))
            .env("CONTENT_LENGTH", body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
            .env("GIT_PROTOCOL", text("git-protocol"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("git runs");
        let mut input = backend.stdin.take().expect("standard input");
        let written = tokio::spawn(async move { input.write_all(&body).await });
        let output = backend.wait_with_output().await.expect("git ends").stdout;
        let _ = written.await;
        cgi(&output)
    }
}

/// Token as git sends it (RFC 7617).
fn shown(token: &str) -> String {
    STANDARD.encode(format!("x-access-token:{token}"))
}

/// The issued token with this number, and its refresh token.
fn issued(number: usize) -> [String; 2] {
    [
        format!("{TOKEN_MARK}{number}ofTheStandInQ7"),
        format!("ghr_{number}ofTheStandInQ7"),
    ]
}

/// Links the stand-in's account to the caller's.
pub async fn link(api: &Api) {
    let request = api
        .request(Method::POST, "/api/auth/github")
        .json(&json!({"link": true}));
    let begun = request.send().await.expect("an answer");
    let cookie = begun.headers()["set-cookie"].to_str().expect("a cookie");
    let cookie = cookie.split(';').next().expect("a value").to_owned();
    let begun: Value = begun.json().await.expect("JSON");
    let url = begun["url"].as_str().expect("a URL");
    let state = url.split('&').find_map(|pair| pair.strip_prefix("state="));
    let back = format!(
        "/api/auth/github/callback?code=code&state={}",
        state.expect("a state")
    );
    let came = api.request(Method::GET, &back).header("cookie", cookie);
    let came = came.send().await.expect("an answer");
    assert!(came.status().is_redirection(), "{}", came.status());
}

/// Server options for the stand-in at `url`.
#[must_use]
pub fn options(url: &str) -> Vec<String> {
    [
        ["--github-client-id", "client"],
        ["--github-client-secret", "client-secret"],
        ["--github-url", url],
        ["--github-api-url", &format!("{url}/api")],
    ]
    .concat()
    .into_iter()
    .map(ToOwned::to_owned)
    .collect()
}

/// Response of a CGI program (RFC 3875, 6).
fn cgi(output: &[u8]) -> GithubResponse {
    let end = output
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head");
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let mut response = Response::new(Full::from(output[end + 4..].to_vec()));
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        if name == "Status" {
            *response.status_mut() = value[..3].parse().expect("a status");
        } else {
            let name: header::HeaderName = name.parse().expect("a name");
            response
                .headers_mut()
                .insert(name, value.parse().expect("a value"));
        }
    }
    response
}

fn answer(status: StatusCode, body: &Value) -> GithubResponse {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let json = "application/json".parse().expect("a header");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Creates an empty repository at this path.
fn bare(path: &Path) {
    std::fs::create_dir_all(path).expect("a folder");
    git(path, &["init", "--quiet", "--bare", "--initial-branch=main"]);
}

/// Runs git in a folder of the test; it must succeed. Returns its output.
#[allow(clippy::disallowed_methods, reason = "the subject is git")]
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
        .args(["-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .output()
        .expect("git runs");
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
