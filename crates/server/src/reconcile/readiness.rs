//! Readiness evaluation: whether a sandbox whose steps all succeeded is in its desired state.

use fsa_driver::Region;
use fsa_model::{ContainerState, DesiredState, Failure, FailureKind, Stage, StageState};

use super::{
    attempt::{Attempt, Outcome},
    observe::Observation,
    plan::Digested,
    repository::{self, CloneOutcome},
};

impl Attempt<'_> {
    /// Evaluates the result, and sets the stages that no step sets.
    pub(super) async fn evaluate(&mut self, region: &Region, observation: &Observation) -> Outcome {
        match observation.desired.state {
            DesiredState::Stopped => {
                self.stages.pending(&Stage::ALL[1..]);
                Outcome::Reached
            }
            DesiredState::Terminated => {
                self.digest = None;
                self.stages.pending(&Stage::ALL);
                Outcome::Reached
            }
            DesiredState::Running => {
                self.container = ContainerState::Running;
                self.evaluate_repository(region, observation).await
            }
        }
    }

    async fn evaluate_repository(&mut self, region: &Region, observation: &Observation) -> Outcome {
        let id = self.claim.sandbox.id;
        let status = self.status.clone().or_else(|| self.shared.followers.status(id));
        let state = status.map(|status| status.repository).unwrap_or_default();
        let expected = self.claim.project.repository.is_some();
        match repository::evaluate(&state, expected, self.stages.state(Stage::Ready)) {
            CloneOutcome::Done => {
                self.stages.set(Stage::Ready, StageState::Done, None);
                Outcome::Reached
            }
            CloneOutcome::Wait => {
                let message = Some("The repository is being cloned.".to_owned());
                self.stages.set(Stage::Ready, StageState::Active, message);
                Outcome::Waiting
            }
            CloneOutcome::Failed(why) => {
                let message = format!("The repository could not be cloned: {why}");
                self.stages
                    .set(Stage::Ready, StageState::Failed, Some(message.clone()));
                Outcome::Failed(Failure::new(FailureKind::Input, message))
            }
            CloneOutcome::Retry => {
                if let Some(Digested { spec, .. }) = &observation.desired.spec
                    && let Err(error) = repository::retry(region, spec).await
                {
                    return Outcome::Failed(error.failure);
                }
                let message = Some("The repository is being cloned again.".to_owned());
                self.stages.set(Stage::Ready, StageState::Active, message);
                Outcome::Waiting
            }
        }
    }
}
