//! The wire types of the public API, shared by the server and its clients.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    condition::Condition,
    error::Failure,
    ids::{ProjectId, SandboxId, TokenId, UserId},
    limits::{Limits, Used},
    name::ProjectName,
    phase::{DesiredState, Phase},
    sandboxd::{RepositoryState, StartCommand},
    sharing::ProjectRole,
    size::Size,
    spec::Repository,
};

/// `POST /api/projects`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateProject {
    /// Checked by [`ProjectName::parse`]; a wrong one is refused with a suggestion.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `web` (default) or `host`; not together with `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// An OCI image, by reference or by the name it was imported under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    /// With what git is let in there, now and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_credential: Option<crate::agent_api::GitLogin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_command: Option<String>,
    /// Whether its sandbox starts at once; true unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<bool>,
}

/// `PATCH /api/projects/{project}`: what is absent stays as it is; null clears.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeProject {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub description: Option<Option<String>>,
    #[serde(default, with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub start_command: Option<Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// Tells an absent field from one that is null.
pub(crate) mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::<T>::deserialize(d).map(Some)
    }

    #[allow(clippy::ref_option)]
    pub fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(s)
    }
}

/// A project, with its main sandbox in short.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    pub id: ProjectId,
    pub name: ProjectName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub owner_id: UserId,
    pub owner_login: String,
    /// What you are in it.
    pub role: ProjectRole,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub size: Size,
    pub region: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_command: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A sandbox's status and URLs: `GET /api/sandbox/{projectId}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    pub id: SandboxId,
    pub project_id: ProjectId,
    /// Its resource name.
    pub name: String,
    pub status: Phase,
    pub desired_state: DesiredState,
    pub stages: Vec<Condition>,
    pub public_url: String,
    pub terminal_url: String,
    pub ports: Vec<Port>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_command: Option<StartCommand>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryState>,
    #[serde(default)]
    pub error: Option<SandboxError>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Why a sandbox is in ERROR, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxError {
    #[serde(flatten)]
    pub failure: Failure,
    /// Failed attempts in a row.
    pub attempts: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// A port that listens, and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    pub url: String,
    pub sharing: Sharing,
}

/// Who may open a port's URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Those who may see the project.
    #[default]
    Private,
    /// Whoever has the link.
    Link,
    Public,
}

/// `PUT /api/projects/{project}/ports/{port}`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SharePort {
    pub sharing: Sharing,
}

/// A port as it is shared from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedPort {
    pub port: u16,
    pub url: String,
    pub sharing: Sharing,
    /// Opens the port for whoever has it; told this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// `POST /api/sandbox/{projectId}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartSandbox {
    /// For this and later starts of this sandbox, above the project's own.
    #[serde(default)]
    pub env_vars: BTreeMap<String, String>,
}

/// `GET/PUT/PATCH /api/projects/{project}/environment`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentView {
    /// Name to value, or to null where values were not asked for.
    pub env_vars: BTreeMap<String, Option<String>>,
    /// Whether the change restarts the sandbox to reach its processes.
    #[serde(default)]
    pub restarting: bool,
}

/// The body of PUT (null is refused) and PATCH (null removes).
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeEnvironment {
    #[serde(default)]
    pub env_vars: BTreeMap<String, Option<String>>,
}

/// `GET /api/projects/{project}/database`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    pub provider: String,
    pub status: DatabaseStatus,
    pub name: String,
    /// With `?reveal=true` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_string: Option<String>,
}

/// How a project's database is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DatabaseStatus {
    #[default]
    Creating,
    Ready,
    /// It was there and is gone; a new, empty one is made, and an event says so.
    Lost,
    Dropping,
    Dropped,
}

/// One page of a list; `next_cursor` goes into `?cursor=`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    pub items: Vec<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// What a user may do beyond their own projects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Owner,
    Member,
}

/// A person: `GET /api/me`, `GET /api/users`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub id: UserId,
    /// A DNS label, unique in the system; the owner's slug in a host name.
    pub login: String,
    pub role: Role,
    pub has_password: bool,
    /// May not sign in, and their tokens do not hold.
    #[serde(default)]
    pub disabled: bool,
    pub created_at: DateTime<Utc>,
    /// What they may have at the same time.
    #[serde(default)]
    pub limits: Limits,
    /// Whether those are their own, and not the server's for everybody.
    #[serde(default)]
    pub own_limits: bool,
    /// What they have.
    #[serde(default)]
    pub used: Used,
}

/// `POST /api/tokens`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateToken {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// `write`, everything that you may do, unless said otherwise.
    #[serde(default)]
    pub scope: Scope,
    /// The id or name of the one project that it is for; all of yours unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
}

/// What a token may do of what its user may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = TokenScope)]
pub enum Scope {
    /// Look, and change nothing; secrets are not revealed.
    Read,
    #[default]
    Write,
}

/// A token as it is listed; `token` (beginning with `fsa_`) is in the answer to POST only.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiToken {
    pub id: TokenId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(default)]
    pub scope: Scope,
    /// The one project that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    pub created_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<DateTime<Utc>>,
}

/// An image that a region has.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageInfo {
    /// The name to create projects with.
    pub name: String,
    /// The manifest's digest.
    pub digest: String,
    /// Bytes on disk, unpacked.
    pub size: u64,
    pub layers: u32,
    pub imported_at: DateTime<Utc>,
}

/// A key that stored secrets are encrypted with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionKey {
    /// Eight hexadecimal digits, from which the key cannot be found.
    pub id: String,
    /// What is encrypted from now on is encrypted with it.
    pub current: bool,
    /// It is in the key file. What is encrypted with one that is not cannot be opened.
    pub known: bool,
    /// Stored secrets that are encrypted with it.
    pub values: u64,
}
