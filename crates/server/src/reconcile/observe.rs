//! Observation of one sandbox: the desired state from its rows, and the observed state from its data plane.
//! Changes nothing.

use std::{sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use fsa_driver::{Observed, ObservedDatabase, Region};
use fsa_model::{
    ContainerState, DatabaseSpec, DesiredState, Failure, FailureKind, SandboxSpec, Stage, StageState,
    spec::Credentials,
};
use tokio::time::{error::Elapsed, timeout};

use super::{
    Shared, backoff,
    plan::{Desired, Digested, ObservedState},
    spec,
};
use crate::store::leases::Claim;

/// Timeout of one observation.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A start whose terminal never answered is begun again after every this many failures in a row. In between, the
/// terminal may still recover.
const PATIENT_ATTEMPTS: i32 = 3;
const DATABASES_SILENT: &str = "The databases' server does not answer";

/// The desired and the observed state.
pub struct Look {
    pub desired: Desired<Arc<SandboxSpec>, Arc<DatabaseSpec>>,
    pub observed: ObservedState,
    /// Why the database could not be observed.
    pub database_failure: Option<Failure>,
    /// The failure that the data plane reports.
    pub reported: Option<Failure>,
}

/// Whether this generation of the desired state was reached before.
#[must_use]
pub fn was_reached(claim: &Claim) -> bool {
    claim.sandbox.observed_generation == claim.sandbox.generation
}

/// Since when the row has this stage in this state; `None` if it does not.
fn since(claim: &Claim, stage: Stage, state: StageState) -> Option<chrono::DateTime<Utc>> {
    let conditions = &claim.sandbox.conditions;
    let found = conditions
        .iter()
        .find(|condition| condition.stage == stage && condition.state == state);
    found.map(|condition| condition.since)
}

impl Look {
    /// Observes. `stuck_before` says that an earlier round has handled a terminal that does not answer.
    ///
    /// # Errors
    /// Why nothing could be observed: the data plane does not answer, or a secret cannot be decrypted.
    pub async fn take(
        shared: &Shared,
        region: &Region,
        claim: &Claim,
        stuck_before: bool,
    ) -> Result<Self, Failure> {
        let sandbox = &claim.sandbox;
        let reached = was_reached(claim);
        let reference = sandbox.reference();
        let observe = async {
            answered(
                timeout(PATIENCE, region.driver.observe(&reference)).await,
                "The data plane does not answer",
            )
        };
        let mut desired = Desired {
            state: sandbox.desired_state,
            reached,
            spec: None,
            started_with: claim.digest.clone().filter(|_| reached),
            database: None,
            stuck: !stuck_before
                && !reached
                && sandbox.attempts > 0
                && sandbox.attempts % PATIENT_ATTEMPTS == 0
                && since(claim, Stage::TerminalReady, StageState::Failed).is_some(),
        };
        // A stop or termination needs no spec: a lost key must not keep anything alive.
        if sandbox.desired_state != DesiredState::Running {
            let observed = observe.await?;
            return Ok(Self {
                reported: observed.failure.clone(),
                observed: state(observed, None, false),
                desired,
                database_failure: None,
            });
        }

        let database = match &claim.database {
            None => None,
            Some(claimed) => Some(spec::database(
                &shared.core.key_ring,
                &claim.project,
                &claimed.row,
            )?),
        };
        let (observed, data) = tokio::join!(observe, observe_database(region, database.as_ref()));
        let observed = observed?;
        let (data, database_failure) = match data {
            Ok(data) => (data, None),
            Err(failure) => (None, Some(failure)),
        };
        let credentials = credentials(region, database.as_ref(), data).await?;
        let spec = match credentials {
            Known::NotYet => None,
            Known::Now(credentials) => Some(spec::sandbox(
                &shared.core.key_ring,
                &shared.core.settings,
                claim,
                credentials.as_ref(),
            )?),
        };
        desired.spec = spec.map(|spec| Digested {
            digest: spec.digest(),
            spec: Arc::new(spec),
        });
        desired.database = database.map(Arc::new);
        Ok(Self {
            reported: observed.failure.clone(),
            observed: state(observed, data, shared.followers.is_live(sandbox.id)),
            desired,
            database_failure,
        })
    }

    /// Whether the container, which should run, has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.desired.state == DesiredState::Running && self.desired.reached && !self.observed.runs()
    }

    /// A container that ends soon after each start is not restarted at once: returns the reason, and the remaining
    /// time without a restart.
    #[must_use]
    pub fn rest(&self, claim: &Claim) -> Option<(Failure, Duration)> {
        let attempts = claim.sandbox.attempts;
        if !self.has_ended() || attempts < 1 {
            return None;
        }
        let lived = Utc::now() - since(claim, Stage::ContainerReady, StageState::Done)?;
        let rest = TimeDelta::from_std(backoff::back_off(attempts)).ok()? - lived;
        let failure = self.reported.clone().unwrap_or_else(|| {
            Failure::new(
                FailureKind::Machine,
                format!(
                    "The sandbox ended soon after it was started, {attempts} times in a row; look at its logs."
                ),
            )
        });
        // Negative where the container ran for longer than the backoff.
        rest.to_std().ok().map(|rest| (failure, rest))
    }
}

/// The credentials of a database, if they can be known yet.
enum Known {
    /// The credentials; `None` if none are needed.
    Now(Option<Credentials>),
    /// The database must exist first.
    NotYet,
}

async fn observe_database(
    region: &Region,
    database: Option<&DatabaseSpec>,
) -> Result<Option<ObservedDatabase>, Failure> {
    let Some(database) = database else {
        return Ok(None);
    };
    answered(
        timeout(PATIENCE, region.databases.observe(database)).await,
        DATABASES_SILENT,
    )
    .map(Some)
}

async fn credentials(
    region: &Region,
    database: Option<&DatabaseSpec>,
    observed: Option<ObservedDatabase>,
) -> Result<Known, Failure> {
    let Some(database) = database else {
        return Ok(Known::Now(None));
    };
    if !region.databases.predictable_credentials() && observed != Some(ObservedDatabase::Ready) {
        return Ok(Known::NotYet);
    }
    answered(
        timeout(PATIENCE, region.databases.credentials(database)).await,
        DATABASES_SILENT,
    )
    .map(|credentials| Known::Now(Some(credentials)))
}

fn state(observed: Observed, database: Option<ObservedDatabase>, live: bool) -> ObservedState {
    ObservedState {
        terminal: live
            && matches!(
                observed.container,
                ContainerState::Starting | ContainerState::Running
            ),
        container: observed.container,
        digest: observed.digest,
        network: observed.network,
        volume: observed.volume,
        database,
    }
}

fn answered<T>(result: Result<fsa_driver::Result<T>, Elapsed>, silence: &str) -> Result<T, Failure> {
    match result {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::warn!(error = %error, cause = ?error.cause, "a look at the data plane failed");
            Err(error.failure)
        }
        Err(_) => Err(Failure::new(
            FailureKind::Transient,
            format!("{silence}; it is tried again."),
        )),
    }
}
