//! Wire types of the system as a whole: regions, health checks, resource usage of all sandboxes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ProjectId, sandboxd::Usage};

/// Region in which projects run: `GET /api/regions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegionInfo {
    pub name: String,
    /// `local` or `kubernetes`.
    pub kind: String,
    /// The region of a project that names none.
    pub default: bool,
    /// Whether the last check of the region succeeded. A project can be created in an unhealthy region: it
    /// starts when the region is healthy again.
    pub healthy: bool,
    /// Whether its projects have snapshots.
    #[serde(default)]
    pub snapshots: bool,
    /// Whether its projects can be backed up: it has backups, and the server has a repository.
    #[serde(default)]
    pub backups: bool,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    Good,
    /// Something works with limitations.
    Warning,
    /// Projects cannot be created.
    Bad,
}

/// One check of `fsa doctor` and of `GET /api/system/checks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub name: String,
    pub state: CheckState,
    /// The result, and the remedy if there is a problem.
    pub message: String,
}

impl Check {
    #[must_use]
    pub fn new(name: &str, state: CheckState, message: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            state,
            message: message.into(),
        }
    }

    #[must_use]
    pub fn good(name: &str, message: impl Into<String>) -> Self {
        Self::new(name, CheckState::Good, message)
    }
}

/// Resource usage of one sandbox: `GET /api/system/usage`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxUsage {
    pub project_id: ProjectId,
    pub project: String,
    pub owner_login: String,
    pub region: String,
    /// Absent when the region or the sandbox did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// Resource usage of the running sandboxes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemUsage {
    pub items: Vec<SandboxUsage>,
    /// Number of running sandboxes that are not among the items.
    pub omitted: u64,
}
