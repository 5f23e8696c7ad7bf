//! Sandbox spec: the complete desired state of one sandbox, for a driver.

use std::fmt::Write as _;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{
    environment::Environment,
    ids::{ProjectId, SandboxId, UserId},
    name::{ProjectName, ResourceName},
    size::Resources,
};

/// Source of a sandbox's root file system.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Image {
    /// A built-in template: `web` or `host`.
    Template(String),
    /// A reference to an OCI image (`registry/name:tag` or `…@sha256:…`), or the name under
    /// which an archive was imported.
    Reference(String),
}

/// Git repository that is cloned into the project's folder before the first start.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Repository {
    /// `https://` or `http://`, without user or password.
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
}

/// Identity of a sandbox: its stored name and its project's id, never a name prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SandboxRef {
    pub id: SandboxId,
    pub project: ProjectId,
    pub resource: ResourceName,
}

/// Spec of a project's database, independent of where it runs.
#[derive(Clone, Debug)]
pub struct DatabaseSpec {
    pub project: ProjectId,
    /// Also the name of the role and of the database, with `-` as `_`. A database outlives its
    /// sandboxes, so this is the name given when the database was created.
    pub resource: ResourceName,
    /// Generated with the row, so that it is known before the database exists.
    pub password: SecretString,
    pub resources: Resources,
}

impl DatabaseSpec {
    /// The name of role and database (at most 63 bytes, PostgreSQL's `NAMEDATALEN - 1`).
    #[must_use]
    pub fn role(&self) -> String {
        role_of(&self.resource)
    }
}

/// The name of the role and the database that belong to `resource`.
#[must_use]
pub fn role_of(resource: &ResourceName) -> String {
    resource.as_str().replace('-', "_")
}

/// Connection parameters of a database for programs in the sandbox.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: SecretString,
    pub database: String,
}

impl Credentials {
    /// `postgresql://user:password@host:port/database`, with the password percent-encoded.
    #[must_use]
    pub fn url(&self) -> SecretString {
        let mut url = format!("postgresql://{}:", self.user);
        for byte in self.password.expose_secret().bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                url.push(char::from(byte));
            } else {
                let _ = write!(url, "%{byte:02X}");
            }
        }
        let _ = write!(url, "@{}:{}/{}", self.host, self.port, self.database);
        url.into()
    }
}

/// Desired state of one sandbox.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    pub sandbox: SandboxRef,
    pub owner: UserId,
    pub project_name: ProjectName,
    pub image: Image,
    pub resources: Resources,
    /// All variables, merged ([`crate::environment::merge`]).
    pub environment: Environment,
    pub start_command: Option<String>,
    pub repository: Option<Repository>,
    /// The bearer token of its sandboxd.
    pub control_token: SecretString,
    /// The role that the sandbox may use, if the project has a database.
    pub database_role: Option<String>,
    /// Incremented by a restart action, so that an unchanged sandbox is restarted.
    pub restarts: i64,
}

impl SandboxSpec {
    /// Digest of every field that cannot change without a restart. A container with another digest
    /// than its spec has drifted and is replaced.
    ///
    /// The repository is not included: it is cloned once, before the first start. Secrets are included,
    /// so the digest is keyed by the control token: it cannot be used to test guesses of a variable's
    /// value. The `Debug` output of some fields is included: renaming a variant of [`Image`] or a field
    /// of [`Resources`] changes every digest.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        add(self.control_token.expose_secret().as_bytes());
        add(format!("{:?}", self.image).as_bytes());
        add(format!("{:?}", self.resources).as_bytes());
        for (name, value) in &self.environment {
            add(name.as_bytes());
            add(value.expose_secret().as_bytes());
        }
        add(format!("{:?}{:?}", self.start_command, self.database_role).as_bytes());
        add(&self.restarts.to_be_bytes());
        hash.finalize()
            .iter()
            .take(16)
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}
