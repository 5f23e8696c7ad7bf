//! Browser sessions. Only a hash of the cookie is stored.

use chrono::{DateTime, Utc};
use fsa_model::{UserId, api::Scope, auth::SessionInfo};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store,
    caller::{Caller, Credential, CredentialId},
    enum_column, optional_json_column,
};
use crate::error::{Error, Result};

/// The time without use after which a session ends.
macro_rules! lifetime {
    () => {
        "interval '30 days'"
    };
}

macro_rules! valid_credential {
    ($condition:literal) => {
        concat!(
            "select s.id, s.created_at, s.last_seen_at < now() - interval '1 minute' as stale,
                    u.id as user_id, u.login, u.role, u.limits
             from sessions s join users u on u.id = s.user_id
             where s.expires_at > now() and u.disabled_at is null and u.removed_at is null and ",
            $condition
        )
    };
}

/// The credential of the valid session whose cookie has this hash. Use extends the session.
///
/// # Errors
/// The database does not answer.
pub async fn by_hash(store: &Store, hash: &[u8; 32]) -> Result<Option<Credential>> {
    let row = sqlx::query(valid_credential!("s.token_hash = $1"))
        .bind(hash.as_slice())
        .fetch_optional(&store.pool)
        .await?;
    credential(store, row).await
}

/// Same as [`by_hash`], by the session's id.
///
/// # Errors
/// The database does not answer.
pub async fn by_id(store: &Store, id: Uuid) -> Result<Option<Credential>> {
    let row = sqlx::query(valid_credential!("s.id = $1"))
        .bind(id)
        .fetch_optional(&store.pool)
        .await?;
    credential(store, row).await
}

async fn credential(store: &Store, row: Option<PgRow>) -> Result<Option<Credential>> {
    let Some(row) = row else { return Ok(None) };
    let id: Uuid = row.try_get("id")?;
    if row.try_get("stale")? {
        // At most once a minute, however busy the session is.
        sqlx::query(concat!(
            "update sessions set last_seen_at = now(), expires_at = now() + ",
            lifetime!(),
            " where id = $1 and last_seen_at < now() - interval '1 minute'"
        ))
        .bind(id)
        .execute(&store.pool)
        .await?;
    }
    let since: DateTime<Utc> = row.try_get("created_at")?;
    Ok(Some(Credential {
        user: UserId(row.try_get("user_id")?),
        login: row.try_get("login")?,
        role: enum_column(&row, "role")?,
        id: CredentialId::Session(id),
        since,
        signed_in_at: Some(since),
        scope: Scope::Write,
        only: None,
        limits: optional_json_column(&row, "limits")?,
    }))
}

/// Inserts a new session, and deletes the user's expired ones.
///
/// # Errors
/// The database does not answer.
pub async fn insert(
    tx: &mut PgConnection,
    hash: &[u8; 32],
    user: UserId,
    user_agent: &str,
    address: &str,
) -> Result<()> {
    sqlx::query("delete from sessions where user_id = $1 and expires_at <= now()")
        .bind(user.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query(concat!(
        "insert into sessions (id, token_hash, user_id, user_agent, address, expires_at)
         values ($1, $2, $3, $4, $5, now() + ",
        lifetime!(),
        ")"
    ))
    .bind(Uuid::now_v7())
    .bind(hash.as_slice())
    .bind(user.0)
    .bind(user_agent.chars().take(300).collect::<String>())
    .bind(address)
    .execute(tx)
    .await?;
    Ok(())
}

/// The caller's sessions, the newest first.
///
/// # Errors
/// The database does not answer.
pub async fn list(store: &Store, caller: &Caller) -> Result<Vec<SessionInfo>> {
    let rows = sqlx::query(
        "select id, user_agent, address, created_at, last_seen_at, expires_at from sessions
         where user_id = $1 and expires_at > now() order by id desc",
    )
    .bind(caller.user().0)
    .fetch_all(&store.pool)
    .await?;
    rows.iter()
        .map(|row| {
            let id = row.try_get("id")?;
            Ok(SessionInfo {
                id,
                user_agent: row.try_get("user_agent")?,
                address: row.try_get("address")?,
                current: caller.credential() == CredentialId::Session(id),
                created_at: row.try_get("created_at")?,
                last_seen_at: row.try_get("last_seen_at")?,
                expires_at: row.try_get("expires_at")?,
            })
        })
        .collect()
}

/// Ends one of the caller's sessions.
///
/// # Errors
/// Not found; the database does not answer.
pub async fn end(connection: &mut PgConnection, caller: &Caller, id: Uuid) -> Result<()> {
    let ended = sqlx::query("delete from sessions where id = $1 and user_id = $2")
        .bind(id)
        .bind(caller.user().0)
        .execute(connection)
        .await?;
    if ended.rows_affected() == 0 {
        return Err(Error::not_found("session"));
    }
    Ok(())
}

/// Ends every session of `user` except `except`.
///
/// # Errors
/// The database does not answer.
pub async fn end_all(tx: &mut PgConnection, user: UserId, except: Option<Uuid>) -> Result<()> {
    sqlx::query("delete from sessions where user_id = $1 and id is distinct from $2")
        .bind(user.0)
        .bind(except)
        .execute(tx)
        .await?;
    Ok(())
}
