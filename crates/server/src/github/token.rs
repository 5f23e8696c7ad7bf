//! GitHub user tokens, for calls in a user's name. Tokens that expire are renewed before they do. A token that GitHub
//! refuses is renewed if possible; otherwise it is deleted, and the user must sign in with GitHub again.

use chrono::Utc;
use fsa_model::UserId;
use secrecy::{ExposeSecret as _, SecretString};

use super::sign_in::configured_github;
use crate::{
    core::Core,
    error::{Error, Result},
    github_client::GithubError,
    store::github::{self, Grant},
};

/// A token is renewed when it is valid for less than this, which is longer than an operation takes.
const RENEWAL_MARGIN: chrono::Duration = chrono::Duration::minutes(5);

/// The user's token; `None` where no account is linked, or GitHub has refused it.
///
/// # Errors
/// GitHub is not set up or does not answer.
pub(super) async fn valid(core: &Core, user: UserId) -> Result<Option<SecretString>> {
    configured_github(core)?;
    match github::grant_of(&core.store, &core.key_ring, user).await? {
        Some(grant) if expires_soon(&grant) => renew(core, user, &grant.token).await,
        found => Ok(found.map(|grant| grant.token)),
    }
}

fn expires_soon(grant: &Grant) -> bool {
    grant
        .expires_at
        .is_some_and(|at| at < Utc::now() + RENEWAL_MARGIN)
}

/// The token that follows `old`, which has expired or was refused; `None` where there is none. One
/// process renews at a time, because a refresh token works once.
///
/// # Errors
/// GitHub does not answer.
pub(super) async fn renew(core: &Core, user: UserId, old: &SecretString) -> Result<Option<SecretString>> {
    let client = configured_github(core)?;
    let mut tx = core.store.begin().await?;
    let Some(grant) = github::lock_grant(&mut tx, &core.key_ring, user).await? else {
        return Ok(None);
    };
    if grant.token.expose_secret() != old.expose_secret() {
        return Ok(Some(grant.token));
    }
    let next = match &grant.refresh {
        Some(refresh) => client.refresh(refresh).await,
        None => Err(GithubError::TokenRefused),
    };
    let token = match next {
        Ok(next) => {
            github::set_tokens(&mut tx, &core.key_ring, user, &next).await?;
            Some(next.token)
        }
        Err(GithubError::TokenRefused) => {
            github::delete_tokens(&mut tx, user).await?;
            None
        }
        Err(other) => return Err(other.into()),
    };
    tx.commit().await?;
    Ok(token)
}

/// Makes a call in a user's name, and retries with a renewed token where GitHub refuses the first one.
///
/// # Errors
/// 409 where no account is linked or its token is refused; the call's own errors.
pub(super) async fn call_as_user<T, F>(
    core: &Core,
    user: UserId,
    call: impl Fn(SecretString) -> F + Send + Sync,
) -> Result<T>
where
    T: Send,
    F: Future<Output = Result<T, GithubError>> + Send,
{
    let none = || {
        Error::conflict(
            "Sign in with GitHub first, or link your account there: there is no valid token for it.",
        )
    };
    let token = valid(core, user).await?.ok_or_else(none)?;
    match call(token.clone()).await {
        Err(GithubError::TokenRefused) => {}
        answer => return Ok(answer?),
    }
    let token = renew(core, user, &token)
        .await?
        .ok_or(GithubError::TokenRefused)?;
    Ok(call(token).await?)
}
