//! The phase of a sandbox: computed from what is wanted and what was observed, never assigned.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What somebody wishes of a sandbox. Only people (through the API) change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DesiredState {
    Running,
    Stopped,
    Terminated,
}

/// What was last seen of a sandbox's container. Only the reconciler writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Nothing of it is there.
    #[default]
    Absent,
    /// Its files are there, and no process.
    Stopped,
    /// It has processes, and is not known to be usable yet.
    Starting,
    Running,
}

/// A sandbox's phase as the API says it.
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

/// What [`Phase::compute`] needs of the observed half of a sandbox's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The newest generation whose wish was reached; 0 before the first.
    pub generation: i64,
    pub container: ContainerState,
    /// Whether the last attempt failed. It is tried again: an error is a phase, not an end.
    pub failed: bool,
}

impl Phase {
    /// The phase of a sandbox of which `wanted` is wished in `generation`.
    #[must_use]
    pub fn compute(desired_state: DesiredState, generation: i64, settled: Settled) -> Self {
        if settled.failed {
            return Self::Error;
        }
        let reached = settled.generation == generation;
        match (desired_state, settled.container) {
            (DesiredState::Running, ContainerState::Running) if reached => Self::Running,
            (DesiredState::Running, ContainerState::Running) if settled.generation > 0 => Self::Updating,
            (DesiredState::Running, _) if settled.generation == 0 => Self::Creating,
            (DesiredState::Running, _) => Self::Starting,
            (DesiredState::Stopped, ContainerState::Stopped | ContainerState::Absent) if reached => {
                Self::Stopped
            }
            (DesiredState::Stopped, _) => Self::Stopping,
            (DesiredState::Terminated, ContainerState::Absent) if reached => Self::Terminated,
            (DesiredState::Terminated, _) => Self::Terminating,
        }
    }

    /// Whether the wish is reached, so that nothing more happens by itself.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Running | Self::Stopped | Self::Terminated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(desired_state: DesiredState, generation: i64, settled: i64, container: ContainerState) -> Phase {
        Phase::compute(
            desired_state,
            generation,
            Settled {
                generation: settled,
                container,
                failed: false,
            },
        )
    }

    #[test]
    fn the_phase_follows_from_wish_and_world() {
        use ContainerState as C;
        for (desired_state, generation, settled, container, expected) in [
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
                phase(desired_state, generation, settled, container),
                expected,
                "{desired_state:?} {generation} {settled} {container:?}"
            );
        }
    }

    #[test]
    fn a_failed_attempt_is_an_error_whatever_was_wished() {
        for desired_state in [
            DesiredState::Running,
            DesiredState::Stopped,
            DesiredState::Terminated,
        ] {
            let settled = Settled {
                generation: 1,
                container: ContainerState::Running,
                failed: true,
            };
            assert_eq!(Phase::compute(desired_state, 2, settled), Phase::Error);
        }
    }
}
