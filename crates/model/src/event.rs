//! Events: what happened to a project, append-only, in words a person reads.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{EventId, ProjectId, SandboxId};

/// What kind of thing happened. The word is stable; the sentence is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    ProjectCreated,
    ProjectChanged,
    ProjectDeleted,
    /// A project that was shared with the reader is not any more, or was deleted. All else about it is not theirs to
    /// know.
    ShareEnded,
    /// A lifecycle action was requested: start, stop, restart, terminate.
    LifecycleRequested,
    /// The phase, as the API computes it, changed.
    PhaseChanged,
    /// One of the five stages moved.
    StageChanged,
    /// An attempt failed; the data has the failure and when it is tried again.
    AttemptFailed,
    /// What was there was gone or different, and was put right (or could not be).
    Repaired,
    /// The data plane warns of something that a person may have to act on; the data has what it says itself, and how
    /// often it has said so.
    Warned,
    EnvironmentChanged,
    DatabaseCreated,
    DatabaseLost,
    DatabaseDropped,
    RepositoryCloned,
    RepositoryFailed,
    PortOpened,
    PortClosed,
    StartCommandExited,
    TaskCreated,
    TaskCancelled,
    /// The data has the task and its state.
    TaskEnded,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub id: EventId,
    pub project_id: ProjectId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<SandboxId>,
    pub kind: EventKind,
    /// A sentence for people.
    pub message: String,
    /// The same for programs.
    #[serde(default)]
    pub data: serde_json::Value,
    pub created_at: DateTime<Utc>,
}
