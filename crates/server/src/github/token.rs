//! GitHub user tokens, for calls in a user's name. Tokens that expire are renewed before they do. A token that GitHub
//! refuses is renewed if possible; otherwise it is deleted, and the user must sign in with GitHub again.

use chrono::Utc;
use fsa_model::UserId;
use secrecy::{ExposeSecret as _, SecretString};

use super::sign_in::github_of;
use crate::{
    core::Core,
    error::{Error, Result},
    github_client::CallError,
    store::github::{self, Grant},
};

/// A token is renewed when it is valid for less than this, which is longer than an operation takes.
const MARGIN: chrono::Duration = chrono::Duration::minutes(5);

/// The user's token; `None` where no account is linked, or GitHub has refused it.
///
/// # Errors
/// GitHub is not set up or does not answer.
pub(super) async fn of(core: &Core, user: UserId) -> Result<Option<SecretString>> {
    github_of(core)?;
    match github::grant_of(&core.store, &core.key_ring, user).await? {
        Some(grant) if is_stale(&grant) => renewed(core, user, &grant.token).await,
        found => Ok(found.map(|grant| grant.token)),
    }
}

fn is_stale(grant: &Grant) -> bool {
    grant.expires_at.is_some_and(|at| at < Utc::now() + MARGIN)
}

/// The token that follows `old`, which has expired or was refused; `None` where there is none. One
/// process renews at a time, because a refresh token works once.
///
/// # Errors
/// GitHub does not answer.
pub(super) async fn renewed(core: &Core, user: UserId, old: &SecretString) -> Result<Option<SecretString>> {
    let way = github_of(core)?;
    let mut tx = core.store.begin().await?;
    let Some(grant) = github::lock_grant(&mut tx, &core.key_ring, user).await? else {
        return Ok(None);
    };
    if grant.token.expose_secret() != old.expose_secret() {
        return Ok(Some(grant.token));
    }
    let next = match &grant.refresh {
        Some(refresh) => way.refresh(refresh).await,
        None => Err(CallError::TokenRefused),
    };
    let token = match next {
        Ok(next) => {
            github::renewed(&mut tx, &core.key_ring, user, &next).await?;
            Some(next.token)
        }
        Err(CallError::TokenRefused) => {
            github::refused(&mut tx, user).await?;
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
pub(super) async fn in_name_of<T, F>(
    core: &Core,
    user: UserId,
    call: impl Fn(SecretString) -> F + Send + Sync,
) -> Result<T>
where
    T: Send,
    F: Future<Output = Result<T, CallError>> + Send,
{
    let none = || {
        Error::conflict(
            "Sign in with GitHub first, or link your account there: there is no valid token for it.",
        )
    };
    let token = of(core, user).await?.ok_or_else(none)?;
    match call(token.clone()).await {
        Err(CallError::TokenRefused) => {}
        answer => return Ok(answer?),
    }
    let token = renewed(core, user, &token)
        .await?
        .ok_or(CallError::TokenRefused)?;
    Ok(call(token).await?)
}
