//! Authentication of a request: from its header or cookie to its [`Caller`].

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::extract::{FromRef, FromRequestParts, MatchedPath, OptionalFromRequestParts};
use fsa_model::UserId;
use http::{Method, header, request::Parts};

use super::{cookie::OurCookie, csrf, secret};
use crate::{
    core::Core,
    error::{Error, Result},
    store::{
        caller::{Address, Caller, Credential, CredentialId},
        notify::Topic,
        sessions, tokens,
    },
};

/// Interval at which a long connection rechecks its credential without a notification.
const RECHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The authenticated user in a request's extensions, for code outside of its handler. Empty where the request was not
/// authenticated.
#[derive(Clone, Debug, Default)]
pub struct RequestUser(Arc<OnceLock<UserId>>);

impl RequestUser {
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        self.0.get().copied()
    }
}

impl Caller {
    /// Authenticates a request by its `Authorization` header, else by its cookie. With a cookie, a write (or a
    /// WebSocket) must come from our own pages.
    ///
    /// # Errors
    /// 401 where the credential is missing or not valid; 403 where another site makes the request.
    pub async fn authenticate(core: &Core, parts: &Parts) -> Result<Self> {
        let address = parts.extensions.get::<Address>().copied().unwrap_or_default();
        let (hash, is_token) = if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
            let token =
                value.to_str().ok().and_then(bearer).ok_or_else(|| {
                    Error::unauthorized("The Authorization header is not \"Bearer fsa_…\".")
                })?;
            (secret::hash(token), true)
        } else {
            let token = OurCookie::Session
                .get(&core.settings, &parts.headers)
                .ok_or_else(|| Error::unauthorized("Sign in first."))?;
            (secret::hash(token), false)
        };
        let credential = credential(core, hash, is_token).await?.ok_or_else(|| {
            Error::unauthorized(if is_token {
                "This API token is not valid; it may have been revoked or have expired."
            } else {
                "Your session has ended; sign in again."
            })
        })?;
        if let Some(request_user) = parts.extensions.get::<RequestUser>() {
            // A request that is authenticated twice has the same user both times.
            let _ = request_user.0.set(credential.user());
        }
        if !is_token && csrf::is_write(parts) && !csrf::is_same_origin(&core.settings, &parts.headers) {
            return Err(Error::forbidden(
                "This request was made by another site and was refused.",
            ));
        }
        let caller = Self::new(credential, address);
        if csrf::is_write(parts) {
            caller.must_write()?;
        }
        if caller.token_project().is_some() && !is_project_route(parts) {
            return Err(Error::forbidden("This API token is for one project only."));
        }
        Ok(caller)
    }

    /// Restores the caller of an earlier request: a signed cookie of the gateway names its session or token. `None`
    /// where that has ended since.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn resume(core: &Core, id: CredentialId, address: Address) -> Result<Option<Self>> {
        // No token has the hash of this text.
        let key = secret::hash(&format!("{id:?}"));
        if let Some(credential) = core.credentials.get(&key) {
            return Ok(Some(Self::new(credential, address)));
        }
        let version = core.credentials.version();
        let found = match id {
            CredentialId::Session(id) => sessions::by_id(&core.store, id).await?,
            CredentialId::Token(id) => tokens::by_id(&core.store, id).await?,
        };
        Ok(found.map(|credential| {
            let credential = Arc::new(credential);
            core.credentials.put(key, Arc::clone(&credential), version);
            Self::new(credential, address)
        }))
    }

    /// Waits until this caller's credential is no longer valid: signed out, revoked, expired, or the user disabled.
    /// For streams and WebSockets, which outlive the check at their start.
    pub async fn ended(&self, core: &Core) {
        let mut subscription = core.hub.subscribe(Topic::Credentials(self.user()));
        loop {
            match Self::resume(core, self.credential(), self.address()).await {
                Ok(None) => return,
                Ok(Some(_)) => {}
                Err(error) => tracing::warn!(%error, "a credential could not be rechecked"),
            }
            tokio::select! {
                () = subscription.changed() => {}
                () = tokio::time::sleep(RECHECK_INTERVAL) => {}
            }
        }
    }
}

/// Whether a project-scoped token may use this route. A route with a project in its path looks it up, and the look-up
/// checks [`Caller::sees`]. A listed GET route returns only what the token is for. A request without a route is the
/// gateway's, which checks too.
fn is_project_route(parts: &Parts) -> bool {
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

async fn credential(core: &Core, hash: [u8; 32], is_token: bool) -> Result<Option<Arc<Credential>>> {
    if let Some(credential) = core.credentials.get(&hash) {
        return Ok(Some(credential));
    }
    let version = core.credentials.version();
    let found = if is_token {
        tokens::by_hash(&core.store, &hash).await?
    } else {
        sessions::by_hash(&core.store, &hash).await?
    };
    Ok(found.map(|credential| {
        let credential = Arc::new(credential);
        core.credentials.put(hash, Arc::clone(&credential), version);
        credential
    }))
}

impl<S> FromRequestParts<S> for Caller
where
    Core: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let core = Core::from_ref(state);
        let began = Instant::now();
        let caller = Self::authenticate(&core, parts).await?;
        core.metrics.authenticated(began.elapsed());
        core.rate_limits.count_request(&core.settings.limits, &caller)?;
        Ok(caller)
    }
}

impl<S> OptionalFromRequestParts<S> for Caller
where
    Core: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>> {
        let found = <Self as FromRequestParts<S>>::from_request_parts(parts, state).await;
        match found {
            Ok(caller) => Ok(Some(caller)),
            Err(error) if error.status() == http::StatusCode::UNAUTHORIZED => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or_default())
    }
}
