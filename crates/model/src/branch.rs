//! Branches of a project in the public API: a branch is one sandbox with the files, the database and the URLs that
//! belong to it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::Sandbox,
    ids::{ProjectId, VolumeId},
    name::BranchName,
};

/// `POST /api/projects/{project}/branches`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateBranch {
    /// Validated by [`BranchName::parse`]; an invalid name is refused with a suggestion.
    pub name: String,
    /// The branch that is copied, with its files and its database as they are; `main` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Whether the sandbox starts at once; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<bool>,
}

/// Branch of a project, with its sandbox.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Branch {
    /// The id of its volume.
    pub id: VolumeId,
    pub project_id: ProjectId,
    pub name: BranchName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    pub created_at: DateTime<Utc>,
}

/// The branches of a project: `main` first, then by name.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Branches {
    pub items: Vec<Branch>,
}
