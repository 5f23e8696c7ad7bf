//! API tokens of programs. Only a hash is stored.

use chrono::{DateTime, Utc};
use fsa_model::{
    ProjectId, TokenId, UserId,
    api::{ApiToken, Scope},
};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store,
    caller::{Caller, Credential, CredentialId},
    enum_column, enum_text, optional_json_column,
};
use crate::error::{Error, Result};

macro_rules! valid_credential {
    ($condition:literal) => {
        concat!(
            "select t.id, t.created_at, t.scope, t.project_id, t.signed_in_at, u.id as user_id, u.login, u.role, u.limits,
                    coalesce(t.last_used_at < now() - interval '1 minute', true) as stale
             from api_tokens t join users u on u.id = t.user_id
             where (t.expires_at is null or t.expires_at > now())
               and u.disabled_at is null and u.removed_at is null and ",
            $condition
        )
    };
}

/// The credential of the valid token with this hash.
///
/// # Errors
/// The database does not answer.
pub async fn by_hash(store: &Store, hash: &[u8; 32]) -> Result<Option<Credential>> {
    let row = sqlx::query(valid_credential!("t.token_hash = $1"))
        .bind(hash.as_slice())
        .fetch_optional(&store.pool)
        .await?;
    credential(store, row).await
}

/// Same as [`by_hash`], by the token's id.
///
/// # Errors
/// The database does not answer.
pub async fn by_id(store: &Store, id: TokenId) -> Result<Option<Credential>> {
    let row = sqlx::query(valid_credential!("t.id = $1"))
        .bind(id.0)
        .fetch_optional(&store.pool)
        .await?;
    credential(store, row).await
}

async fn credential(store: &Store, row: Option<PgRow>) -> Result<Option<Credential>> {
    let Some(row) = row else { return Ok(None) };
    let id: Uuid = row.try_get("id")?;
    if row.try_get("stale")? {
        // At most once a minute, however busy the token is.
        sqlx::query(
            "update api_tokens set last_used_at = now() where id = $1
             and coalesce(last_used_at < now() - interval '1 minute', true)",
        )
        .bind(id)
        .execute(&store.pool)
        .await?;
    }
    Ok(Some(Credential {
        user: UserId(row.try_get("user_id")?),
        login: row.try_get("login")?,
        role: enum_column(&row, "role")?,
        id: CredentialId::Token(TokenId(id)),
        since: row.try_get("created_at")?,
        scope: enum_column(&row, "scope")?,
        signed_in_at: row.try_get("signed_in_at")?,
        only: row.try_get::<Option<Uuid>, _>("project_id")?.map(ProjectId),
        limits: optional_json_column(&row, "limits")?,
    }))
}

struct Row(ApiToken);

impl<'r> FromRow<'r, PgRow> for Row {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self(ApiToken {
            id: TokenId(row.try_get("id")?),
            name: row.try_get("name")?,
            token: None,
            scope: enum_column(row, "scope")?,
            project_id: row.try_get::<Option<Uuid>, _>("project_id")?.map(ProjectId),
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            last_used_at: row.try_get("last_used_at")?,
        }))
    }
}

/// A token that is created.
#[derive(Debug)]
pub struct NewToken<'a> {
    pub user: UserId,
    pub name: &'a str,
    pub expires_at: Option<DateTime<Utc>>,
    pub scope: Scope,
    /// The only project that it is for, if it is for one.
    pub only: Option<ProjectId>,
    /// When the user signed in to create it for a program that they use themselves.
    pub signed_in_at: Option<DateTime<Utc>>,
}

/// Inserts a new token, and deletes the user's expired ones.
///
/// # Errors
/// The database does not answer.
pub async fn insert(tx: &mut PgConnection, hash: &[u8; 32], new: NewToken<'_>) -> Result<ApiToken> {
    sqlx::query("delete from api_tokens where user_id = $1 and expires_at <= now()")
        .bind(new.user.0)
        .execute(&mut *tx)
        .await?;
    let row: Row = sqlx::query_as(
        "insert into api_tokens (id, token_hash, user_id, name, expires_at, scope, project_id, signed_in_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         returning id, name, scope, project_id, created_at, expires_at, last_used_at",
    )
    .bind(TokenId::generate().0)
    .bind(hash.as_slice())
    .bind(new.user.0)
    .bind(new.name)
    .bind(new.expires_at)
    .bind(enum_text(&new.scope))
    .bind(new.only.map(|project| project.0))
    .bind(new.signed_in_at)
    .fetch_one(tx)
    .await?;
    Ok(row.0)
}

/// The number of the caller's tokens.
///
/// # Errors
/// The database does not answer.
pub async fn count(store: &Store, caller: &Caller) -> Result<i64> {
    Ok(
        sqlx::query_scalar("select count(*) from api_tokens where user_id = $1")
            .bind(caller.user().0)
            .fetch_one(&store.pool)
            .await?,
    )
}

/// The caller's tokens, the newest first.
///
/// # Errors
/// The database does not answer.
pub async fn list(store: &Store, caller: &Caller) -> Result<Vec<ApiToken>> {
    let rows: Vec<Row> = sqlx::query_as(
        "select id, name, scope, project_id, created_at, expires_at, last_used_at from api_tokens
         where user_id = $1 order by id desc",
    )
    .bind(caller.user().0)
    .fetch_all(&store.pool)
    .await?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}

/// Revokes one of the caller's tokens.
///
/// # Errors
/// Not found; the database does not answer.
pub async fn revoke(connection: &mut PgConnection, caller: &Caller, id: TokenId) -> Result<()> {
    let revoked = sqlx::query("delete from api_tokens where id = $1 and user_id = $2")
        .bind(id.0)
        .bind(caller.user().0)
        .execute(connection)
        .await?;
    if revoked.rows_affected() == 0 {
        return Err(Error::not_found("token"));
    }
    Ok(())
}

/// Revokes every token of `user`.
///
/// # Errors
/// The database does not answer.
pub async fn revoke_all(tx: &mut PgConnection, user: UserId) -> Result<()> {
    sqlx::query("delete from api_tokens where user_id = $1")
        .bind(user.0)
        .execute(tx)
        .await?;
    Ok(())
}
