//! Projects' databases, as rows.

use fsa_model::{ProjectId, ResourceName, api::DatabaseStatus};
use sqlx::{PgConnection, Row as _};

use super::{Store, enum_column, parsed_column, projects::ProjectRow};
use crate::error::Result;

/// A project's database.
#[derive(Clone, Debug)]
pub struct DatabaseRow {
    pub project: ProjectId,
    pub resource: ResourceName,
    /// Encrypted for [`super::associated_data::database_password`].
    pub password: Vec<u8>,
    pub status: DatabaseStatus,
}

/// The project's database, where it has one.
///
/// # Errors
/// The database does not answer.
pub async fn of(store: &Store, project: &ProjectRow) -> Result<Option<DatabaseRow>> {
    let row =
        sqlx::query("select project_id, resource, password, status from databases where project_id = $1")
            .bind(project.id.0)
            .fetch_optional(&store.pool)
            .await?;
    Ok(match row {
        Some(row) => Some(DatabaseRow {
            project: ProjectId(row.try_get("project_id")?),
            resource: parsed_column(&row, "resource")?,
            password: row.try_get("password")?,
            status: enum_column(&row, "status")?,
        }),
        None => None,
    })
}

/// Writes a project's database unless the project has one; `password` is encrypted.
///
/// # Errors
/// The database does not answer.
pub async fn ensure(
    tx: &mut PgConnection,
    project: ProjectId,
    resource: &ResourceName,
    password: &[u8],
) -> Result<()> {
    sqlx::query(
        "insert into databases (project_id, resource, password) values ($1, $2, $3)
         on conflict (project_id) do nothing",
    )
    .bind(project.0)
    .bind(resource.as_str())
    .bind(password)
    .execute(tx)
    .await?;
    Ok(())
}
