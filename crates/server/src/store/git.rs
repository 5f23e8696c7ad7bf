//! Credentials of projects' repositories, as rows.

use chrono::{DateTime, Utc};
use fsa_model::ProjectId;
use sqlx::{FromRow, PgConnection};

use super::Store;
use crate::error::Result;

/// A repository's credential.
#[derive(Clone, Debug, FromRow)]
pub struct GitRow {
    /// The repository's.
    pub url: String,
    pub username: String,
    /// Sealed for [`super::places::git_password`].
    pub password: Vec<u8>,
    pub updated_at: DateTime<Utc>,
}

/// The project's, where it has one.
///
/// # Errors
/// The database does not answer.
pub async fn find(store: &Store, project: ProjectId) -> Result<Option<GitRow>> {
    Ok(sqlx::query_as(
        "select url, username, password, updated_at from git_credentials where project_id = $1",
    )
    .bind(project.0)
    .fetch_optional(&store.pool)
    .await?)
}

/// Sets the project's.
///
/// # Errors
/// The database does not answer.
pub async fn set(
    tx: &mut PgConnection,
    project: ProjectId,
    url: &str,
    username: &str,
    password: &[u8],
) -> Result<()> {
    sqlx::query(
        "insert into git_credentials (project_id, url, username, password) values ($1, $2, $3, $4)
         on conflict (project_id) do update set url = excluded.url, username = excluded.username,
             password = excluded.password, updated_at = now()",
    )
    .bind(project.0)
    .bind(url)
    .bind(username)
    .bind(password)
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets the project's; false where it has none.
///
/// # Errors
/// The database does not answer.
pub async fn forget(tx: &mut PgConnection, project: ProjectId) -> Result<bool> {
    let done = sqlx::query("delete from git_credentials where project_id = $1")
        .bind(project.0)
        .execute(tx)
        .await?;
    Ok(done.rows_affected() > 0)
}
