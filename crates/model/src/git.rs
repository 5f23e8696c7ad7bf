//! The wire types of git in a project's folder (`/api/projects/{project}/git/…`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET …/git/status`, and the answer of everything that changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitStatus {
    /// Absent where no branch is checked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit that is checked out; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// The branch that this one follows, such as `origin/main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Commits that only this branch has, as of the last fetch.
    pub ahead: u32,
    /// Commits that only the branch that it follows has.
    pub behind: u32,
    /// Where `origin` is, without a user or a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// A merge was begun, and neither committed nor aborted.
    pub merging: bool,
    pub files: Vec<GitFile>,
    /// There are more files than are listed.
    pub truncated: bool,
}

/// A file that is not as in the last commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitFile {
    /// Relative to the repository.
    pub path: String,
    /// What it was called before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// How it differs from the last commit in what is staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<GitChange>,
    /// How it differs from what is staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unstaged: Option<GitChange>,
    /// Both sides of a merge changed it, and somebody has to decide.
    #[serde(default)]
    pub conflict: bool,
}

/// How a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum GitChange {
    Added,
    Modified,
    Deleted,
    Renamed,
    Copied,
    /// Such as a link in the place of a file.
    TypeChanged,
    /// git does not know it.
    Untracked,
}

impl GitChange {
    /// git's letter for it (git-status(1)).
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Modified => 'M',
            Self::Deleted => 'D',
            Self::Renamed => 'R',
            Self::Copied => 'C',
            Self::TypeChanged => 'T',
            Self::Untracked => '?',
        }
    }
}

/// `GET …/git/diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitDiff {
    /// In git's unified format; at most 1 MiB.
    pub diff: String,
    /// It is longer than is told.
    pub truncated: bool,
}

/// `POST …/git/stage` and `…/git/unstage`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitPaths {
    /// Relative to the repository; everything where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
}

/// `POST …/git/commit`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitCommit {
    pub message: String,
    /// Stage everything first.
    #[serde(default)]
    pub all: bool,
}

/// `POST …/git/publish`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitPublish {
    /// Of the repository; the project's where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Everybody may see it.
    #[serde(default)]
    pub public: bool,
}
