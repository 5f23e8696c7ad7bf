//! Branch removal: when all sandboxes of a deleted branch are gone, removes its volume and its database, and then its
//! row; with the main branch, the project's.

use futures_util::FutureExt as _;

use fsa_driver::{Databases, Region};
use fsa_model::{Failure, FailureKind};

use super::{
    Shared, backoff,
    execute::{Execution, StepProgress, Work},
    spec,
    step::StepKind,
};
use crate::store::{
    databases::DatabaseRow,
    lease::{self, Renewal},
    removals::{self, Removal},
};

/// Works on a claimed removal, and releases its lease.
pub async fn run(shared: &Shared, removal: Removal) {
    let done = tokio::select! {
        biased;
        () = keep_lease(shared, &removal) => {
            tracing::warn!(project = %removal.project.id, "lease of a removal lost; another replica takes over");
            return;
        }
        done = remove(shared, &removal) => done,
    };
    let written = match done {
        Ok(()) => removals::finish(&shared.core.store, &removal).await.map(|_| ()),
        Err(failure) => {
            tracing::warn!(project = %removal.project.id, %failure, "a project could not be removed");
            let next = backoff::delay(removal.attempts.saturating_add(1));
            removals::postpone(&shared.core.store, &removal, &failure, next).await
        }
    };
    if let Err(error) = written {
        // The lease expires, and the removal is repeated, with nothing left to remove.
        tracing::warn!(project = %removal.project.id, %error, "the removal of a project was not stored");
    }
}

async fn remove(shared: &Shared, removal: &Removal) -> Result<(), Failure> {
    let name = &removal.project.region;
    let region = shared.core.regions.get(name).ok_or_else(|| {
        Failure::new(
            FailureKind::Machine,
            format!(
                "The region {name:?}, in which the project was, is not configured on this server; add it to its \
                 settings, so that its files and database can be removed."
            ),
        )
    })?;
    let driver = &region.driver;
    let mut steps: Vec<(StepKind, Work<'_>)> = vec![(
        StepKind::RemoveVolume,
        driver.remove_volume(removal.branch.volume),
    )];
    if let Some(database) = &removal.database {
        let work = drop_database(shared, removal, region, database);
        steps.push((StepKind::DropDatabase, work.boxed()));
    }
    let mut execution = Execution::new(steps, true);
    let mut failed = None;
    while let Some(progress) = execution.next().await {
        if let StepProgress::Failed(kind, error) = progress {
            tracing::warn!(project = %removal.project.id, step = ?kind, %error, cause = ?error.cause, "a step failed");
            shared.metrics.step_failed(kind);
            failed.get_or_insert(error.failure);
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn drop_database(
    shared: &Shared,
    removal: &Removal,
    region: &Region,
    database: &DatabaseRow,
) -> fsa_driver::Result<()> {
    let database = spec::database(&shared.core.key_ring, &removal.project, database)?;
    Databases::drop(&*region.databases, &database).await
}

/// Renews the lease until it is lost.
async fn keep_lease(shared: &Shared, removal: &Removal) {
    let duration = shared.options.lease;
    lease::keep(duration, async || {
        let held = removals::renew(&shared.core.store, removal, duration).await?;
        Ok::<_, sqlx::Error>(if held { Renewal::Renewed } else { Renewal::Lost })
    })
    .await;
}
