//! One step, handed to whoever does it.

use fsa_driver::{DriverError, Region, Step, StepKind};
use fsa_model::{FailureKind, SandboxSpec, sandboxd::Status};
use fsa_sandboxd_client::SandboxdClient;
use parking_lot::Mutex;

use super::{Shared, execute::patience, observe::Look, watch};
use crate::store::leases::Claim;

/// Does one step for a claimed sandbox. What sandboxd says of itself, where it is asked, goes
/// into `status`.
///
/// # Errors
/// The driver's.
pub async fn act(
    shared: &Shared,
    claim: &Claim,
    region: &Region,
    look: &Look,
    status: &Mutex<Option<Status>>,
    step: Step,
) -> fsa_driver::Result<()> {
    let kind = step.kind;
    let reference = claim.sandbox.reference();
    tracing::debug!(sandbox = %reference.resource, step = ?kind, reason = step.reason, "a step begins");
    match kind {
        StepKind::EnsureDatabase => match &look.database {
            Some(database) => region.databases.ensure(database).await,
            None => Err(impossible()),
        },
        StepKind::EnsureNetwork => match &look.spec {
            Some(spec) => region.driver.apply(spec, step).await,
            // A driver is given whole specs; with its database this one comes in the next round.
            None => Ok(()),
        },
        StepKind::EnsureContainer => {
            // What it followed is about to end on purpose.
            shared.followers.stop(claim.sandbox.id);
            region
                .driver
                .apply(look.spec.as_ref().ok_or_else(impossible)?, step)
                .await
        }
        StepKind::AwaitTerminal => {
            let spec: &SandboxSpec = look.spec.as_ref().ok_or_else(impossible)?;
            region.driver.apply(spec, step).await?;
            let sandboxd = SandboxdClient::new(&*region.driver, &spec.sandbox, &spec.control_token);
            let (seen, _) = sandboxd.await_ready(patience(kind)).await?;
            *status.lock() = Some(watch::bounded(seen));
            Ok(())
        }
        StepKind::StopContainer => {
            shared.followers.stop(claim.sandbox.id);
            region.driver.stop(&reference).await
        }
        StepKind::Destroy => {
            shared.followers.stop(claim.sandbox.id);
            region.driver.destroy(&reference).await
        }
        // They belong to the removal of a project.
        StepKind::RemoveVolume | StepKind::DropDatabase => Err(impossible()),
    }
}

fn impossible() -> DriverError {
    DriverError::new(
        FailureKind::Internal,
        "A step was planned that cannot be done; this is a defect of the control plane.",
    )
}
