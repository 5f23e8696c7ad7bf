//! Projects, as rows.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use fsa_model::{
    Image, ProjectId, ProjectName, Repository, Size, UserId, api::Sharing, host::HostTarget,
    sharing::ProjectRole,
};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

pub use super::project_access::{find, find_any, lock};
use super::{
    Store,
    branches::{BranchReference, BranchRow},
    caller::Caller,
    enum_column, json_column, optional_json_column, parsed_column,
    permission::{Authorized, Permission, Read},
    project_access::{ProjectReference, accessible_ids, my_role, parse_reference},
    sandboxes::SandboxRow,
};
use crate::error::{Error, Result};

/// A project, without its environment (which may be large, and is secret).
#[derive(Clone, Debug)]
pub struct ProjectRow {
    pub id: ProjectId,
    pub owner: UserId,
    pub name: ProjectName,
    pub description: Option<String>,
    pub image: Image,
    pub size: Size,
    pub region: String,
    pub repository: Option<Repository>,
    pub start_command: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub deleted_at: Option<DateTime<Utc>>,
}

/// A project with the data of its status, from one query.
#[derive(Clone, Debug)]
pub struct Overview {
    pub project: ProjectRow,
    pub owner_login: String,
    /// The caller's role in it.
    pub role: ProjectRole,
    pub branch: BranchRow,
    /// The branch's sandbox: the one that is not terminated, else the last one.
    pub sandbox: Option<SandboxRow>,
    /// Another user's project had this name first, or had it before it was deleted or renamed, so host names need the
    /// owner's slug.
    pub name_is_shared: bool,
    /// The owner's login was a former user's, so host names with it are theirs.
    pub login_is_former: bool,
    /// Ports that are open to more than the users who may see the project. Only ports of the main branch are.
    pub shares: BTreeMap<u16, Sharing>,
}

/// The columns of [`ProjectRow`] of the table `p`.
macro_rules! columns {
    () => {
        "p.id as p_id, p.owner_id as p_owner_id, p.name as p_name, p.description as p_description, \
         p.image as p_image, p.size as p_size, p.region as p_region, p.repository as p_repository, \
         p.start_command as p_start_command, p.created_at as p_created_at, \
         p.updated_at as p_updated_at, p.deleted_at as p_deleted_at"
    };
}

pub(crate) use columns;

/// Whether the host names of the project in the table `p` need the owner's slug: its name is reserved for another user,
/// or another user's project had it first; and whether the owner's login was a former user's.
macro_rules! name_is_shared {
    () => {
        "(is_name_reserved(p.name, p.owner_id)
          or exists (select 1 from projects q where q.name = p.name and q.deleted_at is null
                     and (q.named_at, q.id) < (p.named_at, p.id)
                     and not is_name_reserved(q.name, q.owner_id))) as name_is_shared,
         is_login_former(p.owner_id) as login_is_former"
    };
}

pub(crate) use name_is_shared;

/// All columns of [`Overview`]: projects with one branch each, the main one or `$branch`.
macro_rules! overview {
    ($condition:literal) => {
        overview!("'main'", $condition)
    };
    ($branch:literal, $condition:literal) => {
        concat!(
            "select ",
            columns!(),
            ", ",
            super::branches::columns!(),
            ", ",
            super::sandboxes::columns!(),
            ", u.login as owner_login, ",
            name_is_shared!(),
            ", (select jsonb_object_agg(port::text, sharing) from port_shares x
                 where x.project_id = p.id and b.name = 'main') as shares, ",
            my_role!(),
            " as my_role
             from projects p
             join users u on u.id = p.owner_id
             join branches b on b.project_id = p.id and b.name = ",
            $branch,
            " and (b.deleted_at is null or p.deleted_at is not null)
             left join lateral (
                 select * from sandboxes s where s.volume_id = b.volume_id
                 order by s.desired_state = 'terminated', s.created_at desc limit 1) s on true
             where p.id in ",
            accessible_ids!(),
            " and ",
            $condition
        )
    };
}

impl<'r> FromRow<'r, PgRow> for ProjectRow {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: ProjectId(row.try_get("p_id")?),
            owner: UserId(row.try_get("p_owner_id")?),
            name: parsed_column(row, "p_name")?,
            description: row.try_get("p_description")?,
            image: json_column(row, "p_image")?,
            size: enum_column(row, "p_size")?,
            region: row.try_get("p_region")?,
            repository: optional_json_column(row, "p_repository")?,
            start_command: row.try_get("p_start_command")?,
            created_at: row.try_get("p_created_at")?,
            updated_at: row.try_get("p_updated_at")?,
            deleted_at: row.try_get("p_deleted_at")?,
        })
    }
}

impl<'r> FromRow<'r, PgRow> for Overview {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            project: ProjectRow::from_row(row)?,
            owner_login: row.try_get("owner_login")?,
            role: enum_column(row, "my_role")?,
            branch: BranchRow::from_row(row)?,
            sandbox: match row.try_get::<Option<Uuid>, _>("s_id")? {
                Some(_) => Some(SandboxRow::from_row(row)?),
                None => None,
            },
            name_is_shared: row.try_get("name_is_shared")?,
            login_is_former: row.try_get("login_is_former")?,
            shares: optional_json_column(row, "shares")?.unwrap_or_default(),
        })
    }
}

/// Same as [`super::branches::find`], with the data of its status. By id it also finds a project under deletion, so that
/// its end can be watched.
///
/// # Errors
/// Same as [`super::branches::find`].
pub async fn overview(store: &Store, caller: &Caller, reference: &BranchReference) -> Result<Overview> {
    let id = match parse_reference(&reference.project)? {
        ProjectReference::Id(id) => id,
        ProjectReference::Name { .. } => find::<Read>(store, caller, &reference.project).await?.id.0,
    };
    let found = sqlx::query_as(overview!(
        "$3",
        "p.id = $2 order by b.deleted_at nulls first limit 1"
    ))
    .bind(caller.user().0)
    .bind(id)
    .bind(reference.branch.as_str())
    .fetch_optional(&store.pool)
    .await?
    .filter(|found: &Overview| caller.sees(found.project.id));
    match found {
        Some(overview) => Ok(overview),
        None if reference.branch.is_main() => Err(Error::not_found("project")),
        None => {
            let project = find_any::<Read>(store, caller, &reference.project).await?;
            Err(Error::not_found("branch").with_project(project.id))
        }
    }
}

/// The living branches of a project, each with the data of its status: the main one first, then by name.
///
/// # Errors
/// The database does not answer.
pub async fn branches<R: Permission>(store: &Store, project: &Authorized<R>) -> Result<Vec<Overview>> {
    Ok(sqlx::query_as(overview!(
        "b.name",
        "p.id = $2 order by b.name <> 'main', b.name limit 1000"
    ))
    .bind(project.caller().user().0)
    .bind(project.id.0)
    .fetch_all(&store.pool)
    .await?)
}

/// The projects that the caller owns or that are shared with them, ordered by name, after this name and id.
///
/// # Errors
/// The database does not answer.
pub async fn list(
    store: &Store,
    caller: &Caller,
    after: (&str, Option<ProjectId>),
    limit: i64,
) -> Result<Vec<Overview>> {
    Ok(sqlx::query_as(overview!(
        "p.deleted_at is null and (p.name > $2 or p.name = $2 and p.id > $3)
         and ($5::uuid is null or p.id = $5) order by p.name, p.id limit $4"
    ))
    .bind(caller.user().0)
    .bind(after.0)
    .bind(after.1.map(|id| id.0))
    .bind(limit)
    .bind(caller.token_project().map(|project| project.0))
    .fetch_all(&store.pool)
    .await?)
}

/// A new project's columns.
pub struct NewProject<'a> {
    pub id: ProjectId,
    pub owner: UserId,
    pub name: &'a ProjectName,
    pub description: Option<&'a str>,
    pub image: &'a Image,
    pub size: Size,
    pub region: &'a str,
    pub repository: Option<&'a Repository>,
    pub start_command: Option<&'a str>,
    /// Encrypted.
    pub environment: &'a [u8],
}

/// Inserts a new project.
///
/// # Errors
/// 409 where the owner has one of this name; 401 where the owner was just removed.
pub async fn insert(tx: &mut PgConnection, new: NewProject<'_>) -> Result<()> {
    // Removing the owner waits for this lock, or this query sees that the owner was removed.
    sqlx::query("select 1 from users where id = $1 and removed_at is null for share")
        .bind(new.owner.0)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| Error::unauthorized("This account was removed."))?;
    sqlx::query(
        "insert into projects (id, owner_id, name, description, image, size, region, repository,
                               start_command, environment)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(new.id.0)
    .bind(new.owner.0)
    .bind(new.name.as_str())
    .bind(new.description)
    .bind(sqlx::types::Json(new.image))
    .bind(new.size.as_str())
    .bind(new.region)
    .bind(new.repository.map(sqlx::types::Json))
    .bind(new.start_command)
    .bind(new.environment)
    .execute(tx)
    .await
    .map_err(|error| name_taken(error, new.name))?;
    Ok(())
}

/// Writes the changeable fields of a project and the time of the change.
///
/// # Errors
/// 409 where the owner has another one of this name.
pub async fn update(tx: &mut PgConnection, project: &ProjectRow) -> Result<()> {
    sqlx::query(
        "update projects set description = $2, image = $3, size = $4, start_command = $5,
                named_at = case when name = $6 then named_at else now() end,
                name = $6, repository = $7, updated_at = now()
         where id = $1",
    )
    .bind(project.id.0)
    .bind(&project.description)
    .bind(sqlx::types::Json(&project.image))
    .bind(project.size.as_str())
    .bind(&project.start_command)
    .bind(project.name.as_str())
    .bind(project.repository.as_ref().map(sqlx::types::Json))
    .execute(tx)
    .await
    .map_err(|error| name_taken(error, &project.name))?;
    Ok(())
}

/// Marks the project as deleted; a trigger sets the desired state of its sandboxes to terminated.
///
/// # Errors
/// The database does not answer.
pub async fn mark_deleted(tx: &mut PgConnection, project: ProjectId) -> Result<()> {
    sqlx::query(
        "update projects set deleted_at = coalesce(deleted_at, now()), updated_at = now() where id = $1",
    )
    .bind(project.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// The project's encrypted environment ([`super::associated_data::project_environment`]).
///
/// # Errors
/// Not found; the database does not answer.
pub async fn environment(connection: &mut PgConnection, project: ProjectId) -> Result<Vec<u8>> {
    sqlx::query_scalar("select environment from projects where id = $1")
        .bind(project.0)
        .fetch_optional(connection)
        .await?
        .ok_or_else(|| Error::not_found("project"))
}

/// Replaces the project's encrypted environment.
///
/// # Errors
/// The database does not answer.
pub async fn set_environment(tx: &mut PgConnection, project: ProjectId, encrypted: &[u8]) -> Result<()> {
    sqlx::query("update projects set environment = $2, updated_at = now() where id = $1")
        .bind(project.0)
        .bind(encrypted)
        .execute(tx)
        .await?;
    Ok(())
}

/// The live project with the branch that a host name refers to: with an owner's slug that owner's project, else the project that has
/// had the name for longest, unless the name is reserved for a former owner. For the gateway, which must still check
/// whether the viewer may see it.
///
/// # Errors
/// The database does not answer.
pub async fn by_host(store: &Store, target: &HostTarget) -> Result<Option<ProjectRow>> {
    let HostColumns {
        project,
        branch,
        owner,
        id,
    } = HostColumns::of(target);
    Ok(sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from ",
        branch_of_host!(),
        " join projects p on p.id = h.project_id join branches b on b.volume_id = h.volume_id"
    ))
    .bind(project)
    .bind(branch)
    .bind(owner)
    .bind(id)
    .fetch_optional(&store.pool)
    .await?)
}

/// Parameters 1 to 4 of [`branch_of_host`].
pub(super) struct HostColumns<'a> {
    pub project: Option<&'a str>,
    pub branch: Option<&'a str>,
    pub owner: Option<&'a str>,
    pub id: Option<&'a str>,
}

impl<'a> HostColumns<'a> {
    pub(super) fn of(target: &'a HostTarget) -> Self {
        match target {
            HostTarget::Named {
                project,
                branch,
                owner,
            } => Self {
                project: Some(project.as_str()),
                branch: Some(branch.as_str()),
                owner: owner.as_deref(),
                id: None,
            },
            HostTarget::Id(id) => Self {
                project: None,
                branch: None,
                owner: None,
                // Without the 0.
                id: Some(&id[1..]),
            },
        }
    }
}

/// The living branch that a host name refers to, as the row `h`. The project is found before its branch: a branch of
/// another owner's project never gets the names of the first.
macro_rules! branch_of_host {
    () => {
        "(select b.project_id, b.volume_id from branches b
           where b.name = $2 and b.deleted_at is null and b.project_id = (
              select p.id from projects p join users u on u.id = p.owner_id
               where p.name = $1 and p.deleted_at is null
                 and ($3::text is null or (u.login = $3 and not is_login_former(u.id))
                      or '0' || right(replace(u.id::text, '-', ''), 12) = $3)
                 and ($3::text is not null or not is_name_reserved(p.name, p.owner_id))
               order by p.named_at, p.id limit 1)
          union all
          select b.project_id, b.volume_id from branches b
           where right(replace(b.volume_id::text, '-', ''), 12) = $4 and b.deleted_at is null limit 1) h"
    };
}

pub(crate) use branch_of_host;

/// The live projects of a region, as `OWNER/NAME`, by their image.
///
/// # Errors
/// The database does not answer.
pub async fn by_image(store: &Store, region: &str) -> Result<Vec<(Image, Vec<String>)>> {
    sqlx::query(
        "select p.image as image, array_agg(u.login || '/' || p.name order by u.login, p.name) as projects
         from projects p join users u on u.id = p.owner_id
         where p.region = $1 and p.deleted_at is null
         group by p.image order by p.image",
    )
    .bind(region)
    .try_map(|row: PgRow| Ok((json_column(&row, "image")?, row.try_get("projects")?)))
    .fetch_all(&store.pool)
    .await
    .map_err(Into::into)
}

fn name_taken(error: sqlx::Error, name: &ProjectName) -> Error {
    let taken = error
        .as_database_error()
        .is_some_and(|e| e.constraint() == Some("projects_by_name"));
    if taken {
        Error::invalid("name", format!("you already have a project named {name}"))
            .with_status(http::StatusCode::CONFLICT)
    } else {
        error.into()
    }
}
