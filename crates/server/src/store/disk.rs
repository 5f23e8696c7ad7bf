//! Disk usage of projects, as last measured.

use fsa_model::{ProjectId, ResourceName, SandboxRef, api::Role};
use sqlx::{Row as _, postgres::PgRow};

use super::{Store, enum_text, json_column, parsed_column};

/// A project to be measured.
pub struct Measured {
    pub project: ProjectId,
    pub region: String,
    /// One for each branch.
    pub sandboxes: Vec<SandboxRef>,
    pub database: Option<ResourceName>,
}

/// Projects whose last measurement is older than `older_than`, the oldest first: those whose owners have one of these
/// roles, or a disk limit that is not the default.
///
/// # Errors
/// The database does not answer.
pub async fn due(
    store: &Store,
    roles: &[Role],
    older_than: std::time::Duration,
) -> Result<Vec<Measured>, sqlx::Error> {
    let rows = sqlx::query(
        "select p.id, p.region, d.resource as database,
                array_to_json(array(
                    select json_build_object('id', s.id, 'project', p.id, 'volume', s.volume_id, 'resource', s.resource)
                      from (select distinct on (volume_id) * from sandboxes where project_id = p.id
                            order by volume_id, desired_state = 'terminated', created_at desc) s))::jsonb as sandboxes
         from projects p
         join users u on u.id = p.owner_id
         left join databases d on d.project_id = p.id
         where p.deleted_at is null and (u.role = any($1) or u.limits ? 'diskMib')
           and coalesce(p.disk_measured_at < now() - make_interval(secs => $2), true)
         order by p.disk_measured_at nulls first limit 100",
    )
    .bind(roles.iter().map(enum_text).collect::<Vec<_>>())
    .bind(older_than.as_secs_f64())
    .fetch_all(&store.pool)
    .await?;
    rows.iter().map(read).collect()
}

fn read(row: &PgRow) -> Result<Measured, sqlx::Error> {
    let project = ProjectId(row.try_get("id")?);
    let database = match row.try_get::<Option<&str>, _>("database")? {
        Some(_) => Some(parsed_column(row, "database")?),
        None => None,
    };
    Ok(Measured {
        project,
        region: row.try_get("region")?,
        sandboxes: json_column(row, "sandboxes")?,
        database,
    })
}

/// Stores a measurement. `None` keeps the last known value and defers the next measurement as well.
///
/// # Errors
/// The database does not answer.
pub async fn write(store: &Store, project: ProjectId, bytes: Option<u64>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update projects set disk_bytes = coalesce($2, disk_bytes), disk_measured_at = now() where id = $1",
    )
    .bind(project.0)
    .bind(bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX / 2)))
    .execute(&store.pool)
    .await?;
    Ok(())
}
