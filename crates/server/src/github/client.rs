//! The calls to GitHub: the exchange of a code for a token, and the API. Every one has a timeout,
//! follows no redirect, and reads a bounded answer.

use std::time::Duration;

use futures_util::StreamExt as _;
use http::{StatusCode, header};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest, HttpResponse,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError, Scope, TokenResponse as _, TokenUrl,
    basic::BasicClient,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use super::Settings;
use crate::error::{Error, Result};

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest answer that is read: a page of 100 repositories has about 600 KB.
const ANSWER_LIMIT: usize = 8 * 1024 * 1024;
/// Entries of a page of a list; GitHub gives no more.
const PAGE: usize = 100;
/// Pages that are read of a list at most.
const PAGES: usize = 30;

/// A way to GitHub.
pub struct Github {
    pub(super) settings: Settings,
    http: reqwest::Client,
}

/// Why GitHub did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("GitHub refused the token")]
    TokenRefused,
    #[error("GitHub answered {0}")]
    Status(StatusCode),
    #[error("GitHub does not answer: {0}")]
    Unreachable(#[from] reqwest::Error),
    #[error("GitHub's answer is longer than {ANSWER_LIMIT} bytes")]
    TooLong,
    #[error("GitHub's answer makes no sense: {0}")]
    Nonsense(#[from] serde_json::Error),
    #[error("a request could not be formed: {0}")]
    Form(#[from] http::Error),
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::TokenRefused => {
                Self::conflict("GitHub no longer takes what it gave us; sign in with it again.")
            }
            other => Self::new(
                StatusCode::BAD_GATEWAY,
                "GitHub",
                "GitHub did not answer as it should; try again later.",
            )
            .because(other),
        }
    }
}

/// Somebody at GitHub.
#[derive(Debug, Deserialize)]
pub struct Account {
    pub id: i64,
    pub login: String,
}

#[derive(Deserialize)]
struct Organization {
    login: String,
}

/// Where a browser is sent, and what must be remembered until it comes back.
pub struct Departure {
    pub url: Url,
    pub state: SecretString,
    pub verifier: SecretString,
}

macro_rules! oauth {
    ($github:expr, $redirect:expr) => {
        BasicClient::new(ClientId::new($github.settings.client_id.clone()))
            .set_client_secret(ClientSecret::new(
                $github.settings.client_secret.expose_secret().to_owned(),
            ))
            .set_auth_uri(AuthUrl::from_url(joined(
                &$github.settings.url,
                "login/oauth/authorize",
            )))
            .set_token_uri(TokenUrl::from_url(joined(
                &$github.settings.url,
                "login/oauth/access_token",
            )))
            .set_redirect_uri(RedirectUrl::from_url($redirect))
            // GitHub takes the client's secret in the body, as its documentation has it.
            .set_auth_type(AuthType::RequestBody)
    };
}

impl Github {
    /// # Panics
    /// Where the TLS library does not work at all.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        // Whoever runs a server in their own program may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("fullstack-agent")
            .build()
            .expect("a client with these settings");
        Self { settings, http }
    }

    /// A new way out to GitHub's page, with a fresh state and PKCE verifier.
    pub(super) fn departure(&self, redirect: Url) -> Departure {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let mut scopes = vec!["read:user", "user:email", "repo"];
        if !self.settings.join.organizations.is_empty() {
            // A membership that is not public is not told without it.
            scopes.push("read:org");
        }
        let (url, state) = oauth!(self, redirect)
            .authorize_url(CsrfToken::new_random)
            .add_scopes(scopes.into_iter().map(|scope| Scope::new(scope.to_owned())))
            .set_pkce_challenge(challenge)
            .url();
        Departure {
            url,
            state: state.into_secret().into(),
            verifier: verifier.into_secret().into(),
        }
    }

    /// Exchanges the code that a browser brought back for a token.
    ///
    /// # Errors
    /// 403 where GitHub refuses the code, the verifier or the redirect; 502 where it does not answer.
    pub(super) async fn exchange(
        &self,
        redirect: Url,
        code: String,
        verifier: &SecretString,
    ) -> Result<SecretString> {
        let http = self.http.clone();
        let send = move |request: HttpRequest| send(http.clone(), request);
        let answer = oauth!(self, redirect)
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.expose_secret().to_owned()))
            .request_async(&send)
            .await;
        match answer {
            Ok(answer) => Ok(answer.access_token().secret().clone().into()),
            Err(RequestTokenError::Request(error)) => Err(error.into()),
            // GitHub says so with status 200 and a body that holds no token. The error itself is
            // not passed on: it may quote the answer.
            Err(_) => Err(Error::forbidden("GitHub refused this sign-in; begin it again.")),
        }
    }

    /// Who has this token.
    pub(super) async fn account(&self, token: &SecretString) -> Result<Account, CallError> {
        self.get("user", &[], token).await
    }

    /// The logins of the organisations that whoever has this token is a member of.
    pub(super) async fn organizations(&self, token: &SecretString) -> Result<Vec<String>, CallError> {
        let (all, _) = self.list::<Organization>("user/orgs", &[], token).await?;
        Ok(all.into_iter().map(|one| one.login).collect())
    }

    /// Everything on a list, and whether it goes on after what is read at most.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        token: &SecretString,
    ) -> Result<(Vec<T>, bool), CallError> {
        let mut all = Vec::new();
        for page in 1..=PAGES {
            let (page, size) = (page.to_string(), PAGE.to_string());
            let mut query = query.to_vec();
            query.extend([("per_page", size.as_str()), ("page", page.as_str())]);
            let some: Vec<T> = self.get(path, &query, token).await?;
            let last = some.len() < PAGE;
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
    ) -> Result<T, CallError> {
        let mut url = joined(&self.settings.api, path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let response = self
            .http
            .get(url)
            .bearer_auth(token.expose_secret())
            .header(header::ACCEPT, "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28")
            .send()
            .await?;
        match response.status() {
            StatusCode::UNAUTHORIZED => Err(CallError::TokenRefused),
            status if !status.is_success() => Err(CallError::Status(status)),
            _ => Ok(serde_json::from_slice(&read(response).await?)?),
        }
    }
}

async fn send(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, CallError> {
    let response = http.execute(reqwest::Request::try_from(request)?).await?;
    let status = response.status();
    if status.is_server_error() {
        return Err(CallError::Status(status));
    }
    let kind = response.headers().get(header::CONTENT_TYPE).cloned();
    let mut answer = HttpResponse::new(read(response).await?);
    *answer.status_mut() = status;
    if let Some(kind) = kind {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(answer)
}

async fn read(response: reqwest::Response) -> Result<Vec<u8>, CallError> {
    let mut body = response.bytes_stream();
    let mut all = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        if all.len() + chunk.len() > ANSWER_LIMIT {
            return Err(CallError::TooLong);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// `path` below `base`, whether or not that ends in a slash.
fn joined(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}
