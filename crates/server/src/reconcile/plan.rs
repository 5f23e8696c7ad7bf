//! Planner: the steps from the observed to the desired state of a sandbox. Pure: it decides, others apply.
//!
//! A plan may be partial: where the state must be observed again first, the plan ends, and the next round plans the
//! rest.

use fsa_driver::ObservedDatabase;
use fsa_model::{ContainerState, DesiredState};

use super::step::{Action, Step};

/// The desired state of a sandbox, with what its steps need: `S` is the sandbox's spec, and `D` the database's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired<S, D> {
    pub state: DesiredState,
    /// Whether this generation was reached before, so that anything missing now went missing later.
    pub reached: bool,
    /// `None` while the spec cannot be built, because the credentials of its database are not known until the
    /// database exists.
    pub spec: Option<Digested<S>>,
    /// The digest that the container was started with, if the desired state has not changed since. A container with
    /// this digest is accepted even if a default of the server has changed: such a change requests no restart.
    pub started_with: Option<String>,
    /// The database's spec, where the project has a database.
    pub database: Option<D>,
    /// The terminal has not answered in several attempts since the last start.
    pub stuck: bool,
}

/// A spec and its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digested<S> {
    pub spec: S,
    pub digest: String,
}

/// The observed state of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedState {
    pub container: ContainerState,
    pub digest: Option<String>,
    pub network: bool,
    pub volume: bool,
    /// `None` where it could not be observed.
    pub database: Option<ObservedDatabase>,
    /// Whether sandboxd answers at this moment.
    pub terminal: bool,
}

impl ObservedState {
    /// Whether there are processes.
    #[must_use]
    pub const fn runs(&self) -> bool {
        matches!(self.container, ContainerState::Starting | ContainerState::Running)
    }
}

impl<S, D> Desired<S, D> {
    /// Whether a container that was started with `digest` matches the desired state.
    #[must_use]
    pub fn accepts(&self, digest: Option<&str>) -> bool {
        let expected = self.spec.as_ref().map(|spec| spec.digest.as_str());
        digest.is_some() && (digest == expected || digest == self.started_with.as_deref())
    }
}

/// The steps to take now. The plan is empty when the desired state is reached.
///
/// A plan never removes a volume or a database: those outlive every sandbox, until the project is deleted
/// ([`super::removal`]).
#[must_use]
pub fn plan<S: Clone, D: Clone>(desired: &Desired<S, D>, observed: &ObservedState) -> Vec<Step<S, D>> {
    match desired.state {
        DesiredState::Running => plan_running(desired, observed),
        DesiredState::Stopped => {
            // For a new generation, the observed state may be about to change: an interrupted start could still be in
            // flight in the data plane. A stop ends that too.
            if observed.runs() {
                vec![Step::new(Action::StopContainer, "its desired state is stopped")]
            } else if !desired.reached {
                vec![Step::new(Action::StopContainer, "a start may still be in flight")]
            } else {
                Vec::new()
            }
        }
        DesiredState::Terminated => {
            // A start may be in flight here too; and leftovers need not be visible in the observed state.
            let gone = observed.container == ContainerState::Absent && !observed.network;
            if gone && desired.reached {
                Vec::new()
            } else {
                vec![Step::new(Action::Destroy, "its desired state is terminated")]
            }
        }
    }
}

fn plan_running<S: Clone, D: Clone>(desired: &Desired<S, D>, observed: &ObservedState) -> Vec<Step<S, D>> {
    let mut steps = Vec::new();
    if let Some(database) = &desired.database {
        let ensure = |reason| Step::new(Action::EnsureDatabase(database.clone()), reason);
        match observed.database {
            Some(ObservedDatabase::Absent) => steps.push(ensure("there is no database")),
            Some(ObservedDatabase::Partial) => steps.push(ensure("the database is not ready")),
            Some(ObservedDatabase::Ready) | None => {}
        }
    }
    let Some(Digested { spec, .. }) = &desired.spec else {
        // A running container is left alone until its spec is known.
        return steps;
    };
    let is_current = desired.accepts(observed.digest.as_deref());
    if observed.runs() && is_current && desired.stuck {
        // The only step, so that the state is observed before the next start: a stop may remove the network.
        return vec![Step::new(Action::StopContainer, "its terminal never answered")];
    }
    if observed.runs() && is_current {
        if !observed.network {
            steps.push(Step::new(
                Action::EnsureNetwork(spec.clone()),
                "its network is gone",
            ));
        }
        if !observed.terminal || observed.container == ContainerState::Starting {
            steps.push(Step::new(
                Action::AwaitTerminal(spec.clone()),
                "its terminal may not answer yet",
            ));
        }
        return steps;
    }
    let reason = match observed.container {
        ContainerState::Absent => "there is no container",
        ContainerState::Stopped => "it does not run",
        ContainerState::Starting | ContainerState::Running => "its settings differ",
    };
    for action in [
        Action::EnsureNetwork,
        Action::EnsureContainer,
        Action::AwaitTerminal,
    ] {
        steps.push(Step::new(action(spec.clone()), reason));
    }
    steps
}

/// Whether a plan is partial, so that the state must be observed and planned again afterwards.
#[must_use]
pub fn is_partial<S, D>(desired: &Desired<S, D>, steps: &[Step<S, D>]) -> bool {
    let stops = |step: &Step<S, D>| matches!(step.action, Action::StopContainer);
    desired.state == DesiredState::Running && (desired.spec.is_none() || steps.iter().any(stops))
}

/// Sentences for what was missing or different in a sandbox whose desired state had been reached.
/// A lost database is not included: it has a separate event.
#[must_use]
pub fn repairs<S, D>(desired: &Desired<S, D>, observed: &ObservedState) -> Vec<&'static str> {
    let mut found = Vec::new();
    if !desired.reached || desired.state != DesiredState::Running {
        return found;
    }
    match observed.container {
        ContainerState::Absent => found.push("its container was gone"),
        ContainerState::Stopped => found.push("its container had ended"),
        ContainerState::Starting | ContainerState::Running => {
            if desired.spec.is_some() && !desired.accepts(observed.digest.as_deref()) {
                found.push("its container had been replaced by a different one");
            } else if !observed.network {
                found.push("its network was gone");
            }
        }
    }
    if !observed.volume {
        found.push("its home folder was gone, with the files in it");
    }
    if desired.database.is_some() && observed.database == Some(ObservedDatabase::Partial) {
        found.push("its database did not take connections");
    }
    found
}

#[cfg(test)]
mod tests;
