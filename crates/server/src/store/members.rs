//! Members of projects, as rows.

use fsa_model::{
    ProjectId, UserId,
    sharing::{Member, ProjectRole},
};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{Store, enum_column};
use crate::error::{Error, Result};

/// The maximum number of users that a project is shared with. The notification of an event names each of them, and has
/// at most 8,000 bytes.
pub const MAX_MEMBERS: i64 = 100;

/// The owner first, then the other members by login.
///
/// # Errors
/// The database does not answer.
pub async fn list(store: &Store, project: ProjectId) -> Result<Vec<Member>> {
    let rows = sqlx::query(
        "select u.id, u.login, 'owner' as role, p.created_at as since, 0 as place
           from projects p join users u on u.id = p.owner_id where p.id = $1
         union all
         select u.id, u.login, m.role, m.created_at, 1
           from project_members m join users u on u.id = m.user_id where m.project_id = $1
         order by place, login",
    )
    .bind(project.0)
    .fetch_all(&store.pool)
    .await?;
    Ok(rows.iter().map(member).collect::<Result<_, sqlx::Error>>()?)
}

fn member(row: &PgRow) -> Result<Member, sqlx::Error> {
    Ok(Member {
        user_id: UserId(row.try_get("id")?),
        login: row.try_get("login")?,
        role: enum_column(row, "role")?,
        since: row.try_get("since")?,
    })
}

/// A user by id or login; the row is locked so that the user is not removed meanwhile.
///
/// # Errors
/// Not found; the database does not answer.
pub async fn find_user(tx: &mut PgConnection, id_or_login: &str) -> Result<(UserId, String)> {
    let row = sqlx::query(
        "select id, login from users where (id = $1 or login = $2) and removed_at is null for share",
    )
    .bind(Uuid::parse_str(id_or_login).ok())
    .bind(id_or_login)
    .fetch_optional(tx)
    .await?
    .ok_or_else(|| Error::not_found("user"))?;
    Ok((UserId(row.try_get("id")?), row.try_get("login")?))
}

/// Shares a project or changes a member's role. Returns the previous role. The project is locked.
///
/// # Errors
/// 409 where the project has too many members; the database does not answer.
pub async fn set(
    tx: &mut PgConnection,
    project: ProjectId,
    user: UserId,
    role: ProjectRole,
) -> Result<Option<ProjectRole>> {
    let before = sqlx::query("select role from project_members where project_id = $1 and user_id = $2")
        .bind(project.0)
        .bind(user.0)
        .fetch_optional(&mut *tx)
        .await?
        .map(|row| enum_column(&row, "role"))
        .transpose()?;
    if before == Some(role) {
        return Ok(before);
    }
    let count: i64 = sqlx::query_scalar("select count(*) from project_members where project_id = $1")
        .bind(project.0)
        .fetch_one(&mut *tx)
        .await?;
    if before.is_none() && count >= MAX_MEMBERS {
        return Err(Error::conflict(format!(
            "A project is shared with at most {MAX_MEMBERS} people."
        )));
    }
    sqlx::query(
        "insert into project_members (project_id, user_id, role) values ($1, $2, $3)
         on conflict (project_id, user_id) do update set role = $3",
    )
    .bind(project.0)
    .bind(user.0)
    .bind(role.as_str())
    .execute(tx)
    .await?;
    Ok(before)
}

/// Ends sharing a project with a user. Returns their login, where it was shared with them.
///
/// # Errors
/// The database does not answer.
pub async fn remove(
    tx: &mut PgConnection,
    project: ProjectId,
    id_or_login: &str,
) -> Result<Option<(UserId, String)>> {
    let row = sqlx::query(
        "delete from project_members m using users u
         where m.project_id = $1 and u.id = m.user_id and (u.id = $2 or u.login = $3)
         returning u.id, u.login",
    )
    .bind(project.0)
    .bind(Uuid::parse_str(id_or_login).ok())
    .bind(id_or_login)
    .fetch_optional(tx)
    .await?;
    Ok(match row {
        Some(row) => Some((UserId(row.try_get("id")?), row.try_get("login")?)),
        None => None,
    })
}
