//! Branches of projects, as rows, and the look-ups that find one for a caller.
//!
//! Everything in a sandbox, and its desired state, belongs to a branch. So use cases of a sandbox need an
//! [`AuthorizedBranch`], which only the look-ups here create.

use std::ops::Deref;

use chrono::{DateTime, Utc};
use fsa_model::{BranchName, ProjectId, SnapshotId, VolumeId, api::DatabaseStatus};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};

use super::{
    Store,
    caller::Caller,
    enum_column,
    leases::Claim,
    parsed_column,
    permission::{Authorized, Changes, Permission},
    project_access,
};
use crate::error::{Error, Result};

/// A branch, without its environment.
#[derive(Clone, Debug)]
pub struct BranchRow {
    pub volume: VolumeId,
    pub project: ProjectId,
    pub name: BranchName,
    /// The snapshot that its volume is to be a copy of, until the copy is made.
    pub source: Option<SnapshotId>,
    /// The backup, by its snapshot in the repository, that its volume is to be made from, until that is done.
    pub source_backup: Option<String>,
    pub database_status: DatabaseStatus,
    pub created_at: DateTime<Utc>,
}

/// The columns of [`BranchRow`] of the table `b`.
macro_rules! columns {
    () => {
        "b.volume_id as b_volume_id, b.project_id as b_project_id, b.name as b_name, \
         case when b.copied_at is null then b.source_snapshot end as b_source, \
         case when b.copied_at is null then b.source_backup end as b_source_backup, \
         b.database_status as b_database_status, b.created_at as b_created_at"
    };
}
pub(crate) use columns;

impl<'r> FromRow<'r, PgRow> for BranchRow {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            volume: VolumeId(row.try_get("b_volume_id")?),
            project: ProjectId(row.try_get("b_project_id")?),
            name: parsed_column(row, "b_name")?,
            source: row.try_get::<Option<_>, _>("b_source")?.map(SnapshotId),
            source_backup: row.try_get("b_source_backup")?,
            database_status: enum_column(row, "b_database_status")?,
            created_at: row.try_get("b_created_at")?,
        })
    }
}

/// A branch as a request names it: an id or name of a project, and the name of a branch of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchReference {
    pub project: String,
    pub branch: BranchName,
}

impl BranchReference {
    /// The branch `branch` of `project`, or the one in `project` (`PROJECT@BRANCH`); the main branch where neither names
    /// one.
    ///
    /// # Errors
    /// Not found for an invalid name; 422 for two names.
    pub fn parse(project: &str, branch: Option<&str>) -> Result<Self> {
        let (project, named) = match project.split_once('@') {
            Some((project, branch)) => (project, Some(branch)),
            None => (project, None),
        };
        let branch = match (named, branch) {
            (Some(named), Some(branch)) if named != branch => {
                return Err(Error::invalid(
                    "branch",
                    format!("the path names the branch {named}; name one branch only"),
                ));
            }
            (named, branch) => named.or(branch),
        };
        Ok(Self {
            project: project.to_owned(),
            branch: match branch {
                Some(name) => BranchName::parse(name).map_err(|_| not_found())?,
                None => BranchName::main(),
            },
        })
    }

    /// The same branch, by the project's id.
    #[must_use]
    pub fn of(branch: &BranchRow) -> Self {
        Self {
            project: branch.project.to_string(),
            branch: branch.name.clone(),
        }
    }

    /// The main branch of a project.
    #[must_use]
    pub fn main(project: ProjectId) -> Self {
        Self {
            project: project.to_string(),
            branch: BranchName::main(),
        }
    }
}

/// A branch of a project in which a caller has the permission `R`.
#[derive(Debug)]
pub struct AuthorizedBranch<R> {
    project: Authorized<R>,
    branch: BranchRow,
}

impl<R> AuthorizedBranch<R> {
    #[must_use]
    pub fn branch(&self) -> &BranchRow {
        &self.branch
    }

    /// The permission in the project alone.
    #[must_use]
    pub fn into_project(self) -> Authorized<R> {
        self.project
    }
}

impl<R> Deref for AuthorizedBranch<R> {
    type Target = Authorized<R>;

    fn deref(&self) -> &Authorized<R> {
        &self.project
    }
}

/// The branch, with the permission `R` in its project. A branch that is being deleted is not found.
///
/// # Errors
/// As [`project_access::find`]; not found where the project has no such branch.
pub async fn find<R: Permission>(
    store: &Store,
    caller: &Caller,
    reference: &BranchReference,
) -> Result<AuthorizedBranch<R>> {
    let project = project_access::find::<R>(store, caller, &reference.project).await?;
    let mut connection = store.pool().acquire().await?;
    of_project(&mut connection, project, &reference.branch).await
}

/// The branch again, with its project locked until the transaction ends. Checks the permission again.
///
/// # Errors
/// As [`project_access::lock`]; not found where the branch was deleted in between.
pub async fn lock<R: Changes>(
    tx: &mut PgConnection,
    authorized: &AuthorizedBranch<R>,
) -> Result<AuthorizedBranch<R>> {
    let project = project_access::lock(tx, authorized).await?;
    of_project(tx, project, &authorized.branch.name).await
}

async fn of_project<R: Permission>(
    connection: &mut PgConnection,
    project: Authorized<R>,
    name: &BranchName,
) -> Result<AuthorizedBranch<R>> {
    match named(connection, project.id, name).await? {
        Some(branch) => Ok(AuthorizedBranch { project, branch }),
        None => Err(not_found().with_project(project.id)),
    }
}

fn not_found() -> Error {
    Error::not_found("branch")
}

/// The living branch of this name.
///
/// # Errors
/// The database does not answer.
pub async fn named(
    connection: &mut PgConnection,
    project: ProjectId,
    name: &BranchName,
) -> Result<Option<BranchRow>> {
    Ok(sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from branches b where b.project_id = $1 and b.name = $2 and b.deleted_at is null"
    ))
    .bind(project.0)
    .bind(name.as_str())
    .fetch_optional(connection)
    .await?)
}

/// The branch of this volume, also one that is being deleted.
///
/// # Errors
/// The database does not answer.
pub async fn of_volume(
    connection: &mut PgConnection,
    volume: VolumeId,
) -> Result<Option<BranchRow>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from branches b where b.volume_id = $1"
    ))
    .bind(volume.0)
    .fetch_optional(connection)
    .await
}

/// The encrypted variables of a branch ([`super::associated_data::branch_environment`]); `None` where it has none.
///
/// # Errors
/// The database does not answer.
pub async fn environment(connection: &mut PgConnection, branch: VolumeId) -> Result<Option<Vec<u8>>> {
    Ok(
        sqlx::query_scalar("select environment from branches where volume_id = $1")
            .bind(branch.0)
            .fetch_one(connection)
            .await?,
    )
}

/// Replaces the encrypted variables of a branch.
///
/// # Errors
/// The database does not answer.
pub async fn set_environment(tx: &mut PgConnection, branch: VolumeId, encrypted: &[u8]) -> Result<()> {
    sqlx::query("update branches set environment = $2 where volume_id = $1")
        .bind(branch.0)
        .bind(encrypted)
        .execute(tx)
        .await?;
    Ok(())
}

/// A new branch's columns.
pub struct NewBranch<'a> {
    pub volume: VolumeId,
    pub project: ProjectId,
    pub name: &'a BranchName,
    /// What its volume is a copy of.
    pub source: SnapshotId,
}

/// Inserts a new branch, whose copy is still to be made.
///
/// # Errors
/// 409 where the project has one of this name.
pub async fn insert(tx: &mut PgConnection, new: NewBranch<'_>) -> Result<BranchRow> {
    let inserted = sqlx::query_as(concat!(
        "with b as (
             insert into branches (volume_id, project_id, name, source_snapshot) values ($1, $2, $3, $4) returning *)
         select ",
        columns!(),
        " from b"
    ))
    .bind(new.volume.0)
    .bind(new.project.0)
    .bind(new.name.as_str())
    .bind(new.source.0)
    .fetch_one(tx)
    .await;
    inserted.map_err(|error| {
        let taken = error
            .as_database_error()
            .is_some_and(|e| e.constraint() == Some("branches_by_name"));
        if taken {
            Error::invalid(
                "name",
                format!("the project already has a branch named {}", new.name),
            )
            .with_status(http::StatusCode::CONFLICT)
        } else {
            error.into()
        }
    })
}

/// The number of the project's branches; deleted ones count until they are gone.
///
/// # Errors
/// The database does not answer.
pub async fn count(tx: &mut PgConnection, project: ProjectId) -> Result<i64> {
    Ok(
        sqlx::query_scalar("select count(*) from branches where project_id = $1")
            .bind(project.0)
            .fetch_one(tx)
            .await?,
    )
}

/// A branch whose copy of a snapshot of this volume is not made yet.
///
/// # Errors
/// The database does not answer.
pub async fn copied_from(tx: &mut PgConnection, volume: VolumeId) -> Result<Option<String>> {
    Ok(sqlx::query_scalar(
        "select b.name from branches b join snapshots n on n.id = b.source_snapshot
         where n.volume_id = $1 and b.copied_at is null and b.deleted_at is null limit 1",
    )
    .bind(volume.0)
    .fetch_optional(tx)
    .await?)
}

/// Records the backup that the volume of a new branch is to be made from.
///
/// # Errors
/// The database does not answer.
pub async fn set_source_backup(tx: &mut PgConnection, branch: VolumeId, backup: &str) -> Result<()> {
    sqlx::query("update branches set source_backup = $2 where volume_id = $1")
        .bind(branch.0)
        .bind(backup)
        .execute(tx)
        .await?;
    Ok(())
}

/// Records that the volume of a claimed sandbox's branch was made from its backup.
///
/// # Errors
/// The database does not answer.
pub async fn finish_restore(store: &Store, claim: &Claim) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update branches set copied_at = now()
         where volume_id = $1 and exists (select 1 from sandboxes where id = $2 and lease_id = $3)",
    )
    .bind(claim.branch.volume.0)
    .bind(claim.sandbox.id.0)
    .bind(claim.lease.id)
    .execute(&store.pool)
    .await
    .map(drop)
}

/// Whether the branch of this volume is being promoted.
///
/// # Errors
/// The database does not answer.
pub async fn is_promoted(tx: &mut PgConnection, branch: &BranchRow) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "select exists (select 1 from sandboxes s join snapshots n on n.id = s.restore_snapshot
                        where s.project_id = $1 and s.volume_id <> $2 and n.volume_id = $2)",
    )
    .bind(branch.project.0)
    .bind(branch.volume.0)
    .fetch_one(tx)
    .await?)
}

/// Marks a branch as deleted. Its sandbox must be terminated in the same transaction.
///
/// # Errors
/// The database does not answer.
pub async fn mark_deleted(tx: &mut PgConnection, branch: VolumeId) -> Result<()> {
    sqlx::query("update branches set deleted_at = coalesce(deleted_at, now()) where volume_id = $1")
        .bind(branch.0)
        .execute(tx)
        .await?;
    Ok(())
}

/// Whether anything of the branch is left.
///
/// # Errors
/// The database does not answer.
pub async fn exists(store: &Store, branch: VolumeId) -> Result<bool> {
    Ok(
        sqlx::query_scalar("select exists (select 1 from branches where volume_id = $1)")
            .bind(branch.0)
            .fetch_one(&store.pool)
            .await?,
    )
}

/// Records that the branch's volume was made, and deletes the snapshot where it was taken for that. Nothing is written
/// where the lease is lost.
///
/// # Errors
/// The database does not answer.
pub async fn finish_copy(store: &Store, claim: &Claim, source: SnapshotId) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with mine as (
             update branches set copied_at = now()
             where volume_id = $1 and exists (select 1 from sandboxes where id = $2 and lease_id = $3)
             returning volume_id)
         update snapshots set deleted_at = now(), next_attempt_at = now() from mine
         where snapshots.id = $4 and cause = 'branch' and deleted_at is null",
    )
    .bind(claim.branch.volume.0)
    .bind(claim.sandbox.id.0)
    .bind(claim.lease.id)
    .bind(source.0)
    .execute(&store.pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_a_branch_in_the_path_or_in_the_query() {
        for (project, branch, expected) in [
            ("shop", None, Some(("shop", "main"))),
            ("shop@fix", None, Some(("shop", "fix"))),
            ("shop", Some("fix"), Some(("shop", "fix"))),
            ("shop@fix", Some("fix"), Some(("shop", "fix"))),
            ("ada/shop@fix", None, Some(("ada/shop", "fix"))),
            ("shop@fix", Some("other"), None),
            ("shop@", None, None),
            ("shop", Some("a--b"), None),
            ("shop@a@b", None, None),
        ] {
            let found = BranchReference::parse(project, branch).ok();
            let found = found
                .as_ref()
                .map(|found| (found.project.as_str(), found.branch.as_str()));
            assert_eq!(found, expected, "{project} {branch:?}");
        }
    }
}
