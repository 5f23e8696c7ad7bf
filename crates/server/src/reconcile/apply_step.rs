//! Plan step application: runs one step with the driver or the databases of its region.

use std::{sync::Arc, time::Duration};

use fsa_driver::Region;
use fsa_model::{DatabaseSpec, SandboxSpec, sandboxd::Status};
use fsa_sandboxd_client::{SandboxdClient, StatusStream};
use parking_lot::Mutex;

use super::{
    Shared,
    step::{Action, Step},
};
use crate::store::leases::Claim;

/// sandboxd needs milliseconds to become ready; a machine that starts fifty at once, or a cluster, needs more.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A step with its specs.
pub type ReadyStep = Step<Arc<SandboxSpec>, Arc<DatabaseSpec>>;

/// sandboxd's status when its terminal was ready, and the stream of later ones.
pub type ReadyStatus = (Status, StatusStream);

/// Applies one step for a claimed sandbox. A step that waits for sandboxd puts its status into `ready`.
///
/// # Errors
/// The driver's errors.
pub async fn apply(
    shared: &Shared,
    claim: &Claim,
    region: &Region,
    ready: &Mutex<Option<ReadyStatus>>,
    step: ReadyStep,
) -> fsa_driver::Result<()> {
    let reference = claim.sandbox.reference();
    tracing::debug!(sandbox = %reference.resource, step = ?step.kind(), reason = step.reason, "a step begins");
    let driver = &region.driver;
    match step.action {
        Action::EnsureDatabase(database) => region.databases.ensure(&database).await,
        Action::EnsureNetwork(spec) => driver.ensure_network(&spec).await,
        Action::EnsureContainer(spec) => {
            // The container that the follower watches is about to end on purpose.
            shared.followers.stop(claim.sandbox.id);
            driver.ensure_container(&spec).await
        }
        Action::AwaitTerminal(spec) => {
            let sandboxd = SandboxdClient::new(&**driver, &spec.sandbox, &spec.control_token);
            let watch = sandboxd.await_ready(READY_TIMEOUT).await?;
            driver.await_serving(&spec.sandbox).await?;
            *ready.lock() = Some(watch);
            Ok(())
        }
        Action::StopContainer => {
            shared.followers.stop(claim.sandbox.id);
            driver.stop(&reference).await
        }
        Action::Destroy => {
            shared.followers.stop(claim.sandbox.id);
            driver.destroy(&reference).await
        }
    }
}
