//! The phase of a sandbox: computed from what is wanted and what was observed, never assigned.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What somebody wishes of a sandbox. Only people (through the API) change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
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
    pub fn compute(wanted: Wanted, generation: i64, settled: Settled) -> Self {
        if settled.failed {
            return Self::Error;
        }
        let reached = settled.generation == generation;
        match (wanted, settled.container) {
            (Wanted::Running, ContainerState::Running) if reached => Self::Running,
            (Wanted::Running, ContainerState::Running) if settled.generation > 0 => Self::Updating,
            (Wanted::Running, _) if settled.generation == 0 => Self::Creating,
            (Wanted::Running, _) => Self::Starting,
            (Wanted::Stopped, ContainerState::Stopped | ContainerState::Absent) if reached => Self::Stopped,
            (Wanted::Stopped, _) => Self::Stopping,
            (Wanted::Terminated, ContainerState::Absent) if reached => Self::Terminated,
            (Wanted::Terminated, _) => Self::Terminating,
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

    fn phase(wanted: Wanted, generation: i64, settled: i64, container: ContainerState) -> Phase {
        Phase::compute(
            wanted,
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
        for (wanted, generation, settled, container, expected) in [
            (Wanted::Running, 1, 0, C::Absent, Phase::Creating),
            (Wanted::Running, 1, 0, C::Starting, Phase::Creating),
            (Wanted::Running, 1, 1, C::Running, Phase::Running),
            (Wanted::Running, 2, 1, C::Running, Phase::Updating),
            (Wanted::Running, 2, 1, C::Stopped, Phase::Starting),
            (Wanted::Running, 1, 1, C::Stopped, Phase::Starting),
            (Wanted::Stopped, 2, 1, C::Running, Phase::Stopping),
            (Wanted::Stopped, 2, 2, C::Stopped, Phase::Stopped),
            (Wanted::Stopped, 1, 1, C::Absent, Phase::Stopped),
            (Wanted::Terminated, 3, 2, C::Running, Phase::Terminating),
            (Wanted::Terminated, 3, 3, C::Absent, Phase::Terminated),
        ] {
            assert_eq!(
                phase(wanted, generation, settled, container),
                expected,
                "{wanted:?} {generation} {settled} {container:?}"
            );
        }
    }

    #[test]
    fn a_failed_attempt_is_an_error_whatever_was_wished() {
        for wanted in [Wanted::Running, Wanted::Stopped, Wanted::Terminated] {
            let settled = Settled {
                generation: 1,
                container: ContainerState::Running,
                failed: true,
            };
            assert_eq!(Phase::compute(wanted, 2, settled), Phase::Error);
        }
    }
}
