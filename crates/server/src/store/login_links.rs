//! One-time login links: to sign in, or to become a member. Only a hash of the token is stored.

use std::time::Duration;

use chrono::{DateTime, Utc};
use fsa_model::{UserId, api::Role};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{enum_column, enum_text};
use crate::error::Result;

/// The purpose of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    SignIn(UserId),
    Invite(Role),
}

/// Inserts a new link that is valid for `lifetime`, and returns its expiry.
///
/// # Errors
/// The database does not answer.
pub async fn insert(
    tx: &mut PgConnection,
    hash: &[u8; 32],
    purpose: Purpose,
    created_by: Option<UserId>,
    lifetime: Duration,
) -> Result<DateTime<Utc>> {
    sqlx::query("delete from login_links where expires_at < now() - interval '7 days'")
        .execute(&mut *tx)
        .await?;
    let (purpose, user, role) = match purpose {
        Purpose::SignIn(user) => ("signin", Some(user.0), None),
        Purpose::Invite(role) => ("invite", None, Some(enum_text(&role))),
    };
    Ok(sqlx::query_scalar(
        "insert into login_links (id, token_hash, purpose, user_id, role, created_by, expires_at)
         values ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7)) returning expires_at",
    )
    .bind(Uuid::now_v7())
    .bind(hash.as_slice())
    .bind(purpose)
    .bind(user)
    .bind(role)
    .bind(created_by.map(|user| user.0))
    .bind(lifetime.as_secs_f64())
    .fetch_one(tx)
    .await?)
}

/// The purpose of a token that is still valid, without using it up.
///
/// # Errors
/// The database does not answer.
pub async fn find(connection: &mut PgConnection, hash: &[u8; 32]) -> Result<Option<Purpose>> {
    let row = sqlx::query(
        "select purpose, user_id, role from login_links
         where token_hash = $1 and used_at is null and expires_at > now()",
    )
    .bind(hash.as_slice())
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(match row.try_get("purpose")? {
        "invite" => Purpose::Invite(enum_column(&row, "role")?),
        _ => Purpose::SignIn(UserId(row.try_get("user_id")?)),
    }))
}

/// Uses up a link; false where another request just did, or it has expired.
///
/// # Errors
/// The database does not answer.
pub async fn use_up(tx: &mut PgConnection, hash: &[u8; 32]) -> Result<bool> {
    let used = sqlx::query(
        "update login_links set used_at = now() where token_hash = $1 and used_at is null and expires_at > now()",
    )
    .bind(hash.as_slice())
    .execute(tx)
    .await?;
    Ok(used.rows_affected() == 1)
}
