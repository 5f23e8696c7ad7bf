//! Wire types of sharing: the members of a project and their roles.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::UserId;

/// Role of a user in a project. Each role includes the permissions of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProjectRole {
    /// Sees status, events, logs, files and the output of terminals; no secret values.
    Viewer,
    /// Does everything inside of the sandbox, starts and stops it, and reads and changes its environment.
    Editor,
    /// Changes the project's settings, ports and members.
    Admin,
    /// Deletes the project. Its resource usage counts for the owner.
    Owner,
}

impl ProjectRole {
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Editor, Self::Admin, Self::Owner];

    /// Name in the API and on the command line.
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
            .ok_or_else(|| format!("unknown role {word:?}: use viewer, editor, admin or owner"))
    }
}

/// Member of a project.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub user_id: UserId,
    pub login: String,
    pub role: ProjectRole,
    /// When the project was shared with the member; for the owner, when it was created.
    pub since: DateTime<Utc>,
}

/// `PUT /api/projects/{project}/members/{user}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShareProject {
    /// `viewer`, `editor` or `admin`.
    pub role: ProjectRole,
}
