//! Disk usage measurement of projects, for disk limits. One process measures, one project after another, because
//! measuring a sandbox walks through its files.

use std::{sync::Arc, time::Duration};

use fsa_model::api::Role;

use super::Shared;
use crate::store::{disk, replicas};

/// Timeout for measuring one sandbox or database.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Measures every project that a limit applies to, again when its measurement is `every` old; runs forever.
pub async fn run(shared: Arc<Shared>, every: Duration) {
    loop {
        match replicas::is_first(&shared.core.store, shared.replica).await {
            Ok(true) => measure(&shared, every).await,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "disk usage could not be measured"),
        }
        // The longest time until a project with a new limit, or a new project, is measured.
        tokio::time::sleep(every / 5).await;
    }
}

async fn measure(shared: &Shared, every: Duration) {
    let core = &shared.core;
    let limits = &core.settings.limits;
    let limited = |role| {
        limits
            .server_wide
            .disk_mib
            .or(limits.of_role(role).disk_mib)
            .is_some()
    };
    let roles: Vec<Role> = [Role::Owner, Role::Member]
        .into_iter()
        .filter(|role| limited(*role))
        .collect();
    let due = match disk::due(&core.store, &roles, every).await {
        Ok(due) => due,
        Err(error) => {
            tracing::warn!(%error, "disk usage could not be measured");
            return;
        }
    };
    for project in due {
        let bytes = bytes(shared, &project).await;
        if let Err(error) = disk::write(&core.store, project.project, bytes).await {
            tracing::warn!(%error, project = %project.project, "disk usage was not stored");
            return;
        }
    }
}

/// Disk usage of sandboxes and database together; `None` if one of them cannot be measured now.
async fn bytes(shared: &Shared, project: &disk::Measured) -> Option<u64> {
    let region = shared.core.regions.get(&project.region)?;
    let log = |error: fsa_driver::DriverError| {
        tracing::info!(%error, project = %project.project, "disk usage cannot be measured now");
    };
    let mut bytes = 0;
    for sandbox in &project.sandboxes {
        let found = tokio::time::timeout(TIMEOUT, region.driver.disk(sandbox)).await;
        bytes += found.ok()?.map_err(log).ok()?.unwrap_or(0);
    }
    if let Some(database) = &project.database {
        let found = tokio::time::timeout(TIMEOUT, region.databases.disk(database)).await;
        bytes += found.ok()?.map_err(log).ok()?.unwrap_or(0);
    }
    Some(bytes)
}
