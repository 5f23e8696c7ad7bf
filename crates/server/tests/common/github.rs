//! Stand-in for GitHub: its sign-in page (which needs no confirmation), the code exchange with PKCE
//! checked as RFC 7636 requires, and the used parts of its API.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fsa_server::settings::{GithubSettings, Join};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, task::JoinHandle};

/// The stand-in, one per test.
pub struct Github {
    pub address: SocketAddr,
    inner: Inner,
    server: JoinHandle<()>,
}

type Inner = Arc<Mutex<GithubState>>;
/// The response to a token that the stand-in did not issue.
type ErrorResponse = (StatusCode, Json<Value>);
type Fields = Query<BTreeMap<String, String>>;

#[derive(Default)]
struct GithubState {
    /// The person who uses the page: number, login.
    person: (i64, String),
    email: String,
    organizations: Vec<String>,
    repositories: Vec<Value>,
    /// Code to (challenge, redirect).
    codes: BTreeMap<String, (String, String)>,
    tokens: Vec<String>,
    /// Valid refresh tokens; each works once.
    refreshes: Vec<String>,
    /// Seconds until a token expires; without a value, it does not.
    lifetime: Option<u64>,
    issued: usize,
    scopes: String,
}

impl Github {
    pub async fn new() -> Self {
        let inner = Inner::default();
        let routes = Router::new()
            .route("/login/oauth/access_token", post(exchange))
            .route("/api/applications/client/token/scoped", post(narrow))
            .route("/api/user", get(user))
            .route("/api/user/orgs", get(organizations))
            .route("/api/user/repos", get(repositories))
            .with_state(Arc::clone(&inner));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("a bound port");
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.expect("it serves") });
        let github = Self {
            address,
            inner,
            server,
        };
        github.person(1, "Ada-L");
        github
    }

    pub fn settings(&self, join: Join) -> GithubSettings {
        GithubSettings {
            client_id: "client".into(),
            client_secret: "client-secret".to_owned().into(),
            url: format!("http://{}", self.address).parse().expect("a URL"),
            api: format!("http://{}/api", self.address).parse().expect("a URL"),
            app: false,
            join,
        }
    }

    /// Sets the person who signs in from now on.
    pub fn person(&self, id: i64, login: &str) {
        self.inner.lock().unwrap().person = (id, login.to_owned());
    }

    pub fn email(&self, email: &str) {
        self.inner.lock().unwrap().email = email.to_owned();
    }

    pub fn member_of(&self, organization: &str) {
        self.inner
            .lock()
            .unwrap()
            .organizations
            .push(organization.to_owned());
    }

    pub fn repository(&self, name: &str, description: &str) {
        self.inner.lock().unwrap().repositories.push(json!({
            "full_name": name, "description": description, "private": true, "default_branch": "main",
            "clone_url": format!("https://github.example/{name}.git"), "pushed_at": "2026-01-02T03:04:05Z",
        }));
    }

    /// The person revokes the access tokens.
    pub fn revoke(&self) {
        self.inner.lock().unwrap().tokens.clear();
    }

    /// Like [`Self::settings`], for a GitHub App.
    pub fn app(&self, join: Join) -> GithubSettings {
        GithubSettings {
            app: true,
            ..self.settings(join)
        }
    }

    /// From now on, tokens expire after so many seconds and come with a refresh token.
    pub fn expire_after(&self, seconds: u64) {
        self.inner.lock().unwrap().lifetime = Some(seconds);
    }

    /// The person revokes the access tokens and the refresh tokens.
    pub fn revoke_all(&self) {
        self.revoke();
        self.inner.lock().unwrap().refreshes.clear();
    }

    /// The last requested scopes.
    pub fn scopes(&self) -> String {
        self.inner.lock().unwrap().scopes.clone()
    }

    /// The page: the person allows what `url` requests. Returns the path and query on the server's main host
    /// to which the browser is redirected.
    pub fn allow(&self, url: &str) -> String {
        let url: url::Url = url.parse().expect("a URL");
        let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!(url.path(), "/login/oauth/authorize");
        assert_eq!(query["client_id"], "client");
        assert_eq!(query["response_type"], "code");
        assert_eq!(query["code_challenge_method"], "S256");
        let mut state = self.inner.lock().unwrap();
        state.issued += 1;
        state.scopes = query.get("scope").cloned().unwrap_or_default();
        let code = format!("code-{}", state.issued);
        let bound = (query["code_challenge"].clone(), query["redirect_uri"].clone());
        state.codes.insert(code.clone(), bound);
        let back: url::Url = query["redirect_uri"].parse().expect("a URL");
        format!("{}?code={code}&state={}", back.path(), query["state"])
    }

    /// Binds the issued codes to another redirect.
    pub fn bind_to_another_redirect(&self) {
        for bound in self.inner.lock().unwrap().codes.values_mut() {
            bound.1 = "https://elsewhere.example/callback".into();
        }
    }

    /// Binds the issued codes to another verifier.
    pub fn bind_to_another_verifier(&self) {
        for bound in self.inner.lock().unwrap().codes.values_mut() {
            bound.0 = challenge("another-verifier");
        }
    }

    /// The number of codes that were not exchanged.
    pub fn codes(&self) -> usize {
        self.inner.lock().unwrap().codes.len()
    }
}

impl Drop for Github {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()))
}

async fn exchange(State(inner): State<Inner>, body: String) -> Json<Value> {
    let sent: BTreeMap<_, _> = url::form_urlencoded::parse(body.as_bytes())
        .into_owned()
        .collect();
    let mut state = inner.lock().unwrap();
    let field = |name: &str| sent.get(name).cloned().unwrap_or_default();
    if field("grant_type") == "refresh_token" {
        let before = state.refreshes.len();
        state.refreshes.retain(|one| *one != field("refresh_token"));
        if state.refreshes.len() == before || field("client_secret") != "client-secret" {
            return Json(json!({"error": "bad_refresh_token"}));
        }
        return Json(authorized(&mut state));
    }
    let bound = state.codes.remove(&field("code"));
    let right = field("client_id") == "client" && field("client_secret") == "client-secret";
    let Some((expected, redirect)) = bound.filter(|_| right) else {
        // The status is 200, like at GitHub.
        return Json(json!({"error": "bad_verification_code"}));
    };
    if redirect != field("redirect_uri") {
        return Json(json!({"error": "redirect_uri_mismatch"}));
    }
    if expected != challenge(&field("code_verifier")) {
        return Json(json!({"error": "bad_verification_code"}));
    }
    Json(authorized(&mut state))
}

fn authorized(state: &mut GithubState) -> Value {
    state.issued += 1;
    let token = format!("gho_{}", state.issued);
    state.tokens.push(token.clone());
    let mut answer =
        json!({"access_token": token, "token_type": "bearer", "scope": "read:user,user:email,repo"});
    if let Some(lifetime) = state.lifetime {
        let refresh = format!("ghr_{}", state.issued);
        answer["expires_in"] = lifetime.into();
        answer["refresh_token"] = refresh.clone().into();
        state.refreshes.push(refresh);
    }
    answer
}

/// A token for one repository, whose name it contains.
async fn narrow(
    State(inner): State<Inner>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Result<Json<Value>, ErrorResponse> {
    // `client:client-secret`
    let right = headers
        .get("authorization")
        .is_some_and(|shown| shown == "Basic Y2xpZW50OmNsaWVudC1zZWNyZXQ=");
    let state = inner.lock().unwrap();
    let token = request["access_token"].as_str().unwrap_or_default();
    if !right || !state.tokens.iter().any(|one| one == token) {
        return Err((
            StatusCode::UNAUTHORIZED,
            Json(json!({"message": "Bad credentials"})),
        ));
    }
    let (owner, names) = (&request["target"], &request["repositories"]);
    let token = format!("ghs_{}/{}", owner.as_str().unwrap(), names[0].as_str().unwrap());
    Ok(Json(json!({"token": token})))
}

fn allowed(state: &GithubState, headers: &HeaderMap) -> Result<(), ErrorResponse> {
    let sent = headers.get("authorization").and_then(|value| value.to_str().ok());
    let token = sent
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    if state.tokens.iter().any(|one| one == token) {
        Ok(())
    } else {
        let body = Json(json!({"message": "Bad credentials"}));
        Err((StatusCode::UNAUTHORIZED, body))
    }
}

async fn user(State(inner): State<Inner>, headers: HeaderMap) -> Result<Json<Value>, ErrorResponse> {
    let state = inner.lock().unwrap();
    allowed(&state, &headers)?;
    Ok(Json(
        json!({"id": state.person.0, "login": state.person.1, "email": state.email}),
    ))
}

async fn organizations(
    State(inner): State<Inner>,
    headers: HeaderMap,
    page: Fields,
) -> Result<Json<Value>, ErrorResponse> {
    let state = inner.lock().unwrap();
    allowed(&state, &headers)?;
    let all: Vec<_> = state
        .organizations
        .iter()
        .map(|login| json!({"login": login}))
        .collect();
    Ok(paged(&all, &page))
}

async fn repositories(
    State(inner): State<Inner>,
    headers: HeaderMap,
    page: Fields,
) -> Result<Json<Value>, ErrorResponse> {
    let state = inner.lock().unwrap();
    allowed(&state, &headers)?;
    Ok(paged(&state.repositories, &page))
}

fn paged(all: &[Value], query: &Fields) -> Json<Value> {
    let number = |name: &str, default: usize| {
        query
            .get(name)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let (page, size) = (number("page", 1), number("per_page", 30).min(100));
    Json(all.iter().skip((page - 1) * size).take(size).cloned().collect())
}
