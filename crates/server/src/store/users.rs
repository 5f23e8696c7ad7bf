//! User accounts, as rows.

use fsa_model::{
    UserId,
    api::{Role, User},
    limits::{Limits, Used},
};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};

use super::{Store, enum_column, enum_text, optional_json_column, quotas};
use crate::{
    error::{Error, Result},
    settings,
};

/// The rule for logins, in the words that users see (the table checks it again).
pub const LOGIN_RULE: &str = "a login has 1 to 40 characters: lower-case letters, digits and single dashes; it begins with a letter and ends with a letter or a digit";

struct Row(User);

impl<'r> FromRow<'r, PgRow> for Row {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let limits: Option<Limits> = optional_json_column(row, "limits")?;
        Ok(Self(User {
            id: UserId(row.try_get("id")?),
            login: row.try_get("login")?,
            role: enum_column(row, "role")?,
            has_password: row.try_get("has_password")?,
            disabled: row.try_get("disabled")?,
            created_at: row.try_get("created_at")?,
            limits: limits.unwrap_or_default(),
            own_limits: limits.is_some(),
            used: Used::default(),
        }))
    }
}

macro_rules! columns {
    () => {
        "id, login, role, password_hash is not null as has_password, disabled_at is not null as disabled, created_at, limits"
    };
}

/// Inserts a new user.
///
/// # Errors
/// 409 where the login is taken.
pub async fn insert(
    tx: &mut PgConnection,
    login: &str,
    role: Role,
    password_hash: Option<&str>,
) -> Result<UserId> {
    let id = UserId::generate();
    sqlx::query("insert into users (id, login, role, password_hash) values ($1, $2, $3, $4)")
        .bind(id.0)
        .bind(login)
        .bind(enum_text(&role))
        .bind(password_hash)
        .execute(tx)
        .await
        .map_err(|error| match error.as_database_error().map(|e| e.kind()) {
            Some(sqlx::error::ErrorKind::UniqueViolation) => {
                Error::invalid("login", "another user has this login").with_status(http::StatusCode::CONFLICT)
            }
            Some(sqlx::error::ErrorKind::CheckViolation) => Error::invalid("login", LOGIN_RULE),
            _ => error.into(),
        })?;
    Ok(id)
}

/// One user.
///
/// # Errors
/// Not found; the database does not answer.
pub async fn get(connection: &mut PgConnection, id: UserId) -> Result<User> {
    let row: Option<Row> = sqlx::query_as(concat!("select ", columns!(), " from users where id = $1"))
        .bind(id.0)
        .fetch_optional(connection)
        .await?;
    row.map(|row| row.0).ok_or_else(|| Error::not_found("user"))
}

/// The users whose login comes after `after`.
///
/// # Errors
/// The database does not answer.
pub async fn list(store: &Store, after: &str, limit: i64) -> Result<Vec<User>> {
    let rows: Vec<Row> = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from users where removed_at is null and login > $1 order by login limit $2"
    ))
    .bind(after)
    .bind(limit)
    .fetch_all(&store.pool)
    .await?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}

/// The id and the password's hash of an enabled user with this login.
///
/// # Errors
/// The database does not answer.
pub async fn password_of(store: &Store, login: &str) -> Result<Option<(UserId, Option<String>)>> {
    let row = sqlx::query(
        "select id, password_hash from users where login = $1 and disabled_at is null and removed_at is null",
    )
    .bind(login)
    .fetch_optional(&store.pool)
    .await?;
    Ok(match row {
        Some(row) => Some((UserId(row.try_get("id")?), row.try_get("password_hash")?)),
        None => None,
    })
}

/// The hash of a user's password.
///
/// # Errors
/// The database does not answer.
pub async fn password_hash(store: &Store, user: UserId) -> Result<Option<String>> {
    Ok(
        sqlx::query_scalar("select password_hash from users where id = $1")
            .bind(user.0)
            .fetch_one(&store.pool)
            .await?,
    )
}

/// Whether a login is free.
///
/// # Errors
/// The database does not answer.
pub async fn is_login_free(connection: &mut PgConnection, login: &str) -> Result<bool> {
    Ok(
        sqlx::query_scalar("select not exists (select 1 from users where login = $1)")
            .bind(login)
            .fetch_one(connection)
            .await?,
    )
}

/// Stores a new password hash.
///
/// # Errors
/// The database does not answer.
pub async fn set_password(tx: &mut PgConnection, user: UserId, hash: &str) -> Result<()> {
    sqlx::query("update users set password_hash = $2 where id = $1")
        .bind(user.0)
        .bind(hash)
        .execute(tx)
        .await?;
    Ok(())
}

/// Whether the user may sign in at all.
///
/// # Errors
/// The database does not answer.
pub async fn is_enabled(connection: &mut PgConnection, user: UserId) -> Result<bool> {
    Ok(sqlx::query_scalar(
        "select exists (select 1 from users where id = $1 and disabled_at is null and removed_at is null)",
    )
    .bind(user.0)
    .fetch_one(connection)
    .await?)
}

/// Updates whether a user is disabled, and their role.
///
/// # Errors
/// The database does not answer.
pub async fn change(
    tx: &mut PgConnection,
    user: UserId,
    disabled: Option<bool>,
    role: Option<Role>,
) -> Result<()> {
    sqlx::query(
        "update users set role = coalesce($3, role),
                disabled_at = case $2 when true then coalesce(disabled_at, now())
                                      when false then null else disabled_at end
         where id = $1",
    )
    .bind(user.0)
    .bind(disabled)
    .bind(role.map(|role| enum_text(&role)))
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes a user: marks all of their projects as deleted; without projects the row is deleted at once.
///
/// # Errors
/// The database does not answer.
pub async fn remove(tx: &mut PgConnection, user: UserId) -> Result<()> {
    sqlx::query("update users set removed_at = coalesce(removed_at, now()) where id = $1")
        .bind(user.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "update projects set deleted_at = now(), updated_at = now() where owner_id = $1 and deleted_at is null",
    )
    .bind(user.0)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "delete from users u where id = $1 and not exists (select 1 from projects p where p.owner_id = u.id)",
    )
    .bind(user.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Locks the owners' rows and counts the other owners who could sign in, so that the last one cannot be removed.
///
/// # Errors
/// The database does not answer.
pub async fn other_owners(tx: &mut PgConnection, user: UserId) -> Result<usize> {
    let rows = sqlx::query(
        "select id from users where role = 'owner' and disabled_at is null and removed_at is null for update",
    )
    .fetch_all(tx)
    .await?;
    let mut others = 0;
    for row in rows {
        if row.try_get::<uuid::Uuid, _>("id")? != user.0 {
            others += 1;
        }
    }
    Ok(others)
}

/// The first owner of the system, and whether they have a way to sign in: a password, an account elsewhere, or a
/// session that has just begun.
///
/// # Errors
/// The database does not answer.
pub async fn first_owner(connection: &mut PgConnection) -> Result<Option<(UserId, bool)>> {
    let row = sqlx::query(
        "select u.id, u.password_hash is not null
                or exists (select 1 from github_accounts g where g.user_id = u.id)
                or exists (select 1 from sessions s where s.user_id = u.id and s.created_at > now() - interval '1 hour')
                as can_sign_in
         from users u where role = 'owner' and disabled_at is null and removed_at is null
         order by can_sign_in desc, created_at, id limit 1",
    )
    .fetch_optional(connection)
    .await?;
    Ok(match row {
        Some(row) => Some((UserId(row.try_get("id")?), row.try_get("can_sign_in")?)),
        None => None,
    })
}

/// Adds to these users their usage, and the server's limits where they have no limits.
///
/// # Errors
/// The database does not answer.
pub async fn add_usage_and_limits(
    store: &Store,
    settings: &settings::Limits,
    users: &mut [User],
) -> Result<()> {
    let ids: Vec<UserId> = users.iter().map(|user| user.id).collect();
    let used = quotas::used_by(store, &ids).await?;
    for user in users {
        user.used = used.get(&user.id).copied().unwrap_or_default();
        if !user.own_limits {
            user.limits = settings.of_role(user.role);
        }
    }
    Ok(())
}
