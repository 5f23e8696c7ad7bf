//! Repository clone evaluation: how the state of a project's clone affects its sandbox.
//!
//! sandboxd clones before the start command runs. The sandbox is not ready until the clone is present, and a failed
//! clone is never shown as success. The terminal works throughout, so that a person can inspect the failure.

use fsa_driver::Region;
use fsa_model::{SandboxSpec, StageState, sandboxd::RepositoryState};
use fsa_sandboxd_client::{Error, SandboxdClient};

/// What to do for a state of the clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloneOutcome {
    /// There is no clone to wait for.
    Done,
    Wait,
    /// The clone failed, and the failure is not reported yet.
    Failed(String),
    /// The clone failed, the failure is reported, and a retry is due.
    Retry,
}

/// Evaluates `state`. `expected` says whether the project has a repository; `reported` is the state of the stage
/// `Ready` in the row.
#[must_use]
pub fn evaluate(state: &RepositoryState, expected: bool, reported: StageState) -> CloneOutcome {
    match state {
        // The clone has not begun yet, because sandboxd has just started.
        RepositoryState::None if expected => CloneOutcome::Wait,
        RepositoryState::None | RepositoryState::Cloned => CloneOutcome::Done,
        RepositoryState::Cloning => CloneOutcome::Wait,
        RepositoryState::Failed { .. } if reported == StageState::Failed => CloneOutcome::Retry,
        RepositoryState::Failed { message } => CloneOutcome::Failed(message.clone()),
    }
}

/// Requests that sandboxd retry the clone. An error response means that the clone is in progress or present already,
/// which its status will show.
///
/// # Errors
/// sandboxd cannot be reached.
pub async fn retry(region: &Region, spec: &SandboxSpec) -> fsa_driver::Result<()> {
    let sandboxd = SandboxdClient::new(&*region.driver, &spec.sandbox, &spec.control_token);
    match sandboxd.clone_repository().await {
        Ok(()) | Err(Error::Refused(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_ready_when_its_repository_is_cloned() {
        let pending = StageState::Pending;
        assert_eq!(
            evaluate(&RepositoryState::None, false, pending),
            CloneOutcome::Done
        );
        assert_eq!(
            evaluate(&RepositoryState::Cloned, true, pending),
            CloneOutcome::Done
        );
        assert_eq!(
            evaluate(&RepositoryState::Cloning, true, pending),
            CloneOutcome::Wait
        );
        assert_eq!(
            evaluate(&RepositoryState::None, true, pending),
            CloneOutcome::Wait,
            "sandboxd has not started the clone yet"
        );
    }

    #[test]
    fn a_failed_clone_is_reported_before_it_is_retried() {
        let failed = RepositoryState::Failed {
            message: "no such repository".into(),
        };
        for reported in [StageState::Pending, StageState::Active, StageState::Done] {
            assert_eq!(
                evaluate(&failed, true, reported),
                CloneOutcome::Failed("no such repository".into())
            );
        }
        assert_eq!(evaluate(&failed, true, StageState::Failed), CloneOutcome::Retry);
    }
}
