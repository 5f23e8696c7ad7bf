//! The caller of a request: who, with which role, and how they proved it.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::extract::{FromRequestParts, MatchedPath, OptionalFromRequestParts};
use chrono::{DateTime, Utc};
use fsa_model::{
    ProjectId, TokenId, UserId,
    api::{Role, Scope},
    limits::Limits,
};
use http::{Method, header, request::Parts};
use uuid::Uuid;

use super::{cookie, csrf, secret};
use crate::{
    error::{Error, Result},
    state::App,
    store::{notify::Topic, sessions, tokens},
};

/// How often a long connection asks by itself whether its credential still holds.
const RECHECK: Duration = Duration::from_secs(60);

/// Somebody who was authenticated. Made by this module alone, so that whoever has one has asked.
#[derive(Clone, Debug)]
pub struct Caller {
    known: Arc<Known>,
    address: Address,
}

/// What is known of a credential that holds.
#[derive(Debug)]
pub struct Known {
    pub user: UserId,
    pub login: String,
    pub role: Role,
    pub by: By,
    /// When the credential was made.
    pub since: DateTime<Utc>,
    /// A session and a token of the scope `write` may do all that the user may.
    pub scope: Scope,
    /// Set: the credential is for this project and nothing else.
    pub only: Option<ProjectId>,
    /// What the user may have, where it is not what the server lets everybody have.
    pub limits: Option<Limits>,
}

/// How a caller proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// A browser's cookie.
    Session(Uuid),
    /// A program's `Authorization` header.
    Token(TokenId),
}

/// A place in a request's extensions for who made it, for those who look at it from outside of its
/// handler. Stays empty where nobody was authenticated.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<OnceLock<UserId>>);

impl Seen {
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        self.0.get().copied()
    }
}

/// Where a request came from; the proxy's word where the proxy is trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address(pub Option<IpAddr>);

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |address| address.fmt(f))
    }
}

impl Caller {
    #[must_use]
    pub fn user(&self) -> UserId {
        self.known.user
    }

    #[must_use]
    pub fn login(&self) -> &str {
        &self.known.login
    }

    #[must_use]
    pub fn role(&self) -> Role {
        self.known.role
    }

    #[must_use]
    pub fn by(&self) -> By {
        self.known.by
    }

    /// When the session or the token was made.
    #[must_use]
    pub fn since(&self) -> DateTime<Utc> {
        self.known.since
    }

    /// The user's own limits, where they are not the server's.
    #[must_use]
    pub fn limits(&self) -> Option<Limits> {
        self.known.limits
    }

    /// The one project that the credential is for, if it is for one alone.
    #[must_use]
    pub fn only(&self) -> Option<ProjectId> {
        self.known.only
    }

    /// Whether the credential is for this project, if its user may see it.
    #[must_use]
    pub fn sees(&self, project: ProjectId) -> bool {
        self.known.only.is_none_or(|only| only == project)
    }

    /// Only a credential that may change things may go on; for the reveal of a secret, which is a
    /// GET.
    ///
    /// # Errors
    /// 403 for a token of the scope `read`.
    pub fn must_write(&self) -> Result<()> {
        match self.known.scope {
            Scope::Write => Ok(()),
            Scope::Read => Err(Error::forbidden(
                "This API token may only read, and reveals no secrets.",
            )),
        }
    }

    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// Only the owner of the whole system may go on.
    ///
    /// # Errors
    /// 403 for a member.
    pub fn must_be_owner(&self) -> Result<()> {
        match self.role() {
            Role::Owner => Ok(()),
            Role::Member => Err(Error::forbidden("Only an owner of this system may do that.")),
        }
    }

    /// Authenticates a request by its `Authorization` header, else by its cookie. With a cookie,
    /// a write (or a WebSocket) must come from our own pages.
    ///
    /// # Errors
    /// 401 where nobody is known by that; 403 where another site makes the request.
    pub async fn authenticate(app: &App, parts: &Parts) -> Result<Self> {
        let address = parts.extensions.get::<Address>().copied().unwrap_or_default();
        let (hash, is_token) = if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
            let token =
                value.to_str().ok().and_then(bearer).ok_or_else(|| {
                    Error::unauthorized("The Authorization header is not \"Bearer fsa_…\".")
                })?;
            (secret::hash(token), true)
        } else {
            let token = cookie::get(&parts.headers, cookie::name(&app.settings))
                .ok_or_else(|| Error::unauthorized("Sign in first."))?;
            (secret::hash(token), false)
        };
        let known = known(app, hash, is_token).await?.ok_or_else(|| {
            Error::unauthorized(if is_token {
                "This API token is not valid; it may have been revoked or have expired."
            } else {
                "Your session has ended; sign in again."
            })
        })?;
        if let Some(seen) = parts.extensions.get::<Seen>() {
            // Whoever authenticates twice in one request is the same person both times.
            let _ = seen.0.set(known.user);
        }
        if !is_token && csrf::is_write(parts) && !csrf::is_own(&app.settings, &parts.headers) {
            return Err(Error::forbidden(
                "This request was made by another site and was refused.",
            ));
        }
        let caller = Self { known, address };
        if csrf::is_write(parts) {
            caller.must_write()?;
        }
        if caller.only().is_some() && !is_of_a_project(parts) {
            return Err(Error::forbidden("This API token is for one project alone."));
        }
        Ok(caller)
    }

    /// The caller again from what was noted of an earlier request: a signed cookie of the gateway
    /// says which session or token it was made for. `None` where that has ended since.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn resume(app: &App, by: By, address: Address) -> Result<Option<Self>> {
        // A key of its own kind: no token has this hash.
        let key = secret::hash(&format!("{by:?}"));
        if let Some(known) = app.credentials.get(&key) {
            return Ok(Some(Self { known, address }));
        }
        let moment = app.credentials.moment();
        let found = match by {
            By::Session(id) => sessions::by_id(&app.store, id).await?,
            By::Token(id) => tokens::by_id(&app.store, id).await?,
        };
        Ok(found.map(|known| {
            let known = Arc::new(known);
            app.credentials.put(key, Arc::clone(&known), moment);
            Self { known, address }
        }))
    }

    /// Waits until this caller's credential no longer holds: signed out, revoked, expired, or the
    /// user disabled. For streams and WebSockets, which outlive the check at their beginning.
    pub async fn ended(&self, app: &App) {
        let mut interest = app.hub.interest(Topic::Credentials(self.user()));
        loop {
            match Self::resume(app, self.by(), self.address).await {
                Ok(None) => return,
                Ok(Some(_)) => {}
                Err(error) => tracing::warn!(%error, "cannot tell whether a credential still holds"),
            }
            tokio::select! {
                () = interest.changed() => {}
                () = tokio::time::sleep(RECHECK) => {}
            }
        }
    }
}

/// Whether a route is about one project, whose look-up then asks [`Caller::sees`], or tells a
/// narrowed token nothing but what it is for. Other routes are closed to those. A request without
/// a route is the gateway's, which asks too.
fn is_of_a_project(parts: &Parts) -> bool {
    parts.extensions.get::<MatchedPath>().is_none_or(|route| {
        route.as_str().contains("{project}")
            || (parts.method == Method::GET && ["/api/me", "/api/projects"].contains(&route.as_str()))
    })
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.starts_with(secret::TOKEN_PREFIX)).then_some(token)
}

async fn known(app: &App, hash: [u8; 32], is_token: bool) -> Result<Option<Arc<Known>>> {
    if let Some(known) = app.credentials.get(&hash) {
        return Ok(Some(known));
    }
    let moment = app.credentials.moment();
    let found = if is_token {
        tokens::by_hash(&app.store, &hash).await?
    } else {
        sessions::by_hash(&app.store, &hash).await?
    };
    Ok(found.map(|known| {
        let known = Arc::new(known);
        app.credentials.put(hash, Arc::clone(&known), moment);
        known
    }))
}

impl FromRequestParts<App> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let began = Instant::now();
        let caller = Self::authenticate(app, parts).await?;
        app.metrics.authenticated(began.elapsed());
        app.rates.of_request(&app.settings.limits, &caller)?;
        Ok(caller)
    }
}

impl OptionalFromRequestParts<App> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Option<Self>> {
        let found = <Self as FromRequestParts<App>>::from_request_parts(parts, app).await;
        match found {
            Ok(caller) => Ok(Some(caller)),
            Err(error) if error.status() == http::StatusCode::UNAUTHORIZED => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl FromRequestParts<App> for Address {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or_default())
    }
}
