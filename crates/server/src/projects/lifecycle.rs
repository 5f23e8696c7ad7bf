//! Lifecycle actions of a sandbox: start, stop, restart, terminate. A pure function decides what an action means for
//! the sandbox's current state; one transaction writes the new desired state.

use chrono::{DateTime, Utc};
use fsa_model::{DesiredState, FailureKind, ResourceName, SandboxId, event::EventKind, limits::Adds};
use http::StatusCode;
use sqlx::PgConnection;
use tokio::time::Instant;

use super::environment::{self, Variables};
use crate::{
    auth::{Caller, permission::Write, secret},
    core::Core,
    error::{Error, Result},
    store::{
        associated_data,
        branches::{self, BranchReference, BranchRow},
        events::{self, NewEvent},
        notify::Topic,
        projects::{self, Overview, ProjectRow},
        quotas,
        sandboxes::{self, NewSandbox, SandboxRow},
    },
};

/// A lifecycle action that a client requests for a branch's sandbox.
#[derive(Debug)]
pub enum LifecycleAction {
    Start,
    /// `POST /api/sandbox/{project}`: creates, starts or restarts the sandbox, and adds variables to those of earlier
    /// requests.
    StartOrRestart(Variables),
    Stop,
    Restart,
    Terminate,
}

/// The effect of a [`LifecycleAction`] on the sandbox in its current state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It is the desired state already.
    Unchanged,
    /// No sandbox exists, or it was terminated: create one.
    Create,
    Update {
        desired_state: DesiredState,
        restart: bool,
    },
    /// The action does not apply in this state.
    Refuse(&'static str),
}

/// The state that a decision depends on.
#[derive(Clone, Copy, Debug)]
struct CurrentState {
    desired_state: DesiredState,
    /// The newest generation was reached.
    reached: bool,
    failed: bool,
}

impl CurrentState {
    fn of(row: &SandboxRow) -> Self {
        Self {
            desired_state: row.desired_state,
            reached: row.observed_generation == row.generation,
            failed: row.failure.is_some(),
        }
    }
}

/// Pure. An action that is repeated after a failure is retried at once, as a new generation.
fn decide(action: &LifecycleAction, changes: bool, now: Option<CurrentState>) -> Decision {
    let update = |desired_state, restart| Decision::Update {
        desired_state,
        restart,
    };
    let now = now.filter(|now| now.desired_state != DesiredState::Terminated);
    match (action, now) {
        (LifecycleAction::Stop | LifecycleAction::Terminate, None) => {
            Decision::Refuse("This branch has no sandbox; it was terminated, or never created.")
        }
        (_, None) => Decision::Create,
        (LifecycleAction::Terminate, Some(_)) => update(DesiredState::Terminated, false),
        (LifecycleAction::Stop, Some(now)) if now.desired_state == DesiredState::Stopped && !now.failed => {
            Decision::Unchanged
        }
        (LifecycleAction::Stop, Some(_)) => update(DesiredState::Stopped, false),
        (LifecycleAction::Start, Some(now)) if now.desired_state == DesiredState::Running && !now.failed => {
            Decision::Unchanged
        }
        (LifecycleAction::Start, Some(_)) => update(DesiredState::Running, false),
        (LifecycleAction::Restart, Some(_)) => update(DesiredState::Running, true),
        (LifecycleAction::StartOrRestart(_), Some(now)) => match (now.desired_state, now.failed, now.reached)
        {
            // The start is in progress. A client that creates a project and then requests its sandbox must not discard
            // that work.
            (DesiredState::Running, false, false) if !changes => Decision::Unchanged,
            (DesiredState::Running, false, true) => update(DesiredState::Running, true),
            _ => update(DesiredState::Running, false),
        },
    }
}

/// Writes the desired state, and returns the branch with its new generation.
///
/// # Errors
/// Not found; 409 where the action does not apply.
pub async fn request(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    action: LifecycleAction,
) -> Result<Overview> {
    let found = branches::find::<Write>(&core.store, caller, reference).await?;
    let mut tx = core.store.begin().await?;
    let project = branches::lock(&mut tx, &found).await?;
    let branch = project.branch();
    let current = sandboxes::of_branch_in(&mut tx, branch.volume).await?;
    let changes = match (&action, &current) {
        (LifecycleAction::StartOrRestart(variables), Some(current))
            if current.desired_state != DesiredState::Terminated =>
        {
            add_variables(core, &mut tx, current.id, variables).await?
        }
        _ => false,
    };
    let runs = |sandbox: &SandboxRow| sandbox.desired_state == DesiredState::Running;
    let was_running = current.as_ref().is_some_and(runs);
    let decision = decide(&action, changes, current.as_ref().map(CurrentState::of));
    let will_run = matches!(
        decision,
        Decision::Create
            | Decision::Update {
                desired_state: DesiredState::Running,
                ..
            }
    );
    let sandbox = match (decision, current) {
        (Decision::Refuse(why), _) => return Err(Error::conflict(why).with_project(project.id)),
        (
            Decision::Update {
                desired_state,
                restart,
            },
            Some(current),
        ) => {
            sandboxes::set_desired_state(&mut tx, current.id, desired_state, restart).await?;
            Some(current.id)
        }
        (Decision::Create, _) => {
            let variables = match &action {
                LifecycleAction::StartOrRestart(variables) => variables.clone(),
                _ => Variables::new(),
            };
            sandboxes::delete_terminated(&mut tx, branch.volume).await?;
            let name = ResourceName::generate(&project.name);
            Some(create_sandbox(core, &mut tx, branch, &name, DesiredState::Running, &variables).await?)
        }
        _ => None,
    };
    if will_run && !was_running {
        let adds = Adds {
            projects: false,
            running: true,
            disk: true,
        };
        quotas::check(&mut tx, &core.settings.limits, project.owner, adds)
            .await
            .map_err(|error| error.with_project(project.id))?;
    }
    if let Some(sandbox) = sandbox {
        events::append(&mut tx, event(&project, &action, caller).of(sandbox)).await?;
        tx.commit().await?;
        core.hub.wake(Topic::DesiredState);
    }
    projects::overview(&core.store, caller, &BranchReference::of(branch)).await
}

/// Inserts a new sandbox of a branch.
///
/// # Errors
/// The database does not answer.
pub(super) async fn create_sandbox(
    core: &Core,
    tx: &mut PgConnection,
    branch: &BranchRow,
    name: &ResourceName,
    desired_state: DesiredState,
    variables: &Variables,
) -> Result<SandboxId> {
    let id = SandboxId::generate();
    let token = core
        .key_ring
        .encrypt(associated_data::control_token(&id.to_string()), &secret::random());
    let variables = environment::encrypt_request(&core.key_ring, id, variables);
    let new = NewSandbox {
        id,
        branch,
        resource: name,
        control_token: &token,
        desired_state,
        request_environment: &variables,
    };
    sandboxes::insert(tx, new).await?;
    Ok(id)
}

/// Adds a request's variables to those of earlier requests. Returns whether that changed anything.
async fn add_variables(
    core: &Core,
    tx: &mut PgConnection,
    sandbox: SandboxId,
    variables: &Variables,
) -> Result<bool> {
    use secrecy::ExposeSecret as _;
    let encrypted = sandboxes::request_environment(tx, sandbox).await?;
    let mut all = environment::decrypt_request(&core.key_ring, sandbox, &encrypted)?;
    let is_unchanged = |(name, value): (&String, &secrecy::SecretString)| {
        all.get(name)
            .is_some_and(|had| had.expose_secret() == value.expose_secret())
    };
    if variables.iter().all(is_unchanged) {
        return Ok(false);
    }
    all.extend(variables.clone());
    super::validate::variables(
        all.iter()
            .map(|(name, value)| (name.as_str(), value.expose_secret())),
    )?;
    let encrypted = environment::encrypt_request(&core.key_ring, sandbox, &all);
    sandboxes::set_request_environment(tx, sandbox, &encrypted).await?;
    Ok(true)
}

fn event(project: &ProjectRow, action: &LifecycleAction, caller: &Caller) -> NewEvent {
    let (name, message) = match action {
        LifecycleAction::Start => ("start", "Asked to start the sandbox."),
        LifecycleAction::StartOrRestart(_) => ("startOrRestart", "Asked to start or restart the sandbox."),
        LifecycleAction::Stop => ("stop", "Asked to stop the sandbox."),
        LifecycleAction::Restart => ("restart", "Asked to restart the sandbox."),
        LifecycleAction::Terminate => (
            "terminate",
            "Asked to terminate the sandbox; files and database stay.",
        ),
    };
    NewEvent::new(project, EventKind::LifecycleRequested, message)
        .with(serde_json::json!({"action": name, "by": caller.login()}))
}

/// The result of waiting for a desired state.
#[derive(Debug)]
pub enum WaitOutcome {
    /// The desired state was reached.
    Settled(Overview),
    /// Not reached yet, or an attempt failed for a reason that waiting does not change.
    Pending(Overview),
    /// The project is gone.
    Gone,
}

impl WaitOutcome {
    /// 200 when reached, 202 when not, 204 when the project is gone.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Settled(_) => StatusCode::OK,
            Self::Pending(_) => StatusCode::ACCEPTED,
            Self::Gone => StatusCode::NO_CONTENT,
        }
    }
}

/// Waits until the branch's sandbox reaches its desired state, at most until `deadline`. Notifications about
/// workers' writes wake it; it does not poll.
///
/// # Errors
/// The database does not answer.
pub async fn wait_until_settled(
    core: &Core,
    caller: &Caller,
    branch: &BranchRow,
    requested_at: DateTime<Utc>,
    deadline: Instant,
) -> Result<WaitOutcome> {
    let (project, reference) = (branch.project, BranchReference::of(branch));
    let mut subscription = core.hub.subscribe(Topic::Project(project));
    loop {
        let overview = match projects::overview(&core.store, caller, &reference).await {
            Ok(overview) => overview,
            Err(error) if error.status() == StatusCode::NOT_FOUND => return Ok(WaitOutcome::Gone),
            Err(error) => return Err(error),
        };
        // A project under deletion is not done before its row is gone.
        let deleting = overview.project.deleted_at.is_some();
        match &overview.sandbox {
            None if !deleting => return Ok(WaitOutcome::Settled(overview)),
            Some(sandbox) if sandbox.phase().is_stable() && !deleting => {
                return Ok(WaitOutcome::Settled(overview));
            }
            Some(sandbox) if needs_user_action(sandbox, requested_at) => {
                return Ok(WaitOutcome::Pending(overview));
            }
            _ => {}
        }
        tokio::select! {
            () = subscription.changed() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(WaitOutcome::Pending(overview)),
            () = core.shutdown.cancelled() => return Ok(WaitOutcome::Pending(overview)),
        }
    }
}

/// Whether the last attempt was made after the action and failed for a reason that only the user can change.
fn needs_user_action(sandbox: &SandboxRow, requested_at: DateTime<Utc>) -> bool {
    sandbox.observed_at.is_some_and(|at| at > requested_at)
        && sandbox
            .failure
            .as_ref()
            .is_some_and(|failure| failure.kind == FailureKind::Input)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTING: CurrentState = CurrentState {
        desired_state: DesiredState::Running,
        reached: false,
        failed: false,
    };
    const RUNNING: CurrentState = CurrentState {
        desired_state: DesiredState::Running,
        reached: true,
        failed: false,
    };
    const FAILED: CurrentState = CurrentState {
        desired_state: DesiredState::Running,
        reached: false,
        failed: true,
    };
    const STOPPED: CurrentState = CurrentState {
        desired_state: DesiredState::Stopped,
        reached: true,
        failed: false,
    };
    const TERMINATED: CurrentState = CurrentState {
        desired_state: DesiredState::Terminated,
        reached: true,
        failed: false,
    };

    fn start_or_restart() -> LifecycleAction {
        LifecycleAction::StartOrRestart(Variables::new())
    }

    #[test]
    fn a_repeated_action_changes_nothing() {
        assert_eq!(
            decide(&LifecycleAction::Start, false, Some(RUNNING)),
            Decision::Unchanged
        );
        assert_eq!(
            decide(&LifecycleAction::Start, false, Some(STARTING)),
            Decision::Unchanged
        );
        assert_eq!(
            decide(&LifecycleAction::Stop, false, Some(STOPPED)),
            Decision::Unchanged
        );
        assert_eq!(
            decide(&start_or_restart(), false, Some(STARTING)),
            Decision::Unchanged
        );
    }

    #[test]
    fn a_repeated_action_after_a_failure_retries() {
        let retry = Decision::Update {
            desired_state: DesiredState::Running,
            restart: false,
        };
        assert_eq!(decide(&LifecycleAction::Start, false, Some(FAILED)), retry);
        assert_eq!(decide(&start_or_restart(), false, Some(FAILED)), retry);
    }

    #[test]
    fn a_running_sandbox_restarts_only_on_request() {
        let restart = Decision::Update {
            desired_state: DesiredState::Running,
            restart: true,
        };
        assert_eq!(decide(&LifecycleAction::Restart, false, Some(RUNNING)), restart);
        assert_eq!(decide(&start_or_restart(), false, Some(RUNNING)), restart);
        assert_eq!(
            decide(&start_or_restart(), true, Some(STARTING)),
            Decision::Update {
                desired_state: DesiredState::Running,
                restart: false
            }
        );
    }

    #[test]
    fn a_terminated_sandbox_is_recreated_and_cannot_be_stopped() {
        for now in [None, Some(TERMINATED)] {
            for action in [
                LifecycleAction::Start,
                LifecycleAction::Restart,
                start_or_restart(),
            ] {
                assert_eq!(decide(&action, false, now), Decision::Create, "{action:?}");
            }
            for action in [LifecycleAction::Stop, LifecycleAction::Terminate] {
                assert!(
                    matches!(decide(&action, false, now), Decision::Refuse(_)),
                    "{action:?}"
                );
            }
        }
    }
}
