//! Lifecycle actions of a sandbox: start, stop, restart, terminate. A pure function decides what an action means for
//! the sandbox's current state; one transaction writes the new desired state.

use chrono::{DateTime, Utc};
use fsa_model::{
    DesiredState, FailureKind, ProjectId, ResourceName, SandboxId, event::EventKind, limits::Adds,
};
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
        events::{self, NewEvent},
        notify::Topic,
        projects::{self, Overview, ProjectRow},
        quotas,
        sandboxes::{self, NewSandbox, SandboxRow},
    },
};

/// A lifecycle action that a client requests for a project's sandbox.
#[derive(Debug)]
pub enum Ask {
    Start,
    /// POST of the seed's API: creates, starts or restarts the sandbox, with variables on top of those of earlier
    /// requests.
    StartOrRestart(Variables),
    Stop,
    Restart,
    Terminate,
}

/// The effect of an [`Ask`] on the sandbox in its current state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It is the desired state already.
    Nothing,
    /// No sandbox exists, or it was terminated: create one.
    Make,
    Wish {
        desired_state: DesiredState,
        anew: bool,
    },
    /// The action does not apply in this state.
    Refuse(&'static str),
}

/// The state that a decision depends on.
#[derive(Clone, Copy, Debug)]
struct Now {
    desired_state: DesiredState,
    /// The newest generation was reached.
    reached: bool,
    failed: bool,
}

impl Now {
    fn of(row: &SandboxRow) -> Self {
        Self {
            desired_state: row.desired_state,
            reached: row.observed_generation == row.generation,
            failed: row.failure.is_some(),
        }
    }
}

/// Pure. An action that is repeated after a failure is retried at once, as a new generation.
fn decide(ask: &Ask, changes: bool, now: Option<Now>) -> Decision {
    let wish = |desired_state, anew| Decision::Wish { desired_state, anew };
    let now = now.filter(|now| now.desired_state != DesiredState::Terminated);
    match (ask, now) {
        (Ask::Stop | Ask::Terminate, None) => {
            Decision::Refuse("This project has no sandbox; it was terminated, or never made.")
        }
        (_, None) => Decision::Make,
        (Ask::Terminate, Some(_)) => wish(DesiredState::Terminated, false),
        (Ask::Stop, Some(now)) if now.desired_state == DesiredState::Stopped && !now.failed => {
            Decision::Nothing
        }
        (Ask::Stop, Some(_)) => wish(DesiredState::Stopped, false),
        (Ask::Start, Some(now)) if now.desired_state == DesiredState::Running && !now.failed => {
            Decision::Nothing
        }
        (Ask::Start, Some(_)) => wish(DesiredState::Running, false),
        (Ask::Restart, Some(_)) => wish(DesiredState::Running, true),
        (Ask::StartOrRestart(_), Some(now)) => match (now.desired_state, now.failed, now.reached) {
            // The start is in progress. A client that creates a project and then requests its sandbox must not discard
            // that work.
            (DesiredState::Running, false, false) if !changes => Decision::Nothing,
            (DesiredState::Running, false, true) => wish(DesiredState::Running, true),
            _ => wish(DesiredState::Running, false),
        },
    }
}

/// Writes the desired state, and returns the project with its new generation.
///
/// # Errors
/// Not found; 409 where the action does not apply.
pub async fn ask(core: &Core, caller: &Caller, project: &str, ask: Ask) -> Result<Overview> {
    let found = projects::find::<Write>(&core.store, caller, project).await?;
    let mut tx = core.store.begin().await?;
    let project = projects::lock(&mut tx, &found).await?;
    let current = sandboxes::main_in(&mut tx, project.id).await?;
    let changes = match (&ask, &current) {
        (Ask::StartOrRestart(variables), Some(current))
            if current.desired_state != DesiredState::Terminated =>
        {
            add_variables(core, &mut tx, current.id, variables).await?
        }
        _ => false,
    };
    let runs = |sandbox: &SandboxRow| sandbox.desired_state == DesiredState::Running;
    let ran = current.as_ref().is_some_and(runs);
    let decision = decide(&ask, changes, current.as_ref().map(Now::of));
    let will_run = matches!(
        decision,
        Decision::Make
            | Decision::Wish {
                desired_state: DesiredState::Running,
                ..
            }
    );
    let sandbox = match (decision, current) {
        (Decision::Refuse(why), _) => return Err(Error::conflict(why).of(project.id)),
        (Decision::Wish { desired_state, anew }, Some(current)) => {
            sandboxes::wish(&mut tx, current.id, desired_state, anew).await?;
            Some(current.id)
        }
        (Decision::Make, _) => {
            let variables = match &ask {
                Ask::StartOrRestart(variables) => variables.clone(),
                _ => Variables::new(),
            };
            sandboxes::forget_gone(&mut tx, project.id).await?;
            let name = ResourceName::generate(&project.name);
            Some(
                make(
                    core,
                    &mut tx,
                    project.id,
                    &name,
                    DesiredState::Running,
                    &variables,
                )
                .await?,
            )
        }
        _ => None,
    };
    if will_run && !ran {
        let adds = Adds {
            projects: false,
            running: true,
            disk: true,
        };
        quotas::check(&mut tx, &core.settings.limits, project.owner, adds)
            .await
            .map_err(|error| error.of(project.id))?;
    }
    if let Some(sandbox) = sandbox {
        events::append(&mut tx, event(&project, &ask, caller).of(sandbox)).await?;
        tx.commit().await?;
        core.hub.wake(Topic::DesiredState);
    }
    projects::overview(&core.store, caller, &project.id.to_string()).await
}

/// Inserts a new main sandbox.
///
/// # Errors
/// The database does not answer.
pub(super) async fn make(
    core: &Core,
    tx: &mut PgConnection,
    project: ProjectId,
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
        project,
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
    let known = |(name, value): (&String, &secrecy::SecretString)| {
        all.get(name)
            .is_some_and(|had| had.expose_secret() == value.expose_secret())
    };
    if variables.iter().all(known) {
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

fn event(project: &ProjectRow, ask: &Ask, caller: &Caller) -> NewEvent {
    let (word, message) = match ask {
        Ask::Start => ("start", "Asked to start the sandbox."),
        Ask::StartOrRestart(_) => (
            "startOrRestart",
            "Asked to start the sandbox, or to start it anew.",
        ),
        Ask::Stop => ("stop", "Asked to stop the sandbox."),
        Ask::Restart => ("restart", "Asked to start the sandbox anew."),
        Ask::Terminate => (
            "terminate",
            "Asked to terminate the sandbox; files and database stay.",
        ),
    };
    NewEvent::new(project, EventKind::LifecycleRequested, message)
        .with(serde_json::json!({"action": word, "by": caller.login()}))
}

/// The result of waiting for a desired state.
#[derive(Debug)]
pub enum Outcome {
    /// The desired state was reached.
    Settled(Overview),
    /// Not reached yet, or an attempt failed for a reason that waiting does not change.
    Pending(Overview),
    /// The project is gone.
    Gone,
}

impl Outcome {
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

/// Waits until the project's main sandbox reaches its desired state, at most until `deadline`. Notifications about
/// workers' writes wake it; it does not poll.
///
/// # Errors
/// The database does not answer.
pub async fn settled(
    core: &Core,
    caller: &Caller,
    project: ProjectId,
    wished_at: DateTime<Utc>,
    deadline: Instant,
) -> Result<Outcome> {
    let id = project.to_string();
    let mut interest = core.hub.interest(Topic::Project(project));
    loop {
        let overview = match projects::overview(&core.store, caller, &id).await {
            Ok(overview) => overview,
            Err(error) if error.status() == StatusCode::NOT_FOUND => return Ok(Outcome::Gone),
            Err(error) => return Err(error),
        };
        // A project under deletion is not done before its row is gone.
        let deleting = overview.project.deleted_at.is_some();
        match &overview.sandbox {
            None if !deleting => return Ok(Outcome::Settled(overview)),
            Some(sandbox) if sandbox.phase().is_stable() && !deleting => {
                return Ok(Outcome::Settled(overview));
            }
            Some(sandbox) if is_hopeless(sandbox, wished_at) => return Ok(Outcome::Pending(overview)),
            _ => {}
        }
        tokio::select! {
            () = interest.changed() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(Outcome::Pending(overview)),
            () = core.shutdown.cancelled() => return Ok(Outcome::Pending(overview)),
        }
    }
}

/// Whether the last attempt was made after the action and failed for a reason that only the user can change.
fn is_hopeless(sandbox: &SandboxRow, wished_at: DateTime<Utc>) -> bool {
    sandbox.observed_at.is_some_and(|at| at > wished_at)
        && sandbox
            .failure
            .as_ref()
            .is_some_and(|failure| failure.kind == FailureKind::Input)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON_ITS_WAY: Now = Now {
        desired_state: DesiredState::Running,
        reached: false,
        failed: false,
    };
    const RUNNING: Now = Now {
        desired_state: DesiredState::Running,
        reached: true,
        failed: false,
    };
    const FAILING: Now = Now {
        desired_state: DesiredState::Running,
        reached: false,
        failed: true,
    };
    const STOPPED: Now = Now {
        desired_state: DesiredState::Stopped,
        reached: true,
        failed: false,
    };
    const TERMINATED: Now = Now {
        desired_state: DesiredState::Terminated,
        reached: true,
        failed: false,
    };

    fn start_or_restart() -> Ask {
        Ask::StartOrRestart(Variables::new())
    }

    #[test]
    fn a_wish_that_stands_changes_nothing() {
        assert_eq!(decide(&Ask::Start, false, Some(RUNNING)), Decision::Nothing);
        assert_eq!(decide(&Ask::Start, false, Some(ON_ITS_WAY)), Decision::Nothing);
        assert_eq!(decide(&Ask::Stop, false, Some(STOPPED)), Decision::Nothing);
        assert_eq!(
            decide(&start_or_restart(), false, Some(ON_ITS_WAY)),
            Decision::Nothing
        );
    }

    #[test]
    fn a_wish_that_failed_is_tried_again_at_once() {
        let again = Decision::Wish {
            desired_state: DesiredState::Running,
            anew: false,
        };
        assert_eq!(decide(&Ask::Start, false, Some(FAILING)), again);
        assert_eq!(decide(&start_or_restart(), false, Some(FAILING)), again);
    }

    #[test]
    fn what_runs_is_started_anew_only_when_that_is_asked() {
        let anew = Decision::Wish {
            desired_state: DesiredState::Running,
            anew: true,
        };
        assert_eq!(decide(&Ask::Restart, false, Some(RUNNING)), anew);
        assert_eq!(decide(&start_or_restart(), false, Some(RUNNING)), anew);
        assert_eq!(
            decide(&start_or_restart(), true, Some(ON_ITS_WAY)),
            Decision::Wish {
                desired_state: DesiredState::Running,
                anew: false
            }
        );
    }

    #[test]
    fn what_was_terminated_is_made_again_and_cannot_be_stopped() {
        for now in [None, Some(TERMINATED)] {
            for ask in [Ask::Start, Ask::Restart, start_or_restart()] {
                assert_eq!(decide(&ask, false, now), Decision::Make, "{ask:?}");
            }
            for ask in [Ask::Stop, Ask::Terminate] {
                assert!(matches!(decide(&ask, false, now), Decision::Refuse(_)), "{ask:?}");
            }
        }
    }
}
