//! Phase of a sandbox: computed from the desired and the observed state, never assigned.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Desired state of a sandbox. Only lifecycle actions (through the API) change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DesiredState {
    Running,
    Stopped,
    Terminated,
}

/// Observed state of a sandbox's container. Only the reconciler writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// It does not exist.
    #[default]
    Absent,
    /// Its files exist; it has no process.
    Stopped,
    /// It has processes, and is not ready yet.
    Starting,
    Running,
}

/// Phase of a sandbox in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Phase {
    Creating,
    Starting,
    Running,
    Updating,
    Stopping,
    Stopped,
    Terminating,
    Terminated,
    Error,
}

/// Observed columns of a sandbox's row that [`Phase::compute`] needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObservedStatus {
    /// Newest generation whose desired state was reached; 0 before the first.
    pub generation: i64,
    pub container: ContainerState,
    /// A snapshot is being restored.
    pub restoring: bool,
    /// The last attempt failed. It is retried: an error is a phase, not an end.
    pub failed: bool,
}

impl Phase {
    /// The phase for the desired state of `generation` and the observed status.
    #[must_use]
    pub fn compute(desired_state: DesiredState, generation: i64, observed: ObservedStatus) -> Self {
        if observed.failed {
            return Self::Error;
        }
        if observed.restoring && desired_state != DesiredState::Terminated {
            return Self::Updating;
        }
        let reached = observed.generation == generation;
        match (desired_state, observed.container) {
            (DesiredState::Running, ContainerState::Running) if reached => Self::Running,
            (DesiredState::Running, ContainerState::Running) if observed.generation > 0 => Self::Updating,
            (DesiredState::Running, _) if observed.generation == 0 => Self::Creating,
            (DesiredState::Running, _) => Self::Starting,
            (DesiredState::Stopped, ContainerState::Stopped | ContainerState::Absent) if reached => {
                Self::Stopped
            }
            (DesiredState::Stopped, _) => Self::Stopping,
            (DesiredState::Terminated, ContainerState::Absent) if reached => Self::Terminated,
            (DesiredState::Terminated, _) => Self::Terminating,
        }
    }

    /// Whether the desired state is reached, so that the phase stays until the next change.
    #[must_use]
    pub const fn is_stable(self) -> bool {
        matches!(self, Self::Running | Self::Stopped | Self::Terminated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(
        desired_state: DesiredState,
        generation: i64,
        observed: i64,
        container: ContainerState,
    ) -> Phase {
        Phase::compute(
            desired_state,
            generation,
            ObservedStatus {
                generation: observed,
                container,
                ..ObservedStatus::default()
            },
        )
    }

    #[test]
    fn the_phase_follows_from_desired_and_observed_state() {
        use ContainerState as C;
        for (desired_state, generation, observed, container, expected) in [
            (DesiredState::Running, 1, 0, C::Absent, Phase::Creating),
            (DesiredState::Running, 1, 0, C::Starting, Phase::Creating),
            (DesiredState::Running, 1, 1, C::Running, Phase::Running),
            (DesiredState::Running, 2, 1, C::Running, Phase::Updating),
            (DesiredState::Running, 2, 1, C::Stopped, Phase::Starting),
            (DesiredState::Running, 1, 1, C::Stopped, Phase::Starting),
            (DesiredState::Stopped, 2, 1, C::Running, Phase::Stopping),
            (DesiredState::Stopped, 2, 2, C::Stopped, Phase::Stopped),
            (DesiredState::Stopped, 1, 1, C::Absent, Phase::Stopped),
            (DesiredState::Terminated, 3, 2, C::Running, Phase::Terminating),
            (DesiredState::Terminated, 3, 3, C::Absent, Phase::Terminated),
        ] {
            assert_eq!(
                phase(desired_state, generation, observed, container),
                expected,
                "{desired_state:?} {generation} {observed} {container:?}"
            );
        }
    }

    #[test]
    fn a_restore_is_an_update_until_it_is_done_or_the_sandbox_is_terminated() {
        for (desired_state, expected) in [
            (DesiredState::Running, Phase::Updating),
            (DesiredState::Stopped, Phase::Updating),
            (DesiredState::Terminated, Phase::Terminating),
        ] {
            let observed = ObservedStatus {
                generation: 1,
                container: ContainerState::Stopped,
                restoring: true,
                ..ObservedStatus::default()
            };
            assert_eq!(Phase::compute(desired_state, 2, observed), expected);
        }
    }

    #[test]
    fn a_failed_attempt_is_an_error_whatever_the_desired_state() {
        for desired_state in [
            DesiredState::Running,
            DesiredState::Stopped,
            DesiredState::Terminated,
        ] {
            let observed = ObservedStatus {
                generation: 1,
                container: ContainerState::Running,
                failed: true,
                restoring: true,
            };
            assert_eq!(Phase::compute(desired_state, 2, observed), Phase::Error);
        }
    }
}
