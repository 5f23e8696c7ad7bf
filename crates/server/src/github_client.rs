//! GitHub client: the exchange of a code for a token, and the API. Every call has a timeout, follows no redirect,
//! and reads a bounded response.

use std::time::Duration;

use futures_util::StreamExt as _;
use http::{StatusCode, header};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest, HttpResponse,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope,
    TokenResponse as _, TokenUrl,
    basic::{BasicClient, BasicTokenResponse},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use crate::settings::GithubSettings;
use crate::{
    error::{Error, Result},
    store::github::Grant,
};

/// Timeout of one call.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest response that is read: a page of 100 repositories has about 600 KB.
const MAX_RESPONSE_BYTES: usize = 8 * 1024 * 1024;
/// Entries of one page of a list; GitHub's maximum.
const PAGE_SIZE: usize = 100;
/// Most pages of one list that are read.
const MAX_PAGES: usize = 30;

/// The configured GitHub server and its HTTP client.
pub struct Github {
    pub(crate) settings: GithubSettings,
    http: reqwest::Client,
}

/// Why a call to GitHub failed.
#[derive(Debug, thiserror::Error)]
pub enum GithubError {
    #[error("GitHub refused the token")]
    TokenRefused,
    /// The reason in GitHub's words.
    #[error("GitHub refused this: {0}")]
    Refused(String),
    #[error("GitHub answered {0}")]
    Status(StatusCode),
    #[error("GitHub does not answer: {0}")]
    Unreachable(#[from] reqwest::Error),
    #[error("GitHub's answer is longer than {MAX_RESPONSE_BYTES} bytes")]
    TooLong,
    #[error("GitHub's answer is not valid JSON: {0}")]
    InvalidJson(#[from] serde_json::Error),
    #[error("a request could not be built: {0}")]
    InvalidRequest(#[from] http::Error),
}

impl From<GithubError> for Error {
    fn from(error: GithubError) -> Self {
        match error {
            GithubError::TokenRefused => Self::conflict(
                "GitHub no longer accepts the token of your account. Sign in with GitHub again.",
            ),
            GithubError::Refused(why) => {
                Self::conflict("GitHub refused this.").with_message(format!("GitHub refused this: {why}"))
            }
            other => Self::new(
                StatusCode::BAD_GATEWAY,
                "GitHub",
                "GitHub returned an unexpected answer. Try again later.",
            )
            .with_cause(other),
        }
    }
}

/// An account at GitHub.
#[derive(Debug, Deserialize)]
pub struct Account {
    pub id: i64,
    pub login: String,
}

#[derive(Deserialize)]
struct Organization {
    login: String,
}

/// The authorization URL for the browser, and the values to keep until it returns.
pub struct AuthorizationRequest {
    pub url: Url,
    pub state: SecretString,
    pub verifier: SecretString,
}

macro_rules! oauth {
    ($github:expr) => {
        BasicClient::new(ClientId::new($github.settings.client_id.clone()))
            .set_client_secret(ClientSecret::new(
                $github.settings.client_secret.expose_secret().to_owned(),
            ))
            .set_token_uri(TokenUrl::from_url(joined(
                &$github.settings.url,
                "login/oauth/access_token",
            )))
            // GitHub takes the client's secret in the body, according to its documentation.
            .set_auth_type(AuthType::RequestBody)
    };
    ($github:expr, $redirect:expr) => {
        oauth!($github)
            .set_auth_uri(AuthUrl::from_url(joined(
                &$github.settings.url,
                "login/oauth/authorize",
            )))
            .set_redirect_uri(RedirectUrl::from_url($redirect))
    };
}

impl Github {
    /// # Panics
    /// If the TLS library does not work at all.
    #[must_use]
    pub fn new(settings: GithubSettings) -> Self {
        // A program that embeds the server may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("fullstack-agent")
            .build()
            .expect("a client with these settings");
        Self { settings, http }
    }

    /// Starts an authorization at GitHub, with a fresh state and PKCE verifier.
    pub(crate) fn authorization_request(&self, redirect: Url) -> AuthorizationRequest {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        // A GitHub App's permissions are part of the app.
        let mut scopes = match self.settings.app {
            true => vec![],
            false => vec!["read:user", "user:email", "repo"],
        };
        if !self.settings.join.organizations.is_empty() && !self.settings.app {
            // Without this scope, GitHub does not report private memberships.
            scopes.push("read:org");
        }
        let (url, state) = oauth!(self, redirect)
            .authorize_url(CsrfToken::new_random)
            .add_scopes(scopes.into_iter().map(|scope| Scope::new(scope.to_owned())))
            .set_pkce_challenge(challenge)
            .url();
        AuthorizationRequest {
            url,
            state: state.into_secret().into(),
            verifier: verifier.into_secret().into(),
        }
    }

    /// Exchanges the code that a browser brought back for a token.
    ///
    /// # Errors
    /// 403 where GitHub refuses the code, the verifier or the redirect; 502 where it does not answer.
    pub(crate) async fn exchange(
        &self,
        redirect: Url,
        code: String,
        verifier: &SecretString,
    ) -> Result<Grant> {
        let http = self.http.clone();
        let send = move |request: HttpRequest| send(http.clone(), request);
        let answer = oauth!(self, redirect)
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.expose_secret().to_owned()))
            .request_async(&send)
            .await;
        match answer {
            Ok(answer) => Ok(authorized(&answer)),
            Err(RequestTokenError::Request(error)) => Err(error.into()),
            // GitHub reports this with status 200 and a body without a token. The error itself is
            // not passed on: it may quote the response.
            Err(_) => Err(Error::forbidden("GitHub refused this sign-in; begin it again.")),
        }
    }

    /// Gets the next token with the refresh token that came with the last one.
    pub(crate) async fn refresh(&self, refresh: &SecretString) -> Result<Grant, GithubError> {
        let http = self.http.clone();
        let send = move |request: HttpRequest| send(http.clone(), request);
        let answer = oauth!(self)
            .exchange_refresh_token(&RefreshToken::new(refresh.expose_secret().to_owned()))
            .request_async(&send)
            .await;
        match answer {
            Ok(answer) => Ok(authorized(&answer)),
            Err(RequestTokenError::Request(error)) => Err(error),
            Err(RequestTokenError::ServerResponse(_)) => Err(GithubError::TokenRefused),
            // GitHub reports this with status 200 and a body without a token. Any other body may come from
            // a server in between, and is no reason to give up a token.
            Err(RequestTokenError::Parse(_, body)) => {
                let response: serde_json::Value = serde_json::from_slice(&body)?;
                match response.get("error") {
                    Some(_) => Err(GithubError::TokenRefused),
                    None => Err(GithubError::Status(StatusCode::OK)),
                }
            }
            Err(RequestTokenError::Other(_)) => Err(GithubError::Status(StatusCode::OK)),
        }
    }

    /// Exchanges a user's token, which covers all that the user and the app have in common, for a token for one
    /// repository. Only for a GitHub App: an OAuth App's tokens cannot be narrowed.
    pub(crate) async fn repository_token(
        &self,
        token: &SecretString,
        repository: &str,
    ) -> Result<SecretString, GithubError> {
        #[derive(Deserialize)]
        struct ScopedToken {
            token: SecretString,
        }
        let (owner, name) = repository.split_once('/').unwrap_or(("", repository));
        let path = format!("applications/{}/token/scoped", self.settings.client_id);
        let request = self
            .http
            .post(joined(&self.settings.api, &path))
            .basic_auth(
                &self.settings.client_id,
                Some(self.settings.client_secret.expose_secret()),
            )
            .json(&serde_json::json!({
                "access_token": token.expose_secret(), "target": owner, "repositories": [name]}));
        let scoped: ScopedToken = send_json(request).await?;
        Ok(scoped.token)
    }

    /// Sends a POST request.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl serde::Serialize + Sync),
        token: &SecretString,
    ) -> Result<T, GithubError> {
        let url = joined(&self.settings.api, path);
        send_json(self.http.post(url).bearer_auth(token.expose_secret()).json(body)).await
    }

    /// The account of this token.
    pub(crate) async fn account(&self, token: &SecretString) -> Result<Account, GithubError> {
        self.get("user", &[], token).await
    }

    /// The logins of the organizations that the token's account is a member of.
    pub(crate) async fn organizations(&self, token: &SecretString) -> Result<Vec<String>, GithubError> {
        let (all, _) = self.list::<Organization>("user/orgs", &[], token).await?;
        Ok(all.into_iter().map(|one| one.login).collect())
    }

    /// The entries of a list up to the page limit, and whether there are more.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        token: &SecretString,
    ) -> Result<(Vec<T>, bool), GithubError> {
        let mut all = Vec::new();
        for page in 1..=MAX_PAGES {
            let (page, size) = (page.to_string(), PAGE_SIZE.to_string());
            let mut query = query.to_vec();
            query.extend([("per_page", size.as_str()), ("page", page.as_str())]);
            let some: Vec<T> = self.get(path, &query, token).await?;
            let last = some.len() < PAGE_SIZE;
            all.extend(some);
            if last {
                return Ok((all, false));
            }
        }
        Ok((all, true))
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        token: &SecretString,
    ) -> Result<T, GithubError> {
        let mut url = joined(&self.settings.api, path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        send_json(self.http.get(url).bearer_auth(token.expose_secret())).await
    }
}

/// Sends a request to the API.
async fn send_json<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, GithubError> {
    #[derive(Deserialize)]
    struct ErrorResponse {
        message: String,
        #[serde(default)]
        errors: Vec<serde_json::Value>,
    }
    let response = request
        .header(header::ACCEPT, "application/vnd.github+json")
        .header("x-github-api-version", "2022-11-28")
        .send()
        .await?;
    let status = response.status();
    match status {
        StatusCode::UNAUTHORIZED => Err(GithubError::TokenRefused),
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY => {
            let Ok(error) = serde_json::from_slice::<ErrorResponse>(&read(response).await?) else {
                return Err(GithubError::Status(status));
            };
            let more = error.errors.iter().filter_map(|one| one.get("message")?.as_str());
            let all: Vec<&str> = std::iter::once(error.message.as_str()).chain(more).collect();
            let plain = |c: &char| !c.is_control();
            Err(GithubError::Refused(
                all.join("; ").chars().filter(plain).take(500).collect(),
            ))
        }
        status if !status.is_success() => Err(GithubError::Status(status)),
        _ => Ok(serde_json::from_slice(&read(response).await?)?),
    }
}

fn authorized(answer: &BasicTokenResponse) -> Grant {
    let lifetime = answer
        .expires_in()
        .and_then(|lifetime| chrono::Duration::from_std(lifetime).ok());
    Grant {
        token: answer.access_token().secret().clone().into(),
        refresh: answer
            .refresh_token()
            .map(|refresh| refresh.secret().clone().into()),
        expires_at: lifetime.and_then(|lifetime| chrono::Utc::now().checked_add_signed(lifetime)),
    }
}

async fn send(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, GithubError> {
    let response = http.execute(reqwest::Request::try_from(request)?).await?;
    let status = response.status();
    if status.is_server_error() {
        return Err(GithubError::Status(status));
    }
    let kind = response.headers().get(header::CONTENT_TYPE).cloned();
    let mut answer = HttpResponse::new(read(response).await?);
    *answer.status_mut() = status;
    if let Some(kind) = kind {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(answer)
}

async fn read(response: reqwest::Response) -> Result<Vec<u8>, GithubError> {
    let mut body = response.bytes_stream();
    let mut all = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        if all.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return Err(GithubError::TooLong);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// `path` below `base`, with or without a slash at the end of `base`.
fn joined(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}
