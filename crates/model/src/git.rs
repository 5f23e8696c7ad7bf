//! Wire types of git in a project's folder (`/api/projects/{project}/git/…`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET …/git/status`, and the response of every route that changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitStatus {
    /// The project's folder is a git repository. If not, the other fields have no meaning.
    #[serde(default = "yes")]
    pub repository: bool,
    /// Absent when no branch is checked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit that is checked out; absent before the first commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// The branch's upstream branch, such as `origin/main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Commits that only this branch has, as of the last fetch.
    pub ahead: u32,
    /// Commits that only the upstream branch has.
    pub behind: u32,
    /// URL of `origin`, without user and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// A merge is in progress.
    pub merging: bool,
    pub files: Vec<GitFile>,
    /// The list of files is incomplete.
    pub truncated: bool,
}

/// A server without the field `repository` refuses the request where there is none.
const fn yes() -> bool {
    true
}

/// File that differs from the last commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitFile {
    /// Relative to the repository.
    pub path: String,
    /// Its former path, if it was renamed or copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Staged change, relative to the last commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<GitChange>,
    /// Change that is not staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unstaged: Option<GitChange>,
    /// Merge conflict: both sides changed the file.
    #[serde(default)]
    pub conflict: bool,
}

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum GitChange {
    Added,
    Modified,
    Deleted,
    Renamed,
    Copied,
    /// For example, a file became a symbolic link.
    TypeChanged,
    /// Not tracked by git.
    Untracked,
}

impl GitChange {
    /// The letter of git-status(1).
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
    /// The diff is longer, and was cut.
    pub truncated: bool,
}

/// `POST …/git/stage` and `…/git/unstage`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitPaths {
    /// Relative to the repository; all files by default.
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
    /// Name of the repository; the project's name by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The repository is public.
    #[serde(default)]
    pub public: bool,
}
