//! Readiness evaluation: whether a sandbox whose steps all succeeded is in its desired state.

use fsa_driver::Region;
use fsa_model::{ContainerState, DesiredState, Failure, FailureKind, Stage, StageState};

use super::{
    attempt::{Attempt, Verdict},
    observe::Look,
    plan::Digested,
    repository::{self, Clone},
};

impl Attempt<'_> {
    /// Evaluates the result, and sets the stages that no step sets.
    pub(super) async fn judge(&mut self, region: &Region, look: &Look) -> Verdict {
        match look.desired.state {
            DesiredState::Stopped => {
                self.stages.pending(&Stage::ALL[1..]);
                Verdict::Reached
            }
            DesiredState::Terminated => {
                self.digest = None;
                self.stages.pending(&Stage::ALL);
                Verdict::Reached
            }
            DesiredState::Running => {
                self.container = ContainerState::Running;
                self.judge_repository(region, look).await
            }
        }
    }

    async fn judge_repository(&mut self, region: &Region, look: &Look) -> Verdict {
        let id = self.claim.sandbox.id;
        let status = self.status.clone().or_else(|| self.shared.followers.status(id));
        let state = status.map(|status| status.repository).unwrap_or_default();
        let expected = self.claim.project.repository.is_some();
        match repository::judge(&state, expected, self.stages.state(Stage::Ready)) {
            Clone::Done => {
                self.stages.set(Stage::Ready, StageState::Done, None);
                Verdict::Reached
            }
            Clone::Wait => {
                let words = Some("The repository is being cloned.".to_owned());
                self.stages.set(Stage::Ready, StageState::Active, words);
                Verdict::Waiting
            }
            Clone::Failed(why) => {
                let words = format!("The repository could not be cloned: {why}");
                self.stages
                    .set(Stage::Ready, StageState::Failed, Some(words.clone()));
                Verdict::Failed(Failure::new(FailureKind::Input, words))
            }
            Clone::Retry => {
                if let Some(Digested { spec, .. }) = &look.desired.spec
                    && let Err(error) = repository::retry(region, spec).await
                {
                    return Verdict::Failed(error.failure);
                }
                let words = Some("The repository is being cloned again.".to_owned());
                self.stages.set(Stage::Ready, StageState::Active, words);
                Verdict::Waiting
            }
        }
    }
}
