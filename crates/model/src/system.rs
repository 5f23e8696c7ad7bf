//! The wire types of the system as a whole: its regions, what its doctor finds, and what all of its
//! sandboxes use.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ProjectId, sandboxd::Usage};

/// A place where projects can live: `GET /api/regions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegionInfo {
    pub name: String,
    /// `local` or `kubernetes`.
    pub kind: String,
    /// A project that names no region gets this one.
    pub default: bool,
    /// Whether it answered a moment ago. A project can be made in one that does not: it starts when the
    /// region answers again.
    pub healthy: bool,
}

/// How a point was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    Good,
    /// Something works less well than it could.
    Warning,
    /// A project could not be made.
    Bad,
}

/// One point of `fsa doctor` and of `GET /api/system/checks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub name: String,
    pub state: CheckState,
    /// What was found, and where something is amiss, its remedy.
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

/// What one sandbox uses: `GET /api/system/usage`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxUse {
    pub project_id: ProjectId,
    pub project: String,
    pub owner_login: String,
    pub region: String,
    /// Nothing where its region or the sandbox itself did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What the sandboxes that run use.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemUse {
    pub items: Vec<SandboxUse>,
    /// Sandboxes that run and are not among the items.
    pub left_out: u64,
}
