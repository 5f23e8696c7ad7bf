//! Conditions: the five stages of a sandbox's start.
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Stage, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Stage {
    DatabaseReady,
    ContainerReady,
    NetworkReady,
    TerminalReady,
    Ready,
}

/// State of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StageState {
    #[default]
    Pending,
    Active,
    Done,
    Failed,
}

/// Condition: a stage's state, since when, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    pub stage: Stage,
    /// The stage's name for people.
    pub title: String,
    pub state: StageState,
    pub since: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Stage {
    pub const ALL: [Self; 5] = [
        Self::DatabaseReady,
        Self::ContainerReady,
        Self::NetworkReady,
        Self::TerminalReady,
        Self::Ready,
    ];

    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::DatabaseReady => "Database Creation",
            Self::ContainerReady => "Container Provisioning",
            Self::NetworkReady => "Network Configuration",
            Self::TerminalReady => "Terminal Initialization",
            Self::Ready => "Environment Ready",
        }
    }
}

impl Condition {
    #[must_use]
    pub fn new(stage: Stage, state: StageState, since: DateTime<Utc>) -> Self {
        Self {
            stage,
            title: stage.title().to_owned(),
            state,
            since,
            message: None,
        }
    }

    /// All five conditions, pending since `since`.
    #[must_use]
    pub fn all_pending(since: DateTime<Utc>) -> Vec<Self> {
        Stage::ALL
            .map(|stage| Self::new(stage, StageState::Pending, since))
            .to_vec()
    }

    /// Sets the state at `now`; `since` changes only when the state does.
    pub fn set(&mut self, state: StageState, message: Option<String>, now: DateTime<Utc>) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
        self.message = message;
    }
}
