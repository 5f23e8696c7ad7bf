//! Readiness evaluation: whether a sandbox whose steps all succeeded is in its desired state.

use fsa_driver::Region;
use fsa_model::{ContainerState, DesiredState, Failure, FailureKind, Stage, StageState};

use super::{
    attempt::{Attempt, Verdict},
    observe::Observation,
    plan::Digested,
    repository::{self, CloneVerdict},
};

impl Attempt<'_> {
    /// Evaluates the result, and sets the stages that no step sets.
    pub(super) async fn evaluate(&mut self, region: &Region, observation: &Observation) -> Verdict {
        match observation.desired.state {
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
                self.evaluate_repository(region, observation).await
            }
        }
    }

    async fn evaluate_repository(&mut self, region: &Region, observation: &Observation) -> Verdict {
        let id = self.claim.sandbox.id;
        let status = self.status.clone().or_else(|| self.shared.followers.status(id));
        let state = status.map(|status| status.repository).unwrap_or_default();
        let expected = self.claim.project.repository.is_some();
        match repository::evaluate(&state, expected, self.stages.state(Stage::Ready)) {
            CloneVerdict::Done => {
                self.stages.set(Stage::Ready, StageState::Done, None);
                Verdict::Reached
            }
            CloneVerdict::Wait => {
                let message = Some("The repository is being cloned.".to_owned());
                self.stages.set(Stage::Ready, StageState::Active, message);
                Verdict::Waiting
            }
            CloneVerdict::Failed(why) => {
                let message = format!("The repository could not be cloned: {why}");
                self.stages
                    .set(Stage::Ready, StageState::Failed, Some(message.clone()));
                Verdict::Failed(Failure::new(FailureKind::Input, message))
            }
            CloneVerdict::Retry => {
                if let Some(Digested { spec, .. }) = &observation.desired.spec
                    && let Err(error) = repository::retry(region, spec).await
                {
                    return Verdict::Failed(error.failure);
                }
                let message = Some("The repository is being cloned again.".to_owned());
                self.stages.set(Stage::Ready, StageState::Active, message);
                Verdict::Waiting
            }
        }
    }
}
