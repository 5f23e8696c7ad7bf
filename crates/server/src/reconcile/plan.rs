//! What is to be done, from what is wanted and what was observed. Pure: it decides, others act.
//!
//! A plan may be a part of the way: where something has to be looked at again first, it ends
//! there, and the next round plans on.

use fsa_driver::{ObservedDatabase, Step, StepKind};
use fsa_model::{ContainerState, DesiredState};

/// What is wanted of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedState {
    pub wish: DesiredState,
    /// Whether this very wish (this generation) was reached before, so that what is missing now
    /// went missing.
    pub reached: bool,
    /// The digest of its spec; `None` while the spec cannot be made, because the credentials of
    /// its database are not known before the database is there.
    pub digest: Option<String>,
    /// The digest that it was started with, where no newer wish was made since. A container that
    /// carries it is right even if a default of the server has changed: nobody wished a restart.
    pub started_with: Option<String>,
    /// Whether the project has a database.
    pub database: bool,
    /// Its terminal was waited for in vain, several times, since it was last started.
    pub stuck: bool,
}

/// What was observed of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedState {
    pub container: ContainerState,
    pub digest: Option<String>,
    pub network: bool,
    pub volume: bool,
    /// `None` where it could not be told.
    pub database: Option<ObservedDatabase>,
    /// sandboxd is known to answer at this moment.
    pub terminal: bool,
}

impl ObservedState {
    /// Whether there are processes.
    #[must_use]
    pub const fn runs(&self) -> bool {
        matches!(self.container, ContainerState::Starting | ContainerState::Running)
    }
}

impl WantedState {
    /// Whether a container that was started with `digest` is as it is wanted.
    #[must_use]
    pub fn accepts(&self, digest: Option<&str>) -> bool {
        digest.is_some() && (digest == self.digest.as_deref() || digest == self.started_with.as_deref())
    }
}

/// The steps to take now. None are left when the wish is reached.
///
/// A volume or a database is never removed by it: those outlive every sandbox
/// ([`removal`] is for a project that goes).
#[must_use]
pub fn plan(desired_state: &WantedState, observed: &ObservedState) -> Vec<Step> {
    match desired_state.wish {
        DesiredState::Running => to_run(desired_state, observed),
        DesiredState::Stopped => {
            // Of a wish that is new, what was seen may be about to change: a start that this wish
            // interrupted could still be under way in the data plane. To stop ends that too.
            if observed.runs() {
                vec![Step::new(StepKind::StopContainer, "it is desired_state stopped")]
            } else if !desired_state.reached {
                vec![Step::new(
                    StepKind::StopContainer,
                    "nothing of it may start any more",
                )]
            } else {
                Vec::new()
            }
        }
        DesiredState::Terminated => {
            // The same; and what is left over need not be visible in what was observed.
            let gone = observed.container == ContainerState::Absent && !observed.network;
            if gone && desired_state.reached {
                Vec::new()
            } else {
                vec![Step::new(StepKind::Destroy, "it is not desired_state any more")]
            }
        }
    }
}

fn to_run(desired_state: &WantedState, observed: &ObservedState) -> Vec<Step> {
    let mut steps = Vec::new();
    if desired_state.database {
        match observed.database {
            Some(ObservedDatabase::Absent) => {
                steps.push(Step::new(StepKind::EnsureDatabase, "there is no database"));
            }
            Some(ObservedDatabase::Partial) => {
                steps.push(Step::new(StepKind::EnsureDatabase, "the database is not ready"));
            }
            Some(ObservedDatabase::Ready) | None => {}
        }
    }
    if desired_state.digest.is_none() {
        // What runs is left alone until it is known how it should run.
        if !observed.network {
            steps.push(Step::new(StepKind::EnsureNetwork, "there is no network"));
        }
        return steps;
    }
    let right = desired_state.accepts(observed.digest.as_deref());
    if observed.runs() && right && desired_state.stuck {
        // By itself, and looked at before it is started again: to stop may take the network away.
        return vec![Step::new(StepKind::StopContainer, "its terminal never answered")];
    }
    if observed.runs() && right {
        if !observed.network {
            steps.push(Step::new(StepKind::EnsureNetwork, "its network is gone"));
        }
        if !observed.terminal || observed.container == ContainerState::Starting {
            steps.push(Step::new(
                StepKind::AwaitTerminal,
                "its terminal may not answer yet",
            ));
        }
        return steps;
    }
    let reason = match observed.container {
        ContainerState::Absent => "there is no container",
        ContainerState::Stopped => "it does not run",
        ContainerState::Starting | ContainerState::Running => "it was started with other settings",
    };
    for kind in [
        StepKind::EnsureNetwork,
        StepKind::EnsureContainer,
        StepKind::AwaitTerminal,
    ] {
        steps.push(Step::new(kind, reason));
    }
    steps
}

/// Whether a plan is only a part of the way, so that after it one has to look and plan again.
#[must_use]
pub fn is_partial(desired_state: &WantedState, steps: &[Step]) -> bool {
    desired_state.wish == DesiredState::Running
        && (desired_state.digest.is_none() || steps.iter().any(|step| step.kind == StepKind::StopContainer))
}

/// The steps that remove what is left of a project when all its sandboxes are gone.
#[must_use]
pub fn removal(database: bool) -> Vec<Step> {
    let reason = "the project was deleted";
    let mut steps = vec![Step::new(StepKind::RemoveVolume, reason)];
    if database {
        steps.push(Step::new(StepKind::DropDatabase, reason));
    }
    steps
}

/// What had gone missing or was different, in words, of a sandbox whose wish had been reached.
/// Losing the database is not among it: that has an event of its own.
#[must_use]
pub fn repairs(desired_state: &WantedState, observed: &ObservedState) -> Vec<&'static str> {
    let mut found = Vec::new();
    if !desired_state.reached || desired_state.wish != DesiredState::Running {
        return found;
    }
    match observed.container {
        ContainerState::Absent => found.push("its container was gone"),
        ContainerState::Stopped => found.push("its container had ended"),
        ContainerState::Starting | ContainerState::Running => {
            if desired_state.digest.is_some() && !desired_state.accepts(observed.digest.as_deref()) {
                found.push("its container had been replaced by a different one");
            } else if !observed.network {
                found.push("its network was gone");
            }
        }
    }
    if !observed.volume {
        found.push("its home folder was gone, with the files in it");
    }
    if desired_state.database && observed.database == Some(ObservedDatabase::Partial) {
        found.push("its database did not take connections");
    }
    found
}

#[cfg(test)]
mod tests;
