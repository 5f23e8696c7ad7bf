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

type Inner = Arc<Mutex<Known>>;
/// The response to a token that the stand-in did not issue.
type Refusal = (StatusCode, Json<Value>);
type Fields = Query<BTreeMap<String, String>>;

#[derive(Default)]
struct Known {
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
        let asked: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!(url.path(), "/login/oauth/authorize");
        assert_eq!(asked["client_id"], "client");
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["code_challenge_method"], "S256");
        let mut known = self.inner.lock().unwrap();
        known.issued += 1;
        known.scopes = asked.get("scope").cloned().unwrap_or_default();
        let code = format!("code-{}", known.issued);
        let bound = (asked["code_challenge"].clone(), asked["redirect_uri"].clone());
        known.codes.insert(code.clone(), bound);
        let back: url::Url = asked["redirect_uri"].parse().expect("a URL");
        format!("{}?code={code}&state={}", back.path(), asked["state"])
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
            bound.0 = challenge("somebody-elses-verifier");
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
    let mut known = inner.lock().unwrap();
    let field = |name: &str| sent.get(name).cloned().unwrap_or_default();
    if field("grant_type") == "refresh_token" {
        let before = known.refreshes.len();
        known.refreshes.retain(|one| *one != field("refresh_token"));
        if known.refreshes.len() == before || field("client_secret") != "client-secret" {
            return Json(json!({"error": "bad_refresh_token"}));
        }
        return Json(authorized(&mut known));
    }
    let bound = known.codes.remove(&field("code"));
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
    Json(authorized(&mut known))
}

fn authorized(known: &mut Known) -> Value {
    known.issued += 1;
    let token = format!("gho_{}", known.issued);
    known.tokens.push(token.clone());
    let mut answer =
        json!({"access_token": token, "token_type": "bearer", "scope": "read:user,user:email,repo"});
    if let Some(lifetime) = known.lifetime {
        let refresh = format!("ghr_{}", known.issued);
        answer["expires_in"] = lifetime.into();
        answer["refresh_token"] = refresh.clone().into();
        known.refreshes.push(refresh);
    }
    answer
}

/// A token for one repository, whose name it contains.
async fn narrow(
    State(inner): State<Inner>,
    headers: HeaderMap,
    Json(wish): Json<Value>,
) -> Result<Json<Value>, Refusal> {
    // `client:client-secret`
    let right = headers
        .get("authorization")
        .is_some_and(|shown| shown == "Basic Y2xpZW50OmNsaWVudC1zZWNyZXQ=");
    let known = inner.lock().unwrap();
    let token = wish["access_token"].as_str().unwrap_or_default();
    if !right || !known.tokens.iter().any(|one| one == token) {
        return Err((
            StatusCode::UNAUTHORIZED,
            Json(json!({"message": "Bad credentials"})),
        ));
    }
    let (owner, names) = (&wish["target"], &wish["repositories"]);
    let token = format!("ghs_{}/{}", owner.as_str().unwrap(), names[0].as_str().unwrap());
    Ok(Json(json!({"token": token})))
}

fn allowed(known: &Known, headers: &HeaderMap) -> Result<(), Refusal> {
    let sent = headers.get("authorization").and_then(|value| value.to_str().ok());
    let token = sent
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    if known.tokens.iter().any(|one| one == token) {
        Ok(())
    } else {
        let body = Json(json!({"message": "Bad credentials"}));
        Err((StatusCode::UNAUTHORIZED, body))
    }
}

async fn user(State(inner): State<Inner>, headers: HeaderMap) -> Result<Json<Value>, Refusal> {
    let known = inner.lock().unwrap();
    allowed(&known, &headers)?;
    Ok(Json(
        json!({"id": known.person.0, "login": known.person.1, "email": known.email}),
    ))
}

async fn organizations(
    State(inner): State<Inner>,
    headers: HeaderMap,
    page: Fields,
) -> Result<Json<Value>, Refusal> {
    let known = inner.lock().unwrap();
    allowed(&known, &headers)?;
    let all: Vec<_> = known
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
) -> Result<Json<Value>, Refusal> {
    let known = inner.lock().unwrap();
    allowed(&known, &headers)?;
    Ok(paged(&known.repositories, &page))
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
