//! Stages of one sandbox (five of them) during an attempt, and the events for their changes.

use chrono::Utc;
use fsa_model::{Condition, Stage, StageState, condition::ImageProgress, event::EventKind};
use serde_json::json;

use super::step::StepKind;
use crate::store::events::PendingEvent;

/// The stage that a step affects.
#[must_use]
pub const fn stage_of(kind: StepKind) -> Option<Stage> {
    match kind {
        StepKind::EnsureDatabase => Some(Stage::DatabaseReady),
        StepKind::EnsureContainer => Some(Stage::ContainerReady),
        StepKind::EnsureNetwork => Some(Stage::NetworkReady),
        StepKind::AwaitTerminal => Some(Stage::TerminalReady),
        StepKind::StopContainer | StepKind::Destroy | StepKind::RemoveVolume | StepKind::DropDatabase => None,
    }
}

/// The current stages, beside their last reported state.
#[derive(Clone, Debug)]
pub struct Stages {
    now: Vec<Condition>,
    reported: Vec<(StageState, Option<String>)>,
}

impl Stages {
    /// The stages of a row, completed to all five, in order.
    #[must_use]
    pub fn new(row: &[Condition]) -> Self {
        let now: Vec<_> = Condition::all_pending(Utc::now())
            .into_iter()
            .map(|fresh| {
                let known = row.iter().find(|known| known.stage == fresh.stage);
                known.cloned().unwrap_or(fresh)
            })
            .collect();
        let reported = now
            .iter()
            .map(|condition| (condition.state, condition.message.clone()))
            .collect();
        Self { now, reported }
    }

    #[must_use]
    pub fn all(&self) -> &[Condition] {
        &self.now
    }

    #[must_use]
    pub fn state(&self, stage: Stage) -> StageState {
        self.now[stage as usize].state
    }

    /// Since when the stage has its state.
    #[must_use]
    pub fn since(&self, stage: Stage) -> chrono::DateTime<Utc> {
        self.now[stage as usize].since
    }

    pub fn set(&mut self, stage: Stage, state: StageState, message: Option<String>) {
        self.now[stage as usize].set(state, message, Utc::now());
    }

    /// A step began. A stage that was done stays done during its verification.
    pub fn began(&mut self, kind: StepKind) {
        if let Some(stage) = stage_of(kind)
            && self.state(stage) != StageState::Done
        {
            self.set(stage, StageState::Active, None);
        }
    }

    /// The container waits for its image.
    pub fn image(&mut self, progress: ImageProgress) {
        if self.state(Stage::ContainerReady) == StageState::Active {
            self.set(
                Stage::ContainerReady,
                StageState::Active,
                Some(progress.message()),
            );
            self.now[Stage::ContainerReady as usize].progress = Some(progress);
        }
    }

    pub fn done(&mut self, kind: StepKind) {
        if let Some(stage) = stage_of(kind) {
            self.set(stage, StageState::Done, None);
        }
    }

    pub fn failed(&mut self, kind: StepKind, message: &str) {
        if let Some(stage) = stage_of(kind) {
            self.set(stage, StageState::Failed, Some(message.to_owned()));
        }
    }

    /// Resets these stages to pending.
    pub fn pending(&mut self, stages: &[Stage]) {
        for stage in stages {
            self.set(*stage, StageState::Pending, None);
        }
    }

    /// Events for the stages that changed since the last call.
    pub fn take_changes(&mut self) -> Vec<PendingEvent> {
        let mut changes = Vec::new();
        for (now, reported) in self.now.iter().zip(&mut self.reported) {
            if (now.state, &now.message) == (reported.0, &reported.1) {
                continue;
            }
            *reported = (now.state, now.message.clone());
            let message = match (&now.message, now.state) {
                (Some(message), StageState::Failed) => format!("{} failed: {message}", now.title),
                (Some(message), _) => format!("{}: {message}", now.title),
                (None, StageState::Pending) => format!("{} is pending.", now.title),
                (None, StageState::Active) => format!("{} has begun.", now.title),
                (None, StageState::Done) => format!("{} is done.", now.title),
                (None, StageState::Failed) => format!("{} failed.", now.title),
            };
            changes.push(PendingEvent::new(
                EventKind::StageChanged,
                message,
                match now.progress {
                    None => json!({"stage": now.stage, "state": now.state, "message": now.message}),
                    Some(progress) => json!({
                        "stage": now.stage, "state": now.state, "message": now.message, "progress": progress,
                    }),
                },
            ));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_change_is_reported_once() {
        let mut stages = Stages::new(&[]);
        stages.began(StepKind::EnsureNetwork);
        stages.done(StepKind::EnsureNetwork);
        stages.failed(StepKind::EnsureDatabase, "no disk");
        let changes: Vec<_> = stages.take_changes().into_iter().map(|m| m.message).collect();
        assert_eq!(
            changes,
            [
                "Database Creation failed: no disk",
                "Network Configuration is done."
            ]
        );
        assert!(stages.take_changes().is_empty());
    }

    #[test]
    fn a_stage_that_is_done_stays_done_while_it_is_verified() {
        let mut stages = Stages::new(&[]);
        stages.done(StepKind::AwaitTerminal);
        let since = stages.since(Stage::TerminalReady);
        stages.take_changes();
        stages.began(StepKind::AwaitTerminal);
        stages.done(StepKind::AwaitTerminal);
        assert!(stages.take_changes().is_empty());
        assert_eq!(stages.since(Stage::TerminalReady), since);
    }

    #[test]
    fn a_row_with_fewer_stages_is_completed() {
        let stages = Stages::new(&[Condition::new(Stage::NetworkReady, StageState::Done, Utc::now())]);
        assert_eq!(stages.all().len(), 5);
        assert_eq!(stages.state(Stage::NetworkReady), StageState::Done);
        assert_eq!(stages.state(Stage::Ready), StageState::Pending);
    }
}
