//! What the clone of a project's repository means for its sandbox.
//!
//! sandboxd clones before the start command runs. Until the clone is there the sandbox is not
//! ready, and a clone that failed is never shown as success; the terminal works all the while, so
//! that a person can look.

use fsa_driver::Region;
use fsa_model::{SandboxSpec, StageState, sandboxd::RepositoryState};
use fsa_sandboxd_client::{Error, SandboxdClient};

/// What follows from the state of the clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clone {
    /// There is none to wait for.
    Done,
    Wait,
    /// It failed, which was not told yet.
    Failed(String),
    /// It failed, was told, and is due to be tried again.
    Retry,
}

/// Judges `state`. `expected` says that the project has a repository; `told` is how the stage
/// `Ready` stands in the row.
#[must_use]
pub fn judge(state: &RepositoryState, expected: bool, told: StageState) -> Clone {
    match state {
        // Not begun yet, at the very start of sandboxd.
        RepositoryState::None if expected => Clone::Wait,
        RepositoryState::None | RepositoryState::Cloned => Clone::Done,
        RepositoryState::Cloning => Clone::Wait,
        RepositoryState::Failed { .. } if told == StageState::Failed => Clone::Retry,
        RepositoryState::Failed { message } => Clone::Failed(message.clone()),
    }
}

/// Asks sandboxd to try the clone again. That it refuses means that the clone is under way or
/// there by now, which its status will tell.
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
