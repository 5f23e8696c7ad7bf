//! Quotas per user and for the whole server. Usage is counted under a lock, so that two concurrent changes cannot both
//! pass.

use std::collections::HashMap;

use fsa_model::{
    ProjectId, Size, UserId,
    api::Role,
    limits::{Adds, ExceededLimit, Limits, Used, mebibytes},
};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{Store, enum_column, optional_json_column};
use crate::{
    error::{Error, Result},
    settings,
};

/// Checks the quotas after a change in this transaction; an exceeded quota rolls it back. From here to the commit, no other
/// change that adds to the same limit is checked.
///
/// # Errors
/// 403 with the limit and the use; the database does not answer.
pub async fn check(
    tx: &mut PgConnection,
    settings: &settings::Limits,
    owner: UserId,
    adds: Adds,
) -> Result<()> {
    if settings.server_wide != Limits::default() {
        sqlx::query("select pg_advisory_xact_lock(20003, 0)")
            .execute(&mut *tx)
            .await?;
        let used = used(tx, None).await?;
        if let Some(over) = used.over(&settings.server_wide, adds, true) {
            return Err(Error::over_limit(over));
        }
    }
    let limits = user_limits(tx, settings, owner).await?;
    if limits != Limits::default() {
        sqlx::query("select pg_advisory_xact_lock(20004, hashtext($1))")
            .bind(owner.to_string())
            .execute(&mut *tx)
            .await?;
        let used = used(tx, Some(owner)).await?;
        if let Some(over) = used.over(&limits, adds, false) {
            return Err(Error::over_limit(over));
        }
    }
    Ok(())
}

/// The user's own limits, or those of the user's role.
///
/// # Errors
/// The database does not answer.
async fn user_limits(
    connection: &mut PgConnection,
    settings: &settings::Limits,
    user: UserId,
) -> Result<Limits> {
    let row = sqlx::query("select role, limits from users where id = $1")
        .bind(user.0)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else {
        return Ok(settings.of_role(Role::Member));
    };
    let of_role = settings.of_role(enum_column(&row, "role")?);
    Ok(optional_json_column(&row, "limits")?.unwrap_or(of_role))
}

/// Sets a user's own limits, or resets them to the server's.
///
/// # Errors
/// The database does not answer.
pub async fn set(tx: &mut PgConnection, user: UserId, limits: Option<Limits>) -> Result<()> {
    sqlx::query("update users set limits = $2 where id = $1")
        .bind(user.0)
        .bind(limits.map(sqlx::types::Json))
        .execute(tx)
        .await?;
    Ok(())
}

macro_rules! usage_by_size {
    ($condition:literal) => {
        concat!(
            "select p.owner_id, p.size, count(distinct p.id) as projects, count(s.id) as running
               from projects p
               left join sandboxes s on s.project_id = p.id and s.desired_state = 'running'
              where p.deleted_at is null and ",
            $condition,
            " group by p.owner_id, p.size"
        )
    };
}

/// The usage of a user, or of all users together.
///
/// # Errors
/// The database does not answer.
pub async fn used(connection: &mut PgConnection, user: Option<UserId>) -> Result<Used> {
    let query = match user {
        Some(user) => sqlx::query(usage_by_size!("p.owner_id = $1")).bind(user.0),
        None => sqlx::query(usage_by_size!("true")),
    };
    let mut used = Used::default();
    for row in query.fetch_all(&mut *connection).await? {
        add(&mut used, &row)?;
    }
    used.disk_mib = mebibytes(disk(connection, user).await?);
    Ok(used)
}

/// The usage of each of these users.
///
/// # Errors
/// The database does not answer.
pub async fn used_by(store: &Store, users: &[UserId]) -> Result<HashMap<UserId, Used>> {
    let ids: Vec<Uuid> = users.iter().map(|user| user.0).collect();
    let rows = sqlx::query(usage_by_size!("p.owner_id = any($1)"))
        .bind(&ids)
        .fetch_all(&store.pool)
        .await?;
    let mut all: HashMap<UserId, Used> = HashMap::new();
    for row in rows {
        add(all.entry(UserId(row.try_get("owner_id")?)).or_default(), &row)?;
    }
    let disks = sqlx::query(
        "select owner_id, sum(disk_bytes)::bigint as bytes from projects
         where deleted_at is null and owner_id = any($1) group by owner_id",
    )
    .bind(ids)
    .fetch_all(&store.pool)
    .await?;
    for row in disks {
        let used = all.entry(UserId(row.try_get("owner_id")?)).or_default();
        used.disk_mib = mebibytes(row.try_get::<i64, _>("bytes")?.unsigned_abs());
    }
    Ok(all)
}

/// Bytes on disk of a user's projects, or of all projects, as last measured.
async fn disk(connection: &mut PgConnection, user: Option<UserId>) -> Result<u64> {
    let bytes: i64 = sqlx::query_scalar(
        "select coalesce(sum(disk_bytes), 0)::bigint from projects
         where deleted_at is null and ($1::uuid is null or owner_id = $1)",
    )
    .bind(user.map(|user| user.0))
    .fetch_one(connection)
    .await?;
    Ok(bytes.unsigned_abs())
}

/// The bytes that may still be written to disk for this owner's projects. `None`: no limit.
///
/// # Errors
/// 403 with the limit and the use, where `requested` bytes are too many; the database does not answer.
pub async fn free_disk(
    store: &Store,
    settings: &settings::Limits,
    owner: UserId,
    requested: u64,
) -> Result<Option<u64>> {
    let mut connection = store.pool().acquire().await?;
    let of_owner = user_limits(&mut connection, settings, owner).await?;
    let mut free: Option<u64> = None;
    for (limit, user) in [
        (of_owner.disk_mib, Some(owner)),
        (settings.server_wide.disk_mib, None),
    ] {
        let Some(limit) = limit else { continue };
        let used = disk(&mut connection, user).await?;
        let left = limit.saturating_mul(1 << 20).saturating_sub(used);
        if left < requested.max(1) {
            return Err(Error::over_limit(ExceededLimit {
                resource: "diskMib".into(),
                limit,
                requested: mebibytes(used.saturating_add(requested.max(1))),
                server_wide: user.is_none(),
            }));
        }
        free = Some(free.map_or(left, |free| free.min(left)));
    }
    Ok(free)
}

/// Counts bytes just written to disk, until the next measurement.
///
/// # Errors
/// The database does not answer.
pub async fn add_disk_usage(store: &Store, project: ProjectId, bytes: u64) -> Result<()> {
    sqlx::query("update projects set disk_bytes = disk_bytes + $2 where id = $1")
        .bind(project.0)
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX / 2))
        .execute(&store.pool)
        .await?;
    Ok(())
}

fn add(used: &mut Used, row: &PgRow) -> Result<(), sqlx::Error> {
    let size: Size = enum_column(row, "size")?;
    let count = |name: &str| row.try_get::<i64, _>(name).map(i64::unsigned_abs);
    used.add(size, count("projects")?, count("running")?);
    Ok(())
}
