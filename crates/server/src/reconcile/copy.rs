//! Copy of a new branch: takes the snapshot that it is a copy of, where that is still to be taken, and makes the
//! branch's volume from it.
//!
//! The row says that the copy is still to be made until it is. The data plane makes a volume as a whole or not at all,
//! so a worker that takes over after a crash repeats no harm.

use std::time::Duration;

use fsa_driver::Region;
use fsa_model::{Failure, FailureKind, SnapshotId, snapshot::SnapshotState};
use tokio::time::timeout;

use super::{Shared, restore::Interrupted, snapshots};
use crate::store::{branches, leases::Claim, snapshots as rows};

/// Timeout of the copy: plain folders are copied file by file.
const COPY: Duration = Duration::from_secs(1800);

/// Makes the volume of a claimed sandbox's branch as a copy of the snapshot `source`.
///
/// # Errors
/// A step failed; or the database does not answer.
pub async fn run(
    shared: &Shared,
    region: &Region,
    claim: &Claim,
    source: SnapshotId,
) -> Result<(), Interrupted> {
    let store = &shared.core.store;
    let found = {
        let mut connection = store.pool().acquire().await?;
        match rows::of_project(&mut connection, claim.project.id, source).await? {
            Some(row) => branches::of_volume(&mut connection, row.sandbox.volume)
                .await?
                .map(|branch| (row, branch)),
            None => None,
        }
    };
    let Some((row, branch)) = found else {
        return Err(Interrupted::Failed(Failure::new(
            FailureKind::Input,
            "The snapshot that the branch is a copy of was deleted; delete the branch, and create another.",
        )));
    };
    if row.snapshot.state == SnapshotState::Creating {
        snapshots::take(shared, region, &claim.project, &branch, &row)
            .await
            .map_err(Interrupted::Failed)?;
    }
    let sandbox = claim.sandbox.reference();
    let copied = region.driver.clone_snapshot(row.sandbox.volume, source, &sandbox);
    match timeout(COPY, copied).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, cause = ?error.cause, branch = %claim.branch.name, "a branch was not copied");
            return Err(Interrupted::Failed(error.failure));
        }
        Err(_) => {
            return Err(Interrupted::Failed(Failure::new(
                FailureKind::Transient,
                format!(
                    "The files were not copied within {} seconds; retrying.",
                    COPY.as_secs()
                ),
            )));
        }
    }
    branches::finish_copy(store, claim, source).await?;
    Ok(())
}
