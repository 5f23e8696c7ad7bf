//! Snapshots: the files and the database of a project as they were at one instant.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::Failure,
    ids::{ProjectId, SnapshotId},
    name::BranchName,
    sandboxd::FileKind,
};

/// `POST /api/projects/{project}/snapshots`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateSnapshot {
    /// 1 to 100 characters without control characters, not the form of an id; unique within the branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Why a snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotCause {
    /// A user or a program requested it.
    Manual,
    Schedule,
    Agent,
    /// It has the state that a restore replaced.
    BeforeRestore,
    /// It has the state of `main` that the promotion of a branch replaced.
    BeforePromote,
    Backup,
    /// It is copied into another branch, and then deleted.
    Branch,
}

/// State of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotState {
    Creating,
    /// It can be restored.
    Ready,
    Deleting,
    /// It could not be taken; `error` says why.
    Failed,
}

/// Snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub id: SnapshotId,
    pub project_id: ProjectId,
    pub branch: BranchName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub cause: SnapshotCause,
    /// The branch that was promoted, for the cause `before-promote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_branch: Option<BranchName>,
    pub state: SnapshotState,
    /// Bytes on disk that are freed when this snapshot alone is deleted, as last measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Absent if the project's database was not in its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<SnapshotDatabase>,
    /// Why it could not be taken or deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The user who requested it, by login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
}

/// The database in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotDatabase {
    /// PostgreSQL's major version.
    pub version: String,
    /// Bytes of its files.
    pub bytes: u64,
}

/// What a data plane knows of a snapshot that it has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotContent {
    /// See [`Snapshot::bytes`]; `None` if they are too many to count now.
    pub bytes: Option<u64>,
    pub database: Option<SnapshotDatabase>,
}

/// `GET …/snapshots/{snapshot}/diff`: what changed after the snapshot, up to a later one or up to now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotDiff {
    pub from: SnapshotId,
    /// Absent for the files as they are now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<SnapshotId>,
    #[serde(flatten)]
    pub files: FileChanges,
}

/// Differences between two file trees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileChanges {
    /// Number of files and folders that were added.
    pub added: u64,
    pub changed: u64,
    pub removed: u64,
    /// In the order of their paths; at most 10,000.
    pub changes: Vec<FileChange>,
    /// There are more changes than `changes` has, or than were counted.
    pub truncated: bool,
}

/// How a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    Added,
    /// Its content, owner or mode.
    Changed,
    Removed,
}

/// A file that differs between two trees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileChange {
    /// Absolute path in the sandbox. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// The path percent-encoded, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoded_path: Option<String>,
    pub change: ChangeKind,
    pub kind: FileKind,
    /// Bytes in the earlier tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_before: Option<u64>,
    /// Bytes in the later tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}
