//! Sandbox spec: the complete desired state of one sandbox, for a driver.

use std::fmt::Write as _;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{
    environment::Environment,
    ids::{ProjectId, SandboxId, UserId, VolumeId},
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
#[serde(from = "StoredSandboxRef")]
pub struct SandboxRef {
    pub id: SandboxId,
    pub project: ProjectId,
    /// The volume of its branch.
    pub volume: VolumeId,
    pub resource: ResourceName,
}

/// [`SandboxRef`] as it is read. State files from before there were branches name no volume.
#[derive(Deserialize)]
struct StoredSandboxRef {
    id: SandboxId,
    project: ProjectId,
    volume: Option<VolumeId>,
    resource: ResourceName,
}

impl From<StoredSandboxRef> for SandboxRef {
    fn from(stored: StoredSandboxRef) -> Self {
        Self {
            id: stored.id,
            project: stored.project,
            volume: stored.volume.unwrap_or(VolumeId::of_main(stored.project)),
            resource: stored.resource,
        }
    }
}

/// Spec of a branch's database, independent of where it runs.
#[derive(Clone, Debug)]
pub struct DatabaseSpec {
    pub project: ProjectId,
    /// The volume of its branch.
    pub volume: VolumeId,
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
    /// than its spec has drifted and is replaced, unless it carries the digest that its row says it
    /// was started with: so a new version of the form below restarts nothing that runs as it should.
    ///
    /// The hash is over a canonical form, version 2: named fields in a fixed order, each name and
    /// value with its length before it. Secrets are included, so the digest is keyed by the control
    /// token: it cannot be used to test guesses of a variable's value. The repository is not
    /// included: it is cloned once, before the first start.
    #[must_use]
    pub fn digest(&self) -> String {
        // Without `..`: a new field has to be decided on.
        let Self {
            sandbox: _,
            owner: _,
            project_name: _,
            image,
            resources,
            environment,
            start_command,
            repository: _,
            control_token,
            database_role,
            restarts,
        } = self;
        let Resources {
            cpu_request_millis,
            cpu_limit_millis,
            memory_request_mib,
            memory_limit_mib,
            pids_limit,
            // A quota changes without a restart.
            disk_limit_mib: _,
        } = resources;
        let mut form = CanonicalForm(Sha256::new());
        form.field("version", "2");
        form.field("control_token", control_token.expose_secret());
        match image {
            Image::Template(name) => form.field("image.template", name),
            Image::Reference(reference) => form.field("image.reference", reference),
        }
        for (name, value) in [
            ("cpu_request_millis", cpu_request_millis),
            ("cpu_limit_millis", cpu_limit_millis),
            ("memory_request_mib", memory_request_mib),
            ("memory_limit_mib", memory_limit_mib),
            ("pids_limit", pids_limit),
        ] {
            form.field(name, &value.to_string());
        }
        for (name, value) in environment {
            form.field("environment.name", name);
            form.field("environment.value", value.expose_secret());
        }
        if let Some(command) = start_command {
            form.field("start_command", command);
        }
        if let Some(role) = database_role {
            form.field("database_role", role);
        }
        form.field("restarts", &restarts.to_string());
        form.finish()
    }
}

/// Named fields under a hash.
struct CanonicalForm(Sha256);

impl CanonicalForm {
    fn field(&mut self, name: &str, value: &str) {
        for part in [name, value] {
            self.0.update((part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
    }

    /// The first half of the hash, in hexadecimal.
    fn finish(self) -> String {
        let hash = self.0.finalize();
        hash.iter().take(16).fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::Size;

    fn spec() -> SandboxSpec {
        let project_name = ProjectName::parse("todo").unwrap();
        let project = ProjectId::generate();
        SandboxSpec {
            sandbox: SandboxRef {
                id: SandboxId::generate(),
                project,
                volume: VolumeId::of_main(project),
                resource: ResourceName::generate(&project_name),
            },
            owner: UserId::generate(),
            project_name,
            image: Image::Template("web".into()),
            resources: Size::Small.resources(),
            environment: Environment::from([("A".to_owned(), "b".to_owned().into())]),
            start_command: Some("npm start".into()),
            repository: None,
            control_token: "token".to_owned().into(),
            database_role: Some("todo_role".into()),
            restarts: 3,
        }
    }

    #[test]
    fn a_stored_reference_without_a_volume_has_that_of_its_project() {
        let sandbox = spec().sandbox;
        let mut stored = serde_json::to_value(&sandbox).unwrap();
        assert_eq!(
            serde_json::from_value::<SandboxRef>(stored.clone()).unwrap(),
            sandbox
        );
        let branch = SandboxRef {
            volume: VolumeId::generate(),
            ..sandbox.clone()
        };
        let of_branch = serde_json::to_value(&branch).unwrap();
        assert_eq!(serde_json::from_value::<SandboxRef>(of_branch).unwrap(), branch);

        stored.as_object_mut().unwrap().remove("volume");

        assert_eq!(serde_json::from_value::<SandboxRef>(stored).unwrap(), sandbox);
    }

    #[test]
    fn the_digest_of_a_spec_is_the_same_in_every_version() {
        assert_eq!(spec().digest(), "837b2e45f5b210cb52b0620ec9515f25");
    }

    #[test]
    fn whatever_needs_a_restart_changes_the_digest() {
        let changes: [fn(&mut SandboxSpec); 9] = [
            |spec| spec.image = Image::Template("host".into()),
            |spec| spec.image = Image::Reference("web".into()),
            |spec| spec.resources.pids_limit += 1,
            |spec| spec.environment.clear(),
            |spec| drop(spec.environment.insert("A".into(), "c".to_owned().into())),
            |spec| spec.start_command = None,
            |spec| spec.control_token = "another".to_owned().into(),
            |spec| spec.database_role = None,
            |spec| spec.restarts += 1,
        ];
        let mut digests = vec![spec().digest()];
        for change in changes {
            let mut changed = spec();
            change(&mut changed);
            digests.push(changed.digest());
        }
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), changes.len() + 1);
    }

    #[test]
    fn a_repository_and_names_do_not_change_the_digest() {
        let mut other = spec();
        other.project_name = ProjectName::parse("renamed").unwrap();
        other.repository = Some(Repository {
            url: "https://example.org/a.git".into(),
            branch: None,
        });
        assert_eq!(other.digest(), spec().digest());
    }
}
