//! Wire types of GitHub repositories.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /api/repositories`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = GithubRepositories)]
pub struct Repositories {
    pub items: Vec<Repository>,
    /// The list is incomplete.
    pub truncated: bool,
}

/// Repository that can be imported: `url` and a branch go into a new project's `repository`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = GithubRepository)]
pub struct Repository {
    /// `owner/name`.
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub private: bool,
    /// URL to clone from.
    pub url: String,
    pub default_branch: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pushed_at: Option<DateTime<Utc>>,
}
