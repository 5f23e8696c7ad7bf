//! Orphan sweep: regularly compares the inventories of the data planes with the rows, and destroys our sandboxes
//! that are in no row.
//!
//! A sandbox is destroyed only if two consecutive sweeps find its exact name and project in no row. A database in no
//! row is only reported: the inventory of databases has names and no ids, and the content of a database cannot be
//! restored. Where several control databases share one data plane the sweep must be off
//! ([`super::Options::sweep`]), because a sandbox that is in no row here may be in a row there.

use std::{collections::HashSet, sync::Arc, time::Duration};

use fsa_driver::Region;
use fsa_model::{SandboxRef, spec::role_of};

use super::Shared;
use crate::store::{audit, orphans as rows, requeue};

/// Timeout of an inventory, and of the removal of one sandbox.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Sweeps at once, and then every [`super::Options::sweep`], forever.
pub async fn run(shared: Arc<Shared>, every: Duration) {
    let mut seen = Sightings::default();
    loop {
        match crate::store::replicas::is_first(&shared.core.store, shared.replica).await {
            Ok(true) => sweep(&shared, &mut seen).await,
            Ok(false) => seen = Sightings::default(),
            Err(error) => tracing::warn!(%error, "the search for orphans failed"),
        }
        // The second sighting of an orphan from the first sweep need not wait for long.
        let next = if seen.sandboxes.is_empty() {
            every
        } else {
            every.min(shared.options.grace)
        };
        tokio::time::sleep(next).await;
    }
}

/// Resources that were in no row at the last sweep.
#[derive(Default)]
pub struct Sightings {
    sandboxes: HashSet<(String, SandboxRef)>,
    databases: HashSet<(String, String)>,
}

/// Sweeps all regions once.
pub async fn sweep(shared: &Shared, seen: &mut Sightings) {
    let before = std::mem::take(&mut seen.sandboxes);
    for region in shared.core.regions.iter() {
        if let Err(error) = sweep_sandboxes(shared, region, &before, seen).await {
            tracing::warn!(
                region = region.name,
                error,
                "the search for orphaned sandboxes failed"
            );
        }
        if let Err(error) = report_databases(shared, region, seen).await {
            tracing::warn!(
                region = region.name,
                error,
                "the search for orphaned databases failed"
            );
        }
    }
}

async fn sweep_sandboxes(
    shared: &Shared,
    region: &Region,
    before: &HashSet<(String, SandboxRef)>,
    seen: &mut Sightings,
) -> Result<(), String> {
    // The inventory comes first: every sandbox in it was in a row before it was created.
    let inventory = tokio::time::timeout(TIMEOUT, region.driver.inventory())
        .await
        .map_err(|_| "the data plane does not answer".to_owned())?
        .map_err(|error| error.to_string())?;
    let store = &shared.core.store;
    let found = rows::compare(store, &inventory)
        .await
        .map_err(|e| e.to_string())?;
    for sandbox in found.finished {
        tracing::warn!(sandbox = %sandbox.resource, "a terminated sandbox left something behind; destroying it again");
        requeue::requeue_terminated(store, sandbox.id)
            .await
            .map_err(|e| e.to_string())?;
        shared.wake.notify_one();
    }
    for orphan in found.orphans {
        let key = (region.name.clone(), orphan.clone());
        if !before.contains(&key) {
            tracing::warn!(sandbox = %orphan.resource, project = %orphan.project, "orphan found: a sandbox without a row");
            seen.sandboxes.insert(key);
            continue;
        }
        let destroyed = tokio::time::timeout(TIMEOUT, region.driver.destroy(&orphan)).await;
        let result = match destroyed {
            Ok(Ok(())) => "ok",
            _ => "failed",
        };
        tracing::warn!(sandbox = %orphan.resource, project = %orphan.project, result, "orphan destroyed: a sandbox without a row");
        shared.metrics.swept();
        let entry = audit::NewEntry {
            user: None,
            action: "sandbox.sweep",
            object: format!(
                "sandbox {} of project {} in {}",
                orphan.resource, orphan.project, region.name
            ),
            address: "",
            result,
        };
        let mut connection = store.pool().acquire().await.map_err(|e| e.to_string())?;
        audit::append(&mut connection, entry)
            .await
            .map_err(|e| e.to_string())?;
        if result != "ok" {
            seen.sandboxes.insert(key);
        }
    }
    Ok(())
}

async fn report_databases(shared: &Shared, region: &Region, seen: &mut Sightings) -> Result<(), String> {
    let inventory = tokio::time::timeout(TIMEOUT, region.databases.inventory())
        .await
        .map_err(|_| "the databases' server does not answer".to_owned())?
        .map_err(|error| error.to_string())?;
    let known = rows::database_resources(&shared.core.store)
        .await
        .map_err(|e| e.to_string())?;
    let known: HashSet<String> = known.iter().map(role_of).collect();
    for role in inventory.into_iter().filter(|role| !known.contains(role)) {
        if seen.databases.insert((region.name.clone(), role.clone())) {
            tracing::warn!(
                region = region.name,
                database = role,
                "orphan found: a database without a project; drop it if it is not needed"
            );
        }
    }
    Ok(())
}
