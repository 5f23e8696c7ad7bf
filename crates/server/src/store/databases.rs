//! Databases, as rows: a project's name and password, and the state of the database of each branch.

use fsa_model::{ProjectId, ResourceName, VolumeId, api::DatabaseStatus};
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::{Store, branches::BranchRow, parsed_column, projects::ProjectRow};
use crate::error::Result;

/// The database of a branch. The branches of a project have the name and the password in common.
#[derive(Clone, Debug)]
pub struct DatabaseRow {
    pub project: ProjectId,
    pub volume: VolumeId,
    pub resource: ResourceName,
    /// Encrypted for [`super::associated_data::database_password`].
    pub password: Vec<u8>,
    pub status: DatabaseStatus,
}

/// The columns from which [`read`] reads, of the table `d`.
macro_rules! columns {
    () => {
        "d.resource as d_resource, d.password as d_password"
    };
}
pub(super) use columns;

/// The database of `branch`, from a row with [`columns`]; `None` where the project has none.
pub(super) fn read(row: &PgRow, branch: &BranchRow) -> Result<Option<DatabaseRow>, sqlx::Error> {
    Ok(match row.try_get::<Option<&str>, _>("d_resource")? {
        None => None,
        Some(_) => Some(DatabaseRow {
            project: branch.project,
            volume: branch.volume,
            resource: parsed_column(row, "d_resource")?,
            password: row.try_get("d_password")?,
            status: branch.database_status,
        }),
    })
}

/// The database of a branch, where its project has one.
///
/// # Errors
/// The database does not answer.
pub async fn of(store: &Store, branch: &BranchRow) -> Result<Option<DatabaseRow>> {
    let row = sqlx::query(concat!(
        "select ",
        columns!(),
        " from databases d where d.project_id = $1"
    ))
    .bind(branch.project.0)
    .fetch_optional(&store.pool)
    .await?;
    Ok(match row {
        Some(row) => read(&row, branch)?,
        None => None,
    })
}

/// Whether the project has a database.
///
/// # Errors
/// The database does not answer.
pub async fn exists(store: &Store, project: &ProjectRow) -> Result<bool> {
    Ok(
        sqlx::query_scalar("select exists (select 1 from databases where project_id = $1)")
            .bind(project.id.0)
            .fetch_one(&store.pool)
            .await?,
    )
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
