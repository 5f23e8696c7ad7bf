//! One reconciliation attempt of one sandbox: observe, plan, apply, evaluate.
//!
//! An attempt runs under a lease and for one generation of the desired state. It may be dropped at any await:
//! its effects can be observed, and whatever it did not write is found again by observing.

use std::time::Duration;

use fsa_driver::{ObservedDatabase, Region};
use fsa_model::{
    ContainerState, DesiredState, Failure, FailureKind, Phase, Stage, StageState, api::DatabaseStatus,
    event::EventKind, phase::ObservedStatus, sandboxd::Status,
};
use fsa_sandboxd_client::StatusStream;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::{
    Shared,
    apply_step::{ReadyStep, apply},
    execute::{Execution, Progress},
    observe::{self, Look},
    plan,
    stages::Stages,
    step::StepKind,
    watch,
};
use crate::store::{
    events::PendingEvent,
    leases::Claim,
    observed::{self, Interim},
};

/// How long stage changes are batched before they are written.
const GATHER: Duration = Duration::from_millis(25);
/// Most rounds of observing and planning; [`plan`] needs three when every step has its effect.
const ROUNDS: usize = 5;

/// Why an attempt was interrupted.
#[derive(Debug)]
pub enum Interruption {
    /// The desired state has changed, or the lease is lost.
    Superseded,
    /// The control database does not answer.
    Store(sqlx::Error),
}

impl From<sqlx::Error> for Interruption {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error)
    }
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The desired state is reached.
    Reached,
    /// All possible steps are done, and something is waited for. An earlier failure remains.
    Waiting,
    Failed(Failure),
    /// The container repeatedly ends soon after its start, so it is not restarted for a while.
    Resting(Failure, Duration),
}

/// Whether this attempt still owned the row at an interim write; on an error, the events that were not written.
type Told = Result<bool, (sqlx::Error, Vec<PendingEvent>)>;

/// An attempt in progress, with its results so far.
pub struct Attempt<'a> {
    pub(super) shared: &'a Shared,
    pub claim: &'a Claim,
    pub stages: Stages,
    pub container: ContainerState,
    pub digest: Option<String>,
    /// sandboxd's status, if it was waited for.
    pub status: Option<Status>,
    /// The rest of the stream that this status came from, for the follower.
    pub watch: Option<StatusStream>,
    pub database_ready: bool,
    /// The container had ended without a request and was started again.
    pub restarted: bool,
    /// This attempt started the container.
    pub started: bool,
    happenings: Vec<PendingEvent>,
    /// The failure of the first step that failed.
    failure: Option<Failure>,
    notified_phase: Option<Phase>,
}

impl<'a> Attempt<'a> {
    #[must_use]
    pub fn new(shared: &'a Shared, claim: &'a Claim) -> Self {
        Self {
            shared,
            claim,
            stages: Stages::new(&claim.sandbox.conditions),
            container: claim.sandbox.container,
            digest: claim.digest.clone(),
            status: None,
            watch: None,
            database_ready: false,
            restarted: false,
            started: false,
            happenings: Vec::new(),
            failure: None,
            notified_phase: claim.notified_phase,
        }
    }

    /// Runs the steps that lead to the desired state.
    ///
    /// # Errors
    /// [`Interruption`]: this attempt has no result.
    pub async fn pursue(&mut self) -> Result<Verdict, Interruption> {
        let name = &self.claim.project.region;
        let Some(region) = self.shared.core.regions.get(name) else {
            return Ok(Verdict::Failed(Failure::new(
                FailureKind::Machine,
                format!("The region {name:?} is not configured on this server; add it to its settings."),
            )));
        };
        let mut unstuck = false;
        for _ in 0..ROUNDS {
            self.shared.take_requeue(self.claim.sandbox.id);
            let look = match Look::take(self.shared, region, self.claim, unstuck).await {
                Ok(look) => look,
                Err(failure) => return Ok(Verdict::Failed(failure)),
            };
            let rest = look.rest(self.claim);
            self.take_note(&look);
            if let Some((failure, rest)) = rest {
                return Ok(Verdict::Resting(failure, rest));
            }
            self.report_losses(&look).await?;
            let steps = plan::plan(&look.desired, &look.observed);
            let partial = plan::is_partial(&look.desired, &steps);
            unstuck |= steps.iter().any(|step| step.kind() == StepKind::StopContainer);
            if !steps.is_empty() {
                self.execute(region, &look, steps).await?;
            }
            if let Some(failure) = self.failure.take() {
                self.see_what_is_left(region).await;
                return Ok(Verdict::Failed(failure));
            }
            if let Some(failure) = look.database_failure {
                return Ok(Verdict::Failed(failure));
            }
            if !partial {
                return Ok(self.judge(region, &look).await);
            }
        }
        Ok(Verdict::Failed(Failure::new(
            FailureKind::Internal,
            "Every step succeeded, but the sandbox is not in its desired state yet. It is tried again.",
        )))
    }

    /// Updates the recorded state from the observation.
    fn take_note(&mut self, look: &Look) {
        let observed = &look.observed;
        self.container = match observed.container {
            // A container with processes may not be usable yet. One that was usable and still has processes is.
            ContainerState::Starting | ContainerState::Running => {
                if self.claim.sandbox.container == ContainerState::Running {
                    ContainerState::Running
                } else {
                    ContainerState::Starting
                }
            }
            other => other,
        };
        if look.desired.state != DesiredState::Running {
            return;
        }
        let right = observed.runs() && look.desired.accepts(observed.digest.as_deref());
        if right {
            self.digest.clone_from(&observed.digest);
        }
        self.database_ready = observed.database == Some(ObservedDatabase::Ready);
        let answered = right && self.stages.state(Stage::TerminalReady) == StageState::Done;
        for (stage, done) in [
            (
                Stage::DatabaseReady,
                look.desired.database.is_none() || self.database_ready,
            ),
            (Stage::ContainerReady, right),
            (Stage::NetworkReady, observed.network),
            (Stage::TerminalReady, answered || right && observed.terminal),
        ] {
            if done {
                self.stages.set(stage, StageState::Done, None);
            } else if self.stages.state(stage) == StageState::Done {
                self.stages.pending(&[stage]);
            }
        }
        if !right {
            self.stages.pending(&[Stage::Ready]);
        }
        if let Some(failure) = &look.database_failure {
            self.stages.failed(StepKind::EnsureDatabase, &failure.message);
        }
    }

    /// Reports what went missing, before it is created again.
    async fn report_losses(&mut self, look: &Look) -> Result<(), Interruption> {
        self.restarted |= look.has_ended();
        let found = plan::repairs(&look.desired, &look.observed);
        if !found.is_empty() {
            let mut message = format!("The sandbox was not as it should be: {}.", found.join("; "));
            if let Some(said) = look.reported.as_ref().filter(|_| !look.observed.runs()) {
                message.push_str(" The data plane says: ");
                message.push_str(said.message.trim_end_matches('.'));
                message.push('.');
            }
            message.push_str(" It is put right.");
            tracing::warn!(sandbox = %self.claim.sandbox.resource, ?found, "a sandbox is put right");
            self.shared.metrics.repaired();
            let data = json!({"found": found, "said": look.reported});
            self.happenings
                .push(PendingEvent::new(EventKind::Repaired, message, data));
        }
        let was_there = self
            .claim
            .database
            .as_ref()
            .is_some_and(|claimed| claimed.ever_ready);
        if was_there
            && look.observed.database == Some(ObservedDatabase::Absent)
            && let Some(database) = &look.desired.database
        {
            let name = database.role();
            let happening = PendingEvent::new(
                EventKind::DatabaseLost,
                format!(
                    "The database {name} is gone, and with it everything that was in it. A new, empty one is \
                     made; restore its content from a backup, if there is one."
                ),
                json!({"name": name}),
            );
            if observed::report_lost_database(&self.shared.core.store, self.claim, happening).await? {
                tracing::error!(project = %self.claim.project.id, database = name, "a project's database is gone");
            }
        }
        Ok(())
    }

    /// Executes `steps`, and writes the progress meanwhile.
    async fn execute(
        &mut self,
        region: &Region,
        look: &Look,
        steps: Vec<ReadyStep>,
    ) -> Result<(), Interruption> {
        let (shared, claim) = (self.shared, self.claim);
        let ready = Mutex::new(None);
        let steps = steps
            .into_iter()
            .map(|step| (step.kind(), apply(shared, claim, region, &ready, step).boxed()))
            .collect();
        let mut execution = Execution::new(steps, region.databases.predictable_credentials());
        let mut write_at: Option<Instant> = None;
        let mut writing: Option<BoxFuture<'_, Told>> = None;
        loop {
            let due = write_at.filter(|_| writing.is_none());
            tokio::select! {
                biased;
                written = finished(&mut writing) => {
                    writing = None;
                    self.told(written)?;
                }
                progress = execution.next() => {
                    let Some(progress) = progress else { break };
                    let failed = matches!(progress, Progress::Failed(..));
                    self.moved(progress, look);
                    let at = Instant::now() + if failed { Duration::ZERO } else { GATHER };
                    write_at = Some(write_at.map_or(at, |earlier| earlier.min(at)));
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    write_at = None;
                    writing = Some(self.tell());
                }
            }
        }
        drop(execution);
        if let Some(writing) = writing {
            self.told(writing.await)?;
        }
        if let Some((status, changes)) = ready.into_inner() {
            self.status = Some(watch::bounded(status.clone()));
            self.watch = Some(stream::once(async { Ok(status) }).chain(changes).boxed());
        }
        Ok(())
    }

    fn moved(&mut self, progress: Progress, look: &Look) {
        match progress {
            Progress::Began(kind) => self.stages.began(kind),
            Progress::Done(kind) => {
                self.stages.done(kind);
                match kind {
                    StepKind::EnsureDatabase => self.database_made(look),
                    StepKind::EnsureContainer => {
                        self.started = true;
                        self.digest = look.desired.spec.as_ref().map(|spec| spec.digest.clone());
                        // A replaced container stays reported as running: its phase is UPDATING.
                        if self.container != ContainerState::Running {
                            self.container = ContainerState::Starting;
                        }
                    }
                    StepKind::AwaitTerminal => self.container = ContainerState::Running,
                    StepKind::StopContainer => {
                        if self.container != ContainerState::Absent {
                            self.container = ContainerState::Stopped;
                        }
                        self.stages
                            .pending(&[Stage::ContainerReady, Stage::TerminalReady]);
                    }
                    StepKind::Destroy => self.container = ContainerState::Absent,
                    StepKind::EnsureNetwork | StepKind::RemoveVolume | StepKind::DropDatabase => {}
                }
            }
            Progress::Failed(kind, error) => {
                tracing::warn!(
                    sandbox = %self.claim.sandbox.resource,
                    step = ?kind,
                    error = %error,
                    cause = ?error.cause,
                    "a step failed"
                );
                self.shared.metrics.step_failed(kind);
                self.stages.failed(kind, &error.failure.message);
                self.failure.get_or_insert(error.failure);
            }
        }
    }

    fn database_made(&mut self, look: &Look) {
        self.database_ready = true;
        let (Some(claimed), Some(database)) = (&self.claim.database, &look.desired.database) else {
            return;
        };
        let name = database.role();
        let was_lost = claimed.row.status == DatabaseStatus::Lost
            || claimed.ever_ready && look.observed.database == Some(ObservedDatabase::Absent);
        let (kind, message) = if was_lost {
            (
                EventKind::DatabaseCreated,
                format!("A new, empty database {name} was made in place of the one that was lost."),
            )
        } else if claimed.ever_ready {
            (
                EventKind::Repaired,
                format!("The database {name} takes connections again."),
            )
        } else {
            (
                EventKind::DatabaseCreated,
                format!("The database {name} was made."),
            )
        };
        self.happenings
            .push(PendingEvent::new(kind, message, json!({"name": name})));
    }

    /// A future that writes every change so far, to run beside the steps.
    fn tell(&mut self) -> BoxFuture<'a, Told> {
        let (shared, claim) = (self.shared, self.claim);
        let phase = self.phase(false, self.failure.is_some() || claim.sandbox.failure.is_some());
        let happenings = self.take_happenings(phase);
        let (container, conditions) = (self.container, self.stages.all().to_vec());
        let (failure, database_ready) = (self.failure.clone(), self.database_ready);
        let attempts = claim
            .sandbox
            .attempts
            .saturating_add(i32::from(failure.is_some()));
        async move {
            let interim = Interim {
                container,
                conditions: &conditions,
                failure: failure.as_ref(),
                attempts,
                phase,
                database_ready,
            };
            let kept = happenings.clone();
            observed::tell(&shared.core.store, claim, interim, happenings)
                .await
                .map_err(|error| (error, kept))
        }
        .boxed()
    }

    /// Handles the result of an interim write. On a database error the steps go on: the last write has everything.
    fn told(&mut self, told: Told) -> Result<(), Interruption> {
        match told {
            Ok(true) => Ok(()),
            Ok(false) => Err(Interruption::Superseded),
            Err((error, mut kept)) => {
                tracing::warn!(sandbox = %self.claim.sandbox.resource, %error, "progress was not written down");
                kept.append(&mut self.happenings);
                self.happenings = kept;
                Ok(())
            }
        }
    }

    /// The phase that the row will have.
    #[must_use]
    pub fn phase(&self, reached: bool, failed: bool) -> Phase {
        let row = &self.claim.sandbox;
        let settled = ObservedStatus {
            generation: if reached {
                row.generation
            } else {
                row.observed_generation
            },
            container: self.container,
            failed,
        };
        Phase::compute(row.desired_state, row.generation, settled)
    }

    /// Adds an event to the next write.
    pub fn happened(&mut self, happening: PendingEvent) {
        self.happenings.push(happening);
    }

    /// The events since the last call; a change of the phase comes last.
    pub fn take_happenings(&mut self, phase: Phase) -> Vec<PendingEvent> {
        let mut happenings = std::mem::take(&mut self.happenings);
        happenings.extend(self.stages.take_moves());
        if self.notified_phase != Some(phase) {
            let before = self.notified_phase.replace(phase);
            happenings.push(PendingEvent::new(
                EventKind::PhaseChanged,
                format!("The sandbox is {}.", crate::store::word_of(&phase)),
                json!({"phase": phase, "before": before}),
            ));
        }
        happenings
    }

    /// After a failure, nothing is assumed: the observed state is what gets written.
    async fn see_what_is_left(&mut self, region: &Region) {
        let reference = self.claim.sandbox.reference();
        let look = tokio::time::timeout(observe::PATIENCE, region.driver.observe(&reference));
        if let Ok(Ok(seen)) = look.await {
            let usable = self.stages.state(Stage::TerminalReady) == StageState::Done;
            self.container = match seen.container {
                ContainerState::Running if !usable => ContainerState::Starting,
                other => other,
            };
        }
    }
}

async fn finished<T>(work: &mut Option<BoxFuture<'_, T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}
