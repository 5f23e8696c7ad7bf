//! Backups: copies of projects in the server's backup repository.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::Failure,
    ids::{BackupId, ProjectId},
    name::BranchName,
};

/// State of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackupState {
    /// It waits for its turn.
    Queued,
    Running,
    /// It can be restored.
    Ready,
    Deleting,
    /// It could not be stored; `error` says why.
    Failed,
    Canceled,
}

/// The result of a verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupVerification {
    pub at: DateTime<Utc>,
    /// Damages that were found; none if the backup can be restored.
    pub problems: Vec<String>,
}

/// Backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    pub id: BackupId,
    /// The project, as long as it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    /// Its name when the backup was requested.
    pub project_name: String,
    pub branch: BranchName,
    pub state: BackupState,
    /// The snapshot in the repository, as restic names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_snapshot: Option<String>,
    /// Files; while it runs, entries so far.
    pub files: u64,
    /// Bytes of all files; while it runs, bytes read so far.
    pub bytes: u64,
    /// Bytes by which the repository grew.
    pub added_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// A verification was requested and is not done yet.
    #[serde(default)]
    pub verifying: bool,
    /// The last verification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<BackupVerification>,
    /// Login of who requested it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
}

/// `POST /api/backups/{backup}/restore`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreBackup {
    /// Name of the new project; the backup's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Region of the new project; the default region if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether its sandbox starts; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<bool>,
}
