//! Orphan detection: compares the inventory of a data plane with the rows.

use fsa_model::{ResourceName, SandboxRef};
use sqlx::Row as _;
use uuid::Uuid;

use super::{Store, parsed_column};

/// Sandboxes of an inventory that should not exist.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Without a row, by exact name and project.
    pub orphans: Vec<SandboxRef>,
    /// With a row that is finished: nothing of the sandbox should be left. Includes the row's id.
    pub finished: Vec<SandboxRef>,
}

/// Compares an inventory with the rows. A sandbox whose row has another project id is in neither list: unexplained
/// resources must not be touched.
///
/// # Errors
/// The database does not answer.
pub async fn compare(store: &Store, inventory: &[SandboxRef]) -> Result<Comparison, sqlx::Error> {
    let names: Vec<&str> = inventory.iter().map(|found| found.resource.as_str()).collect();
    let rows = sqlx::query(
        "select id, resource, project_id,
                desired_state = 'terminated' and observed_generation = generation and lease_id is null as finished
         from sandboxes where resource = any($1)",
    )
    .bind(&names[..])
    .fetch_all(&store.pool)
    .await?;
    let mut comparison = Comparison::default();
    for found in inventory {
        let row = rows.iter().find(|row| {
            row.try_get::<&str, _>("resource")
                .is_ok_and(|name| name == found.resource.as_str())
        });
        match row {
            None => comparison.orphans.push(found.clone()),
            Some(row)
                if row.try_get::<bool, _>("finished")?
                    && row.try_get::<Uuid, _>("project_id")? == found.project.0 =>
            {
                comparison.finished.push(SandboxRef {
                    id: fsa_model::SandboxId(row.try_get("id")?),
                    ..found.clone()
                });
            }
            Some(_) => {}
        }
    }
    Ok(comparison)
}

/// The names of all projects' databases.
///
/// # Errors
/// The database does not answer.
pub async fn database_resources(store: &Store) -> Result<Vec<ResourceName>, sqlx::Error> {
    let rows = sqlx::query("select resource from databases")
        .fetch_all(&store.pool)
        .await?;
    rows.iter().map(|row| parsed_column(row, "resource")).collect()
}
