//! The wire types of sharing: who may use a project beside its owner, and as what.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::UserId;

/// What somebody is in a project. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProjectRole {
    /// Sees status, events, logs, files, and what happens in a terminal; no secret values.
    Viewer,
    /// Does everything inside of the sandbox, starts and stops it, and has its environment.
    Editor,
    /// Changes the project's settings, its ports, and who it is shared with.
    Admin,
    /// Deletes it, and pays for what it takes.
    Owner,
}

impl ProjectRole {
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Editor, Self::Admin, Self::Owner];

    /// The word for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

impl std::fmt::Display for ProjectRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ProjectRole {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == word)
            .ok_or_else(|| format!("there is no role {word:?}; there is viewer, editor, admin and owner"))
    }
}

/// Somebody who may use a project.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub user_id: UserId,
    pub login: String,
    pub role: ProjectRole,
    /// Since when it is shared with them, or there is the project.
    pub since: DateTime<Utc>,
}

/// `PUT /api/projects/{project}/members/{user}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShareProject {
    /// `viewer`, `editor` or `admin`.
    pub role: ProjectRole,
}
