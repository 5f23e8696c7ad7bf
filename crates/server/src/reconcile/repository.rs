//! Repository clone evaluation: how the state of a project's clone affects its sandbox.
//!
//! sandboxd clones before the start command runs. The sandbox is not ready until the clone is present, and a failed
//! clone is never shown as success. The terminal works throughout, so that a person can inspect the failure.

use fsa_driver::Region;
use fsa_model::{SandboxSpec, StageState, sandboxd::RepositoryState};
use fsa_sandboxd_client::{Error, SandboxdClient};

/// What to do for a state of the clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clone {
    /// There is no clone to wait for.
    Done,
    Wait,
    /// The clone failed, and the failure is not reported yet.
    Failed(String),
    /// The clone failed, the failure is reported, and a retry is due.
    Retry,
}

/// Evaluates `state`. `expected` says whether the project has a repository; `told` is the state of the stage
/// `Ready` in the row.
#[must_use]
pub fn judge(state: &RepositoryState, expected: bool, told: StageState) -> Clone {
    match state {
        // The clone has not begun yet, because sandboxd has just started.
        RepositoryState::None if expected => Clone::Wait,
        RepositoryState::None | RepositoryState::Cloned => Clone::Done,
        RepositoryState::Cloning => Clone::Wait,
        RepositoryState::Failed { .. } if told == StageState::Failed => Clone::Retry,
        RepositoryState::Failed { message } => Clone::Failed(message.clone()),
    }
}

/// Requests that sandboxd retry the clone. A refusal means that the clone is in progress or present already,
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
    fn a_sandbox_is_ready_when_its_repository_is_there() {
        let pending = StageState::Pending;
        assert_eq!(judge(&RepositoryState::None, false, pending), Clone::Done);
        assert_eq!(judge(&RepositoryState::Cloned, true, pending), Clone::Done);
        assert_eq!(judge(&RepositoryState::Cloning, true, pending), Clone::Wait);
        assert_eq!(
            judge(&RepositoryState::None, true, pending),
            Clone::Wait,
            "sandboxd has yet to say that it clones"
        );
    }

    #[test]
    fn a_failed_clone_is_told_first_and_tried_again_later() {
        let failed = RepositoryState::Failed {
            message: "no such repository".into(),
        };
        for told in [StageState::Pending, StageState::Active, StageState::Done] {
            assert_eq!(
                judge(&failed, true, told),
                Clone::Failed("no such repository".into())
            );
        }
        assert_eq!(judge(&failed, true, StageState::Failed), Clone::Retry);
    }
}
