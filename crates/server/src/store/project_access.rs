//! Authorization of project access: look-ups that find a project by the name or id in a path and grant a permission in
//! it, or refuse. Every access to a project by a request goes through here.

use fsa_model::{ProjectId, ProjectName, sharing::ProjectRole};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store,
    caller::Caller,
    enum_column,
    permission::{Authorized, Changes, Permission},
    projects::{ProjectRow, columns},
};
use crate::error::{Error, Result};

/// The role of the user `$1` in the project `p`; null for none.
macro_rules! my_role {
    () => {
        "case when p.owner_id = $1 then 'owner' else \
         (select m.role from project_members m where m.project_id = p.id and m.user_id = $1) end"
    };
}

/// The ids of the projects that the user `$1` may see.
macro_rules! accessible_ids {
    () => {
        "(select o.id from projects o where o.owner_id = $1 \
          union all select m.project_id from project_members m where m.user_id = $1)"
    };
}

pub(crate) use {accessible_ids, my_role};

macro_rules! accessible_project {
    ($rest:literal) => {
        concat!(
            "select ",
            columns!(),
            ", ",
            my_role!(),
            " as my_role from projects p where p.id in ",
            accessible_ids!(),
            $rest
        )
    };
}

/// A project and the caller's role in it.
struct ProjectWithRole {
    project: ProjectRow,
    role: ProjectRole,
}

impl<'r> FromRow<'r, PgRow> for ProjectWithRole {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            project: ProjectRow::from_row(row)?,
            role: enum_column(row, "my_role")?,
        })
    }
}

/// A project reference in a path: an id, a name, or an owner's login and a name. Ids never have the form of names.
pub(super) enum ProjectReference<'a> {
    Id(Uuid),
    Name { owner: Option<&'a str>, name: &'a str },
}

pub(super) fn parse_reference(text: &str) -> Result<ProjectReference<'_>> {
    if let Some((project, _)) = text.split_once('@') {
        return Err(Error::invalid(
            "branch",
            format!("this concerns the whole project; name it without a branch: {project}"),
        ));
    }
    if let Ok(id) = Uuid::parse_str(text) {
        return Ok(ProjectReference::Id(id));
    }
    let (owner, name) = match text.split_once('/') {
        Some((owner, name)) => (Some(owner), name),
        None => (None, text),
    };
    match ProjectName::parse(name) {
        Ok(_) => Ok(ProjectReference::Name { owner, name }),
        Err(_) => Err(Error::not_found("project")),
    }
}

/// The project of this id or name, with the permission `R` in it. The caller's own project comes before a shared one
/// of the same name. A project is not found where the caller has no permission in it, or while it is being deleted.
///
/// # Errors
/// Not found; 403 with the role that is needed; 409 where a name is ambiguous; the database does not answer.
pub async fn find<R: Permission>(store: &Store, caller: &Caller, id_or_name: &str) -> Result<Authorized<R>> {
    let (owner, name) = match parse_reference(id_or_name)? {
        ProjectReference::Id(id) => {
            let found = sqlx::query_as(accessible_project!(" and p.id = $2 and p.deleted_at is null"))
                .bind(caller.user().0)
                .bind(id)
                .fetch_optional(&store.pool)
                .await?;
            return grant(caller, found);
        }
        ProjectReference::Name { owner, name } => (owner, name),
    };
    let mut all: Vec<ProjectWithRole> = sqlx::query_as(accessible_project!(
        " and p.name = $2 and p.deleted_at is null
          and ($3::text is null or $3 = (select u.login from users u where u.id = p.owner_id))
          order by p.owner_id = $1 desc, p.id limit 100"
    ))
    .bind(caller.user().0)
    .bind(name)
    .bind(owner)
    .fetch_all(&store.pool)
    .await?;
    all.retain(|found| caller.sees(found.project.id));
    if all.len() > 1 && all[0].role != ProjectRole::Owner {
        return Err(Error::conflict(format!(
            "Several projects named {name} are shared with you; name one by its owner (OWNER/{name}) or its id."
        )));
    }
    grant(caller, all.into_iter().next())
}

/// Same as [`find`], but by id it also finds a project under deletion, so that its end can be watched.
///
/// # Errors
/// Same as [`find`].
pub async fn find_any<R: Permission>(
    store: &Store,
    caller: &Caller,
    id_or_name: &str,
) -> Result<Authorized<R>> {
    let ProjectReference::Id(id) = parse_reference(id_or_name)? else {
        return find(store, caller, id_or_name).await;
    };
    let found = sqlx::query_as(accessible_project!(" and p.id = $2"))
        .bind(caller.user().0)
        .bind(id)
        .fetch_optional(&store.pool)
        .await?;
    grant(caller, found)
}

/// The project again, locked until the transaction ends, so that changes to it are serialized. Checks the permission
/// again.
///
/// # Errors
/// Not found, where it was deleted or no longer shared in between; 403 where the role became too low.
pub async fn lock<R: Changes>(tx: &mut PgConnection, authorized: &Authorized<R>) -> Result<Authorized<R>> {
    let caller = authorized.caller();
    // A separate statement: one that waits for a lock reads other rows in their state before the wait, so it would
    // still see a share that was withdrawn meanwhile.
    sqlx::query("select from projects where id = $1 for update")
        .bind(authorized.id.0)
        .execute(&mut *tx)
        .await?;
    let found = sqlx::query_as(accessible_project!(" and p.id = $2 and p.deleted_at is null"))
        .bind(caller.user().0)
        .bind(authorized.id.0)
        .fetch_optional(tx)
        .await?;
    grant(caller, found)
}

fn grant<R: Permission>(caller: &Caller, found: Option<ProjectWithRole>) -> Result<Authorized<R>> {
    let found = found.ok_or_else(|| Error::not_found("project"))?;
    Authorized::new(caller, found.project, found.role)
}

/// A caller's role in a project at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurrentRole {
    Has(ProjectRole),
    None,
    /// The project no longer exists.
    Gone,
}

/// The caller's current role in the project.
///
/// # Errors
/// The database does not answer.
pub async fn role(store: &Store, caller: &Caller, project: ProjectId) -> Result<CurrentRole> {
    let row = sqlx::query(concat!(
        "select ",
        my_role!(),
        " as my_role from projects p where p.id = $2"
    ))
    .bind(caller.user().0)
    .bind(project.0)
    .fetch_optional(&store.pool)
    .await?;
    Ok(match row {
        None => CurrentRole::Gone,
        Some(row) if row.try_get::<Option<&str>, _>("my_role")?.is_none() => CurrentRole::None,
        Some(row) => CurrentRole::Has(enum_column(&row, "my_role")?),
    })
}
