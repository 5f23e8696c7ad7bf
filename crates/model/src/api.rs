//! Wire types of the public API, shared by the server and its clients.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    condition::Condition,
    error::Failure,
    ids::{ProjectId, SandboxId, TokenId, UserId},
    limits::{Limits, Used},
    name::{BranchName, ProjectName},
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
    /// Validated by [`ProjectName::parse`]; an invalid name is refused with a suggestion.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `web` (default) or `host`; not together with `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// An OCI image: a reference, or the name under which it was imported.
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
    /// Git's credential for the repository, which the project keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_credential: Option<crate::agent_api::GitLogin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_command: Option<String>,
    /// Whether the sandbox starts at once; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<bool>,
}

/// `PATCH /api/projects/{project}`: absent fields are not changed; null clears.
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
    /// Until it is cloned; afterwards it is 409.
    #[serde(default, with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Repository>)]
    pub repository: Option<Option<Repository>>,
}

/// Distinguishes an absent field from null.
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

/// Project, with the sandbox of its main branch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    pub id: ProjectId,
    pub name: ProjectName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub owner_id: UserId,
    pub owner_login: String,
    /// The caller's role in the project.
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
    /// The branch that it is the sandbox of.
    #[serde(default)]
    pub branch: BranchName,
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

/// Why a sandbox is in ERROR, and when the next attempt is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxError {
    #[serde(flatten)]
    pub failure: Failure,
    /// Consecutive failed attempts.
    pub attempts: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// Listening port, and its preview URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    pub url: String,
    pub sharing: Sharing,
    #[serde(default, skip_serializing_if = "HostHeader::is_public")]
    pub host_header: HostHeader,
    /// Paths that everyone may request although the port is private.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public_paths: Vec<String>,
}

/// The host name that a port's application sees in requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HostHeader {
    /// The preview's own.
    #[default]
    Public,
    /// `localhost:PORT`, for applications that answer to no other name.
    Localhost,
}

impl HostHeader {
    /// Whether it is the default.
    #[must_use]
    pub fn is_public(&self) -> bool {
        *self == Self::Public
    }
}

impl std::str::FromStr for HostHeader {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "public" => Ok(Self::Public),
            "localhost" => Ok(Self::Localhost),
            _ => Err(format!("unknown host header {word:?}: use public or localhost")),
        }
    }
}

/// Who may open a port's preview URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Members of the project.
    #[default]
    Private,
    /// Everyone who has the access link.
    Link,
    Public,
}

/// `PUT /api/projects/{project}/ports/{port}`: absent fields are not changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SharePort {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_header: Option<HostHeader>,
    /// Replaces the paths that everyone may request, each with all below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_paths: Option<Vec<String>>,
}

/// A port's settings after a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedPort {
    pub port: u16,
    pub url: String,
    pub sharing: Sharing,
    #[serde(default, skip_serializing_if = "HostHeader::is_public")]
    pub host_header: HostHeader,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public_paths: Vec<String>,
    /// The access link; shown only once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// `POST /api/sandbox/{projectId}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartSandbox {
    /// Variables for this and later starts of the sandbox; they override the project's.
    #[serde(default)]
    pub env_vars: BTreeMap<String, String>,
}

/// `GET/PUT/PATCH /api/projects/{project}/environment`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentView {
    /// Name to value, or to null if values were not requested.
    pub env_vars: BTreeMap<String, Option<String>>,
    /// The sandbox is restarted so that its processes get the change.
    #[serde(default)]
    pub restarting: bool,
}

/// Body of PUT (null is refused) and PATCH (null removes a variable).
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

/// Status of a project's database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DatabaseStatus {
    #[default]
    Creating,
    Ready,
    /// The database has disappeared; a new, empty one is created, with an event.
    Lost,
    Dropping,
    Dropped,
}

/// Page of a list; `next_cursor` is the next request's `?cursor=`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    pub items: Vec<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Role of a user in the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Owner,
    Member,
}

/// User: `GET /api/me`, `GET /api/users`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub id: UserId,
    /// A DNS label, unique in the system; the owner's slug in a host name.
    pub login: String,
    pub role: Role,
    pub has_password: bool,
    /// The user cannot sign in, and their tokens are not valid.
    #[serde(default)]
    pub disabled: bool,
    pub created_at: DateTime<Utc>,
    /// The user's quotas.
    #[serde(default)]
    pub limits: Limits,
    /// The quotas are the user's own, not the server's defaults.
    #[serde(default)]
    pub own_limits: bool,
    /// Usage that counts against the quotas.
    #[serde(default)]
    pub used: Used,
}

/// `POST /api/tokens`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateToken {
    pub name: String,
    /// In 90 days by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// It does not expire.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub never_expires: bool,
    /// `write` by default.
    #[serde(default)]
    pub scope: Scope,
    /// For a program that the user signs in to: like their session, the token may create credentials for an hour after
    /// the sign-in. Ignored where the caller is a token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sign_in: bool,
    /// Id or name of the only project of the token; all of the user's projects by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
}

/// Scope of a token: which of its user's permissions it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = TokenScope)]
pub enum Scope {
    /// Read only; secrets are not revealed.
    Read,
    /// Everything that the user may do, except what needs a recent sign-in: create tokens, sign-in links and
    /// invitations, set a password, and change what other users may do.
    #[default]
    Write,
    /// Everything that the user may do.
    Admin,
}

/// API token; `token` (which begins with `fsa_`) is in the response to POST only.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiToken {
    pub id: TokenId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(default)]
    pub scope: Scope,
    /// The only project of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    pub created_at: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<DateTime<Utc>>,
}

/// Image of a region.
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

/// Encryption key of stored secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionKey {
    /// Eight hexadecimal digits, from which the key cannot be derived.
    pub id: String,
    /// New secrets are encrypted with this key.
    pub current: bool,
    /// The key is in the key file. Secrets of a key that is not cannot be decrypted.
    pub available: bool,
    /// Number of stored secrets that are encrypted with it.
    pub values: u64,
}
