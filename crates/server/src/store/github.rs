//! GitHub accounts of users, and sign-ins with GitHub in flight.

use std::time::Duration;

use chrono::{DateTime, Utc};
use fsa_model::{UserId, auth::GithubAccount};
use secrecy::SecretString;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{Store, associated_data};
use crate::{
    encryption::KeyRing,
    error::{Error, Result},
};

/// The state stored when a browser was redirected to GitHub.
pub struct PendingSignIn {
    pub browser_hash: Vec<u8>,
    pub verifier: SecretString,
    /// The user to link the account to; `None` to sign in with it.
    pub link_to: Option<UserId>,
}

/// Tokens for GitHub's API in a user's name.
#[derive(Clone, Debug)]
pub struct Grant {
    pub token: SecretString,
    /// The refresh token, which works once; present where tokens expire.
    pub refresh: Option<SecretString>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Stores the state of a browser that is redirected to GitHub, and deletes expired states.
///
/// # Errors
/// The database does not answer.
pub async fn begin(
    store: &Store,
    key_ring: &KeyRing,
    state_hash: &[u8; 32],
    browser_hash: &[u8; 32],
    verifier: &SecretString,
    link_to: Option<UserId>,
    lifetime: Duration,
) -> Result<()> {
    sqlx::query("delete from github_sign_ins where expires_at <= now()")
        .execute(&store.pool)
        .await?;
    let row = hex::encode(state_hash);
    sqlx::query(
        "insert into github_sign_ins (state_hash, browser_hash, verifier, user_id, expires_at)
         values ($1, $2, $3, $4, now() + make_interval(secs => $5))",
    )
    .bind(state_hash.as_slice())
    .bind(browser_hash.as_slice())
    .bind(key_ring.encrypt(associated_data::github_verifier(&row), verifier))
    .bind(link_to.map(|user| user.0))
    .bind(lifetime.as_secs_f64())
    .execute(&store.pool)
    .await?;
    Ok(())
}

/// Takes the data stored under this state. It works once, whatever the outcome.
///
/// # Errors
/// The database does not answer; the verifier cannot be decrypted.
pub async fn take(store: &Store, key_ring: &KeyRing, state_hash: &[u8; 32]) -> Result<Option<PendingSignIn>> {
    let row = sqlx::query(
        "delete from github_sign_ins where state_hash = $1
         returning browser_hash, verifier, user_id, expires_at > now() as holds",
    )
    .bind(state_hash.as_slice())
    .fetch_optional(&store.pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if !row.try_get::<bool, _>("holds")? {
        return Ok(None);
    }
    let name = hex::encode(state_hash);
    Ok(Some(PendingSignIn {
        browser_hash: row.try_get("browser_hash")?,
        verifier: key_ring.decrypt(associated_data::github_verifier(&name), row.try_get("verifier")?)?,
        link_to: row.try_get::<Option<Uuid>, _>("user_id")?.map(UserId),
    }))
}

/// The user whose account at GitHub has this number.
///
/// # Errors
/// The database does not answer.
pub async fn user_of(connection: &mut PgConnection, github_id: i64) -> Result<Option<UserId>> {
    let user: Option<Uuid> = sqlx::query_scalar("select user_id from github_accounts where github_id = $1")
        .bind(github_id)
        .fetch_optional(connection)
        .await?;
    Ok(user.map(UserId))
}

/// The account at GitHub that is linked to `user`.
///
/// # Errors
/// The database does not answer.
pub async fn account_of(connection: &mut PgConnection, user: UserId) -> Result<Option<GithubAccount>> {
    let row = sqlx::query(
        "select github_id, login, token is null as refused, linked_at from github_accounts where user_id = $1",
    )
    .bind(user.0)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(GithubAccount {
        id: row.try_get("github_id")?,
        login: row.try_get("login")?,
        needs_sign_in: row.try_get("refused")?,
        linked_at: row.try_get("linked_at")?,
    }))
}

/// Links an account to `user`, or updates token and login of a linked one.
///
/// # Errors
/// 409 where the account is another user's, or the user has another account.
pub async fn link(
    tx: &mut PgConnection,
    key_ring: &KeyRing,
    user: UserId,
    github_id: i64,
    login: &str,
    grant: &Grant,
) -> Result<()> {
    let (token, refresh) = encrypted(key_ring, user, grant);
    let written = sqlx::query(
        "insert into github_accounts (github_id, user_id, login, token, refresh_token, token_expires_at)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (github_id) do update set login = excluded.login, token = excluded.token,
             refresh_token = excluded.refresh_token, token_expires_at = excluded.token_expires_at
            where github_accounts.user_id = excluded.user_id",
    )
    .bind(github_id)
    .bind(user.0)
    .bind(login)
    .bind(token)
    .bind(refresh)
    .bind(grant.expires_at)
    .execute(tx)
    .await
    .map_err(|error| match error.as_database_error().map(|e| e.kind()) {
        Some(sqlx::error::ErrorKind::UniqueViolation) => {
            Error::conflict("Another GitHub account is linked to you already; unlink it first.")
        }
        _ => error.into(),
    })?;
    if written.rows_affected() == 0 {
        return Err(Error::conflict(
            "This GitHub account is linked to another user of this server.",
        ));
    }
    Ok(())
}

/// Unlinks the user's account; false where there was none.
///
/// # Errors
/// The database does not answer.
pub async fn unlink(tx: &mut PgConnection, user: UserId) -> Result<bool> {
    let deleted = sqlx::query("delete from github_accounts where user_id = $1")
        .bind(user.0)
        .execute(tx)
        .await?;
    Ok(deleted.rows_affected() > 0)
}

fn encrypted(key_ring: &KeyRing, user: UserId, grant: &Grant) -> (Vec<u8>, Option<Vec<u8>>) {
    let user = user.to_string();
    let refresh = grant.refresh.as_ref();
    (
        key_ring.encrypt(associated_data::github_token(&user), &grant.token),
        refresh.map(|refresh| key_ring.encrypt(associated_data::github_refresh_token(&user), refresh)),
    )
}

macro_rules! grant {
    ($rest:literal) => {
        concat!(
            "select token, refresh_token, token_expires_at from github_accounts
             where user_id = $1 and token is not null",
            $rest
        )
    };
}

fn grant(row: Option<PgRow>, key_ring: &KeyRing, user: UserId) -> Result<Option<Grant>> {
    let Some(row) = row else { return Ok(None) };
    let user = user.to_string();
    let refresh: Option<Vec<u8>> = row.try_get("refresh_token")?;
    Ok(Some(Grant {
        token: key_ring.decrypt(associated_data::github_token(&user), row.try_get("token")?)?,
        refresh: refresh
            .map(|refresh| key_ring.decrypt(associated_data::github_refresh_token(&user), &refresh))
            .transpose()?,
        expires_at: row.try_get("token_expires_at")?,
    }))
}

/// The tokens of the user's account, unless GitHub has refused them.
///
/// # Errors
/// The database does not answer; the tokens cannot be decrypted.
pub async fn grant_of(store: &Store, key_ring: &KeyRing, user: UserId) -> Result<Option<Grant>> {
    let row = sqlx::query(grant!(""))
        .bind(user.0)
        .fetch_optional(&store.pool)
        .await?;
    grant(row, key_ring, user)
}

/// Same as [`grant_of`], with the row locked until the transaction ends.
///
/// # Errors
/// Same as [`grant_of`].
pub async fn lock_grant(tx: &mut PgConnection, key_ring: &KeyRing, user: UserId) -> Result<Option<Grant>> {
    let row = sqlx::query(grant!(" for update"))
        .bind(user.0)
        .fetch_optional(tx)
        .await?;
    grant(row, key_ring, user)
}

/// Stores a new token of the user's account.
///
/// # Errors
/// The database does not answer.
pub async fn set_tokens(tx: &mut PgConnection, key_ring: &KeyRing, user: UserId, new: &Grant) -> Result<()> {
    let (token, refresh) = encrypted(key_ring, user, new);
    sqlx::query(
        "update github_accounts set token = $2, refresh_token = $3, token_expires_at = $4 where user_id = $1",
    )
    .bind(user.0)
    .bind(token)
    .bind(refresh)
    .bind(new.expires_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// Deletes the user's token after GitHub refused it.
///
/// # Errors
/// The database does not answer.
pub async fn delete_tokens(tx: &mut PgConnection, user: UserId) -> Result<()> {
    sqlx::query(
        "update github_accounts set token = null, refresh_token = null, token_expires_at = null
         where user_id = $1",
    )
    .bind(user.0)
    .execute(tx)
    .await?;
    Ok(())
}
