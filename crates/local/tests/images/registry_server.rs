//! Registry server for tests: a small registry on 127.0.0.1 with configurable faults.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use fsa_local::images::Digest;
use futures_util::StreamExt as _;

use crate::support::{MEDIA_INDEX, MEDIA_MANIFEST, TestImage, architecture};

/// Faults of the registry.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The number of blob responses that break off half-way.
    pub break_off: usize,
    /// Blob responses stop half-way and stay open.
    pub stall: bool,
    /// The number of requests that are answered with 503.
    pub busy: usize,
    /// Blobs have other content.
    pub corrupt: bool,
    /// Blobs continue after their end.
    pub pad: bool,
    /// Blobs are redirected to this address.
    pub redirect: Option<String>,
    /// Delay before each blob response.
    pub delay: Duration,
    /// Range headers are ignored.
    pub no_ranges: bool,
}

/// Authentication that a read requires.
#[derive(Clone, Debug, Default)]
pub enum Access {
    #[default]
    Anonymous,
    /// A token that every client gets.
    Token,
    /// A token that is issued for `name:password`.
    TokenFor(String),
    /// Basic authentication with `name:password`.
    Basic(String),
    /// A token from this address.
    TokenAt(String),
}

#[derive(Default)]
struct RegistryState {
    manifests: HashMap<String, (String, Vec<u8>)>,
    blobs: HashMap<String, Vec<u8>>,
    requests: Vec<String>,
    faults: Faults,
    access: Access,
    sent: usize,
}

/// The registry, which ends with the test's runtime.
#[derive(Clone)]
pub struct Registry {
    pub address: String,
    state: Arc<Mutex<RegistryState>>,
}

impl Registry {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Self {
            address: listener.local_addr().unwrap().to_string(),
            state: Arc::default(),
        };
        let app = Router::new().fallback(handle).with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        registry
    }

    /// Serves an image as `app:<tag>`.
    pub fn serve_image(&self, tag: &str, made: &TestImage) -> String {
        self.serve_image_for(tag, made, architecture())
    }

    pub fn serve_image_for(&self, tag: &str, made: &TestImage, architecture: &str) -> String {
        let index = made.index(architecture);
        self.manifest(
            &Digest::of(&made.manifest).to_string(),
            MEDIA_MANIFEST,
            &made.manifest,
        );
        for blob in made.blobs().skip(1) {
            self.state
                .lock()
                .unwrap()
                .blobs
                .insert(Digest::of(blob).to_string(), blob.clone());
        }
        self.manifest(tag, MEDIA_INDEX, &index)
    }

    pub fn manifest(&self, tag: &str, media: &str, bytes: &[u8]) -> String {
        self.state
            .lock()
            .unwrap()
            .manifests
            .insert(tag.into(), (media.into(), bytes.to_vec()));
        format!("{}/team/app:{tag}", self.address)
    }

    pub fn blob(&self, bytes: &[u8]) {
        self.state
            .lock()
            .unwrap()
            .blobs
            .insert(Digest::of(bytes).to_string(), bytes.to_vec());
    }

    pub fn inject(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    pub fn require(&self, access: Access) {
        self.state.lock().unwrap().access = access;
    }

    /// `METHOD path` of each request so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The number of blob bytes sent so far.
    pub fn sent(&self) -> usize {
        self.state.lock().unwrap().sent
    }
}

async fn handle(State(registry): State<Registry>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (faults, access) = {
        let mut state = registry.state.lock().unwrap();
        state.requests.push(format!("{} {path}", request.method()));
        if state.faults.busy > 0 {
            state.faults.busy -= 1;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        (state.faults.clone(), state.access.clone())
    };
    let authorization = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    if path == "/token" {
        return token(&access, &authorization, &query);
    }
    if let Some(response) = unauthorized(&registry, &access, &authorization) {
        return response;
    }
    let Some(rest) = path.strip_prefix("/v2/team/app/") else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match rest.split_once('/') {
        Some(("manifests", name)) => manifest(&registry, name),
        Some(("blobs", digest)) => {
            tokio::time::sleep(faults.delay).await;
            blob(&registry, digest, request.headers(), &faults)
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn basic(pair: &str) -> String {
    let (name, password) = pair.split_once(':').unwrap();
    format!("Basic {}", base64(&format!("{name}:{password}")))
}

fn base64(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            out.push(if at <= chunk.len() {
                char::from(ALPHABET[(n >> (18 - 6 * at)) as usize & 63])
            } else {
                '='
            });
        }
    }
    out
}

fn token(access: &Access, authorization: &str, query: &str) -> Response {
    let is_authorized = match access {
        Access::TokenFor(pair) => authorization == basic(pair),
        _ => true,
    };
    if is_authorized
        && query.contains("scope=repository%3Ateam%2Fapp%3Apull")
        && query.contains("service=test")
    {
        r#"{"token":"registry-token","expires_in":300}"#.into_response()
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}

fn unauthorized(registry: &Registry, access: &Access, authorization: &str) -> Option<Response> {
    let bearer =
        |realm: &str| format!(r#"Bearer realm="{realm}",service="test",scope="repository:team/app:pull""#);
    let (expected, challenge) = match access {
        Access::Anonymous => return None,
        Access::Token | Access::TokenFor(_) => (
            "Bearer registry-token".to_owned(),
            bearer(&format!("http://{}/token", registry.address)),
        ),
        Access::TokenAt(realm) => ("Bearer registry-token".to_owned(), bearer(realm)),
        Access::Basic(pair) => (basic(pair), r#"Basic realm="test""#.to_owned()),
    };
    (authorization != expected)
        .then(|| (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response())
}

fn manifest(registry: &Registry, name: &str) -> Response {
    match registry.state.lock().unwrap().manifests.get(name).cloned() {
        Some((media, bytes)) => ([(header::CONTENT_TYPE, media)], bytes).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#,
        )
            .into_response(),
    }
}

fn blob(registry: &Registry, digest: &str, headers: &HeaderMap, faults: &Faults) -> Response {
    if let Some(to) = &faults.redirect {
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to.clone())]).into_response();
    }
    let mut state = registry.state.lock().unwrap();
    let Some(mut bytes) = state.blobs.get(digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if faults.corrupt {
        bytes.reverse();
    }
    if faults.pad {
        bytes.extend_from_slice(&[0; 100]);
    }
    let from = headers
        .get(header::RANGE)
        .filter(|_| !faults.no_ranges)
        .and_then(|range| {
            range
                .to_str()
                .ok()?
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
    let rest = bytes.split_off(from.unwrap_or(0));
    let status = if from.is_some() {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let half = rest.len() / 2;
    let broken = state.faults.break_off > 0 && rest.len() > 1000;
    let body = if faults.stall && rest.len() > 1000 {
        let half = Bytes::copy_from_slice(&rest[..half]);
        Body::from_stream(
            futures_util::stream::iter([Ok::<_, std::io::Error>(half)])
                .chain(futures_util::stream::pending()),
        )
    } else if broken {
        state.faults.break_off -= 1;
        state.sent += half;
        let half = Bytes::copy_from_slice(&rest[..half]);
        // Late enough that the first half is sent.
        let end = futures_util::stream::once(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(std::io::Error::other("the connection was lost"))
        });
        Body::from_stream(futures_util::stream::iter([Ok(half)]).chain(end))
    } else {
        state.sent += rest.len();
        Body::from(rest)
    };
    (status, body).into_response()
}
