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
    copy,
    execute::{Execution, StepProgress},
    fill,
    image_progress::ImageWatch,
    observe::{self, Observation},
    plan,
    restore::{self, Interrupted},
    stages::Stages,
    step::StepKind,
    watch,
};
use crate::store::{
    events::PendingEvent,
    leases::Claim,
    observed::{self, AttemptProgress},
};

/// How long stage changes are batched before they are written.
const WRITE_DELAY: Duration = Duration::from_millis(25);
/// Most rounds of observing and planning; [`plan`] needs three when every step has its effect.
const MAX_ROUNDS: usize = 5;

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
pub enum Outcome {
    /// The desired state is reached.
    Reached,
    /// All possible steps are done, and something is waited for. An earlier failure remains.
    Waiting,
    Failed(Failure),
    /// The container repeatedly ends soon after its start, so it is not restarted for a while.
    BackingOff(Failure, Duration),
}

/// Whether this attempt still owned the row at an interim write; on an error, the events that were not written.
type ProgressWrite = Result<bool, (sqlx::Error, Vec<PendingEvent>)>;

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
    pending_events: Vec<PendingEvent>,
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
            pending_events: Vec::new(),
            failure: None,
            notified_phase: claim.notified_phase,
        }
    }

    /// Runs the steps that lead to the desired state.
    ///
    /// # Errors
    /// [`Interruption`]: this attempt has no result.
    pub async fn run(&mut self) -> Result<Outcome, Interruption> {
        let name = &self.claim.project.region;
        let Some(region) = self.shared.core.regions.get(name) else {
            return Ok(Outcome::Failed(Failure::new(
                FailureKind::Machine,
                format!("The region {name:?} is not configured on this server; add it to its settings."),
            )));
        };
        if let Some(backup) = &self.claim.branch.source_backup
            && self.claim.sandbox.desired_state != DesiredState::Terminated
        {
            return match fill::run(self.shared, region, self.claim, backup).await {
                Ok(()) => Err(Interruption::Superseded),
                Err(Interrupted::Failed(failure)) => Ok(Outcome::Failed(failure)),
                Err(Interrupted::Store(error)) => Err(error.into()),
            };
        }
        if let Some(source) = self.claim.branch.source
            && self.claim.sandbox.desired_state != DesiredState::Terminated
        {
            // A copy that is made begins a new attempt, as a restore does.
            return match copy::run(self.shared, region, self.claim, source).await {
                Ok(()) => Err(Interruption::Superseded),
                Err(Interrupted::Failed(failure)) => Ok(Outcome::Failed(failure)),
                Err(Interrupted::Store(error)) => Err(error.into()),
            };
        }
        if let Some(restore) = self.claim.sandbox.restore {
            // A restore that is done begins a new attempt, with the row as it is then.
            return match restore::run(self.shared, region, self.claim, restore).await {
                Ok(()) => Err(Interruption::Superseded),
                Err(Interrupted::Failed(failure)) => {
                    self.observe_after_failure(region).await;
                    Ok(Outcome::Failed(failure))
                }
                Err(Interrupted::Store(error)) => Err(error.into()),
            };
        }
        let mut unstuck = false;
        for _ in 0..MAX_ROUNDS {
            self.shared.take_requeue(self.claim.sandbox.id);
            let observation = match Observation::observe(self.shared, region, self.claim, unstuck).await {
                Ok(observation) => observation,
                Err(failure) => return Ok(Outcome::Failed(failure)),
            };
            let restart_delay = observation.restart_delay(self.claim);
            self.update_from(&observation);
            if let Some((failure, delay)) = restart_delay {
                return Ok(Outcome::BackingOff(failure, delay));
            }
            self.report_losses(&observation).await?;
            let steps = plan::plan(&observation.desired, &observation.observed);
            let partial = plan::is_partial(&observation.desired, &steps);
            unstuck |= steps.iter().any(|step| step.kind() == StepKind::StopContainer);
            if !steps.is_empty() {
                self.execute(region, &observation, steps).await?;
            }
            if let Some(failure) = self.failure.take() {
                self.observe_after_failure(region).await;
                return Ok(Outcome::Failed(failure));
            }
            if let Some(failure) = observation.database_failure {
                return Ok(Outcome::Failed(failure));
            }
            if !partial {
                return Ok(self.evaluate(region, &observation).await);
            }
        }
        Ok(Outcome::Failed(Failure::new(
            FailureKind::Internal,
            "Every step succeeded, but the sandbox is not in its desired state yet. Retrying.",
        )))
    }

    /// Updates the recorded state from the observation.
    fn update_from(&mut self, observation: &Observation) {
        let observed = &observation.observed;
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
        if observation.desired.state != DesiredState::Running {
            return;
        }
        let is_current = observed.runs() && observation.desired.accepts(observed.digest.as_deref());
        if is_current {
            self.digest.clone_from(&observed.digest);
        }
        self.database_ready = observed.database == Some(ObservedDatabase::Ready);
        let answered = is_current && self.stages.state(Stage::TerminalReady) == StageState::Done;
        for (stage, done) in [
            (
                Stage::DatabaseReady,
                observation.desired.database.is_none() || self.database_ready,
            ),
            (Stage::ContainerReady, is_current),
            (Stage::NetworkReady, observed.network),
            (Stage::TerminalReady, answered || is_current && observed.terminal),
        ] {
            if done {
                self.stages.set(stage, StageState::Done, None);
            } else if self.stages.state(stage) == StageState::Done {
                self.stages.pending(&[stage]);
            }
        }
        if !is_current {
            self.stages.pending(&[Stage::Ready]);
        }
        if let Some(failure) = &observation.database_failure {
            self.stages.failed(StepKind::EnsureDatabase, &failure.message);
        }
    }

    /// Reports what went missing, before it is created again.
    async fn report_losses(&mut self, observation: &Observation) -> Result<(), Interruption> {
        self.restarted |= observation.has_ended();
        let found = plan::repairs(&observation.desired, &observation.observed);
        if !found.is_empty() {
            let mut message = format!(
                "The sandbox differed from its desired state: {}.",
                found.join("; ")
            );
            if let Some(reported) = observation
                .reported
                .as_ref()
                .filter(|_| !observation.observed.runs())
            {
                message.push_str(" The data plane reported: ");
                message.push_str(reported.message.trim_end_matches('.'));
                message.push('.');
            }
            message.push_str(" It is being repaired.");
            tracing::warn!(sandbox = %self.claim.sandbox.resource, ?found, "repairing a sandbox");
            self.shared.metrics.repaired();
            let data = json!({"found": found, "reported": observation.reported});
            self.pending_events
                .push(PendingEvent::new(EventKind::Repaired, message, data));
        }
        let existed = self
            .claim
            .database
            .as_ref()
            .is_some_and(|claimed| claimed.ever_ready);
        if existed
            && observation.observed.database == Some(ObservedDatabase::Absent)
            && let Some(database) = &observation.desired.database
        {
            let name = database.role();
            let pending_event = PendingEvent::new(
                EventKind::DatabaseLost,
                format!(
                    "The database {name} is gone with all of its content. A new, empty one is being \
                     created; restore the content from a backup, if there is one."
                ),
                json!({"name": name}),
            );
            if observed::report_lost_database(&self.shared.core.store, self.claim, pending_event).await? {
                tracing::error!(project = %self.claim.project.id, database = name, "a project's database is lost");
            }
        }
        Ok(())
    }

    /// Executes `steps`, and writes the progress meanwhile.
    async fn execute(
        &mut self,
        region: &Region,
        observation: &Observation,
        steps: Vec<ReadyStep>,
    ) -> Result<(), Interruption> {
        let (shared, claim) = (self.shared, self.claim);
        let ready = Mutex::new(None);
        let mut image = ImageWatch::of(&steps);
        let steps = steps
            .into_iter()
            .map(|step| (step.kind(), apply(shared, claim, region, &ready, step).boxed()))
            .collect();
        let mut execution = Execution::new(steps, region.databases.predictable_credentials());
        let mut write_at: Option<Instant> = None;
        let mut writing: Option<BoxFuture<'_, ProgressWrite>> = None;
        loop {
            let due = write_at.filter(|_| writing.is_none());
            tokio::select! {
                biased;
                written = finished(&mut writing) => {
                    writing = None;
                    self.progress_written(written)?;
                }
                progress = execution.next() => {
                    let Some(progress) = progress else { break };
                    let failed = matches!(progress, StepProgress::Failed(..));
                    self.step_progressed(progress, observation);
                    let at = Instant::now() + if failed { Duration::ZERO } else { WRITE_DELAY };
                    write_at = Some(write_at.map_or(at, |earlier| earlier.min(at)));
                },
                progress = image.next(region) => {
                    self.stages.image(progress);
                    write_at = Some(Instant::now());
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    write_at = None;
                    writing = Some(self.write_progress());
                }
            }
        }
        drop(execution);
        if let Some(writing) = writing {
            self.progress_written(writing.await)?;
        }
        if let Some((status, changes)) = ready.into_inner() {
            self.status = Some(watch::bounded(status.clone()));
            self.watch = Some(stream::once(async { Ok(status) }).chain(changes).boxed());
        }
        Ok(())
    }

    fn step_progressed(&mut self, progress: StepProgress, observation: &Observation) {
        match progress {
            StepProgress::Began(kind) => self.stages.began(kind),
            StepProgress::Done(kind) => {
                self.stages.done(kind);
                match kind {
                    StepKind::EnsureDatabase => self.database_created(observation),
                    StepKind::EnsureContainer => {
                        self.started = true;
                        self.digest = observation.desired.spec.as_ref().map(|spec| spec.digest.clone());
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
            StepProgress::Failed(kind, error) => {
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

    fn database_created(&mut self, observation: &Observation) {
        self.database_ready = true;
        let (Some(claimed), Some(database)) = (&self.claim.database, &observation.desired.database) else {
            return;
        };
        let name = database.role();
        let was_lost = claimed.row.status == DatabaseStatus::Lost
            || claimed.ever_ready && observation.observed.database == Some(ObservedDatabase::Absent);
        let (kind, message) = if was_lost {
            (
                EventKind::DatabaseCreated,
                format!("A new, empty database {name} was created to replace the lost one."),
            )
        } else if claimed.ever_ready {
            (
                EventKind::Repaired,
                format!("The database {name} accepts connections again."),
            )
        } else {
            (
                EventKind::DatabaseCreated,
                format!("The database {name} was created."),
            )
        };
        self.pending_events
            .push(PendingEvent::new(kind, message, json!({"name": name})));
    }

    /// A future that writes every change so far, to run beside the steps.
    fn write_progress(&mut self) -> BoxFuture<'a, ProgressWrite> {
        let (shared, claim) = (self.shared, self.claim);
        let phase = self.phase(false, self.failure.is_some() || claim.sandbox.failure.is_some());
        let pending_events = self.take_events(phase);
        let (container, conditions) = (self.container, self.stages.all().to_vec());
        let (failure, database_ready) = (self.failure.clone(), self.database_ready);
        let attempts = claim
            .sandbox
            .attempts
            .saturating_add(i32::from(failure.is_some()));
        async move {
            let progress = AttemptProgress {
                container,
                conditions: &conditions,
                failure: failure.as_ref(),
                attempts,
                phase,
                database_ready,
            };
            let unwritten = pending_events.clone();
            observed::write_progress(&shared.core.store, claim, progress, pending_events)
                .await
                .map_err(|error| (error, unwritten))
        }
        .boxed()
    }

    /// Handles the result of an interim write. On a database error the steps go on: the last write has everything.
    fn progress_written(&mut self, written: ProgressWrite) -> Result<(), Interruption> {
        match written {
            Ok(true) => Ok(()),
            Ok(false) => Err(Interruption::Superseded),
            Err((error, mut unwritten)) => {
                tracing::warn!(sandbox = %self.claim.sandbox.resource, %error, "progress was not stored");
                unwritten.append(&mut self.pending_events);
                self.pending_events = unwritten;
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
            restoring: row.restore.is_some(),
            failed,
        };
        Phase::compute(row.desired_state, row.generation, settled)
    }

    /// Adds an event to the next write.
    pub fn add_event(&mut self, pending_event: PendingEvent) {
        self.pending_events.push(pending_event);
    }

    /// The events since the last call; a change of the phase comes last.
    pub fn take_events(&mut self, phase: Phase) -> Vec<PendingEvent> {
        let mut pending_events = std::mem::take(&mut self.pending_events);
        pending_events.extend(self.stages.take_changes());
        if self.notified_phase != Some(phase) {
            let before = self.notified_phase.replace(phase);
            pending_events.push(PendingEvent::new(
                EventKind::PhaseChanged,
                format!("The sandbox is {}.", crate::store::enum_text(&phase)),
                json!({"phase": phase, "before": before}),
            ));
        }
        pending_events
    }

    /// After a failure, nothing is assumed: the observed state is what gets written.
    async fn observe_after_failure(&mut self, region: &Region) {
        let reference = self.claim.sandbox.reference();
        let observation = tokio::time::timeout(observe::TIMEOUT, region.driver.observe(&reference));
        if let Ok(Ok(observed)) = observation.await {
            let usable = self.stages.state(Stage::TerminalReady) == StageState::Done;
            self.container = match observed.container {
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
