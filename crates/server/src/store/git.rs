//! Projects' repositories and their credentials, as rows.

use chrono::{DateTime, Utc};
use fsa_model::{ProjectId, Repository, UserId};
use sqlx::{FromRow, PgConnection, Row as _, types::Json};
use uuid::Uuid;

use super::Store;
use crate::error::Result;

/// A repository's credential.
#[derive(Clone, Debug, FromRow)]
pub struct GitRow {
    /// The repository's URL.
    pub url: String,
    pub username: String,
    /// Encrypted for [`super::associated_data::git_password`].
    pub password: Vec<u8>,
    pub updated_at: DateTime<Utc>,
    /// When the repository's server refused it.
    pub refused_at: Option<DateTime<Utc>>,
}

/// The project's credential, where it has one.
///
/// # Errors
/// The database does not answer.
pub async fn find(store: &Store, project: ProjectId) -> Result<Option<GitRow>> {
    Ok(sqlx::query_as(
        "select url, username, password, updated_at, refused_at from git_credentials where project_id = $1",
    )
    .bind(project.0)
    .fetch_optional(&store.pool)
    .await?)
}

/// Sets the project's credential.
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
             password = excluded.password, updated_at = now(), refused_at = null",
    )
    .bind(project.0)
    .bind(url)
    .bind(username)
    .bind(password)
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes the project's credential; false where it has none.
///
/// # Errors
/// The database does not answer.
pub async fn delete(tx: &mut PgConnection, project: ProjectId) -> Result<bool> {
    let deleted = sqlx::query("delete from git_credentials where project_id = $1")
        .bind(project.0)
        .execute(tx)
        .await?;
    Ok(deleted.rows_affected() > 0)
}

/// Records that the repository's server refused the project's credential.
///
/// # Errors
/// The database does not answer.
pub async fn mark_refused(store: &Store, project: ProjectId) -> Result<()> {
    sqlx::query("update git_credentials set refused_at = now() where project_id = $1")
        .bind(project.0)
        .execute(&store.pool)
        .await?;
    Ok(())
}

/// A project's owner and its own repositories: the one it was cloned from, and the one that was created from it.
pub struct OwnRepositories {
    pub owner: UserId,
    pub urls: Vec<String>,
}

/// The project's own repositories; `None` where there is no such project.
///
/// # Errors
/// The database does not answer.
pub async fn own_repositories(store: &Store, project: ProjectId) -> Result<Option<OwnRepositories>> {
    let row = sqlx::query(
        "select p.owner_id, p.repository, r.url
         from projects p left join published_repositories r on r.project_id = p.id
         where p.id = $1 and p.deleted_at is null",
    )
    .bind(project.0)
    .fetch_optional(&store.pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let cloned_from: Option<Json<Repository>> = row.try_get("repository")?;
    let created: Option<String> = row.try_get("url")?;
    Ok(Some(OwnRepositories {
        owner: UserId(row.try_get::<Uuid, _>("owner_id")?),
        urls: cloned_from
            .map(|from| from.0.url)
            .into_iter()
            .chain(created)
            .collect(),
    }))
}

/// Stores the repository that was created from the project.
///
/// # Errors
/// The database does not answer.
pub async fn set_published(tx: &mut PgConnection, project: ProjectId, url: &str) -> Result<()> {
    sqlx::query(
        "insert into published_repositories (project_id, url) values ($1, $2)
         on conflict (project_id) do update set url = excluded.url, created_at = now()",
    )
    .bind(project.0)
    .bind(url)
    .execute(tx)
    .await?;
    Ok(())
}
