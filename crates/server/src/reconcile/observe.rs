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
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Consecutive failures after which a start whose terminal does not answer is repeated. In between, the terminal may
/// still recover.
const RESTART_AFTER_ATTEMPTS: i32 = 3;
const DATABASES_UNREACHABLE: &str = "The databases' server does not answer";

/// The desired and the observed state.
pub struct Observation {
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

impl Observation {
    /// Observes. `was_stuck` says that an earlier round has handled a terminal that does not answer.
    ///
    /// # Errors
    /// Why nothing could be observed: the data plane does not answer, or a secret cannot be decrypted.
    pub async fn observe(
        shared: &Shared,
        region: &Region,
        claim: &Claim,
        was_stuck: bool,
    ) -> Result<Self, Failure> {
        let sandbox = &claim.sandbox;
        let reached = was_reached(claim);
        let reference = sandbox.reference();
        let observe = async {
            flatten_timeout(
                timeout(TIMEOUT, region.driver.observe(&reference)).await,
                "The data plane does not answer",
            )
        };
        let mut desired = Desired {
            state: sandbox.desired_state,
            reached,
            spec: None,
            started_with: claim.digest.clone().filter(|_| reached),
            database: None,
            stuck: !was_stuck
                && !reached
                && sandbox.attempts > 0
                && sandbox.attempts % RESTART_AFTER_ATTEMPTS == 0
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
            DatabaseCredentials::NotYet => None,
            DatabaseCredentials::Known(credentials) => Some(spec::sandbox(
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
    pub fn restart_delay(&self, claim: &Claim) -> Option<(Failure, Duration)> {
        let attempts = claim.sandbox.attempts;
        if !self.has_ended() || attempts < 1 {
            return None;
        }
        let lived = Utc::now() - since(claim, Stage::ContainerReady, StageState::Done)?;
        let delay = TimeDelta::from_std(backoff::delay(attempts)).ok()? - lived;
        let failure = self.reported.clone().unwrap_or_else(|| {
            Failure::new(
                FailureKind::Machine,
                format!("The sandbox ended soon after its start, {attempts} times in a row; check its logs."),
            )
        });
        // Negative where the container ran for longer than the backoff.
        delay.to_std().ok().map(|delay| (failure, delay))
    }
}

/// The credentials of a database, if they can be known yet.
enum DatabaseCredentials {
    /// The credentials; `None` if none are needed.
    Known(Option<Credentials>),
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
    flatten_timeout(
        timeout(TIMEOUT, region.databases.observe(database)).await,
        DATABASES_UNREACHABLE,
    )
    .map(Some)
}

async fn credentials(
    region: &Region,
    database: Option<&DatabaseSpec>,
    observed: Option<ObservedDatabase>,
) -> Result<DatabaseCredentials, Failure> {
    let Some(database) = database else {
        return Ok(DatabaseCredentials::Known(None));
    };
    if !region.databases.predictable_credentials() && observed != Some(ObservedDatabase::Ready) {
        return Ok(DatabaseCredentials::NotYet);
    }
    flatten_timeout(
        timeout(TIMEOUT, region.databases.credentials(database)).await,
        DATABASES_UNREACHABLE,
    )
    .map(|credentials| DatabaseCredentials::Known(Some(credentials)))
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

fn flatten_timeout<T>(
    result: Result<fsa_driver::Result<T>, Elapsed>,
    unreachable: &str,
) -> Result<T, Failure> {
    match result {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::warn!(error = %error, cause = ?error.cause, "an observation of the data plane failed");
            Err(error.failure)
        }
        Err(_) => Err(Failure::new(
            FailureKind::Transient,
            format!("{unreachable}; retrying."),
        )),
    }
}
