//! Events of a project: an append-only log for people and programs.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ids::{EventId, ProjectId, SandboxId},
    name::BranchName,
};

/// Kind of an event. The name is stable; the message is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    ProjectCreated,
    ProjectChanged,
    ProjectDeleted,
    BranchCreated,
    /// A branch is gone, with its files and its database.
    BranchDeleted,
    /// `main` has the state of a branch; the data has the branch's name, and the snapshot of the state before (`before`).
    BranchPromoted,
    /// A project is no longer shared with the reader, or was deleted. The event has no other data about it.
    ShareEnded,
    /// A lifecycle action was requested: start, stop, restart, terminate.
    LifecycleRequested,
    /// The phase changed.
    PhaseChanged,
    /// One of the five stages changed its state.
    StageChanged,
    /// An attempt failed; the data has the failure and the time of the next attempt.
    AttemptFailed,
    /// A resource was missing or had drifted, and was repaired (or could not be).
    Repaired,
    /// A warning of the data plane that may need a person; the data has its original text, and how often it occurred.
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
    /// The data has the snapshot's id, name and cause.
    SnapshotCreated,
    /// A snapshot could not be taken or restored; the data has its id and the failure.
    SnapshotFailed,
    SnapshotDeleted,
    /// The data has the restored snapshot and the one of the state before (`before`).
    SnapshotRestored,
}

/// Event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub id: EventId,
    pub project_id: ProjectId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<SandboxId>,
    /// The branch that it concerns; none for the whole project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<BranchName>,
    pub kind: EventKind,
    /// Sentence for people.
    pub message: String,
    /// The same information for programs.
    #[serde(default)]
    pub data: serde_json::Value,
    pub created_at: DateTime<Utc>,
}
