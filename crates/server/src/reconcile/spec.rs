//! Spec construction: builds the specs for the drivers from rows.

use std::collections::BTreeMap;

use fsa_model::{
    DatabaseSpec, Failure, FailureKind, SandboxSpec,
    environment::{self, Addresses, Environment},
    host,
    sandboxd::KNOWN_PORTS,
    spec::Credentials,
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    encryption::{AssociatedData, EncryptionError, KeyRing},
    llm_proxy,
    settings::Settings,
    store::{associated_data, databases::DatabaseRow, leases::Claim, projects::ProjectRow},
};

/// The spec of a branch's database.
///
/// # Errors
/// The password cannot be decrypted.
pub fn database(
    key_ring: &KeyRing,
    project: &ProjectRow,
    database: &DatabaseRow,
) -> Result<DatabaseSpec, Failure> {
    let id = project.id.to_string();
    Ok(DatabaseSpec {
        project: project.id,
        volume: database.volume,
        resource: database.resource.clone(),
        password: decrypt(
            key_ring,
            associated_data::database_password(&id),
            &database.password,
        )?,
        resources: project.size.resources(),
    })
}

/// The bearer token of a sandbox's sandboxd.
///
/// # Errors
/// The token cannot be decrypted.
pub fn control_token(key_ring: &KeyRing, sandbox: &str, encrypted: &[u8]) -> Result<SecretString, Failure> {
    decrypt(key_ring, associated_data::control_token(sandbox), encrypted)
}

/// The complete spec of a claimed sandbox. The settings have the first layer of its environment, say how agents'
/// credentials reach it, and where its ports are served.
///
/// # Errors
/// One of its secrets cannot be decrypted.
pub fn sandbox(
    key_ring: &KeyRing,
    settings: &Settings,
    claim: &Claim,
    credentials: Option<&Credentials>,
) -> Result<SandboxSpec, Failure> {
    let (sandbox, project) = (&claim.sandbox, &claim.project);
    let sandbox_id = sandbox.id.to_string();
    let project_id = project.id.to_string();
    let of_project = variables(
        key_ring,
        associated_data::project_environment(&project_id),
        &claim.project_environment,
    )?;
    let branch_id = sandbox.volume.to_string();
    let of_branch = match &claim.branch_environment {
        Some(encrypted) => variables(
            key_ring,
            associated_data::branch_environment(&branch_id),
            encrypted,
        )?,
        None => Environment::new(),
    };
    let of_request = variables(
        key_ring,
        associated_data::request_environment(&sandbox_id),
        &claim.request_environment,
    )?;
    let owner_id = project.owner.to_string();
    let of_user = match &claim.agent_credentials {
        Some(encrypted) => variables(key_ring, associated_data::agent_credentials(&owner_id), encrypted)?,
        None => Environment::new(),
    };
    let control_token = control_token(key_ring, &sandbox_id, &sandbox.control_token)?;
    let layers = llm_proxy::layers(
        settings.agents.mode,
        [
            &settings.agent_environment,
            &of_user,
            &of_project,
            &of_branch,
            &of_request,
        ],
        &control_token,
    );
    Ok(SandboxSpec {
        sandbox: sandbox.reference(),
        owner: project.owner,
        project_name: project.name.clone(),
        image: project.image.clone(),
        resources: project.size.resources(),
        environment: environment::merge(layers, credentials, &addresses(settings, claim)),
        start_command: project.start_command.clone(),
        repository: project.repository.clone(),
        control_token,
        database_role: credentials.map(|credentials| credentials.user.clone()),
        restarts: sandbox.restarts,
    })
}

/// The addresses of the sandbox's ports under the project's current name. A rename changes them for the next start.
fn addresses<'a>(settings: &'a Settings, claim: &Claim) -> Addresses<'a> {
    let project = &claim.project;
    let owner = claim.name_is_shared.then(|| {
        let login = (!claim.login_is_former).then_some(claim.owner_login.as_str());
        host::owner_slug(login, project.owner)
    });
    let branch = (&claim.branch.name, claim.branch.volume);
    let target = host::HostTarget::new(&project.name, branch, owner.as_deref());
    Addresses {
        apps_domain: &settings.apps_domain,
        preview_url: settings.app_url(&target.label("{port}")),
        public_url: settings.app_url(&target.label(&KNOWN_PORTS[0].to_string())),
    }
}

fn variables(
    key_ring: &KeyRing,
    location: AssociatedData<'_>,
    encrypted: &[u8],
) -> Result<Environment, Failure> {
    let json = decrypt(key_ring, location, encrypted)?;
    let variables: BTreeMap<String, SecretString> =
        serde_json::from_str(json.expose_secret()).map_err(|_| {
            // Without serde's message: it may quote a value.
            Failure::new(
                FailureKind::Internal,
                format!(
                    "The stored variables in {}.{} cannot be parsed.",
                    location.table, location.column
                ),
            )
        })?;
    Ok(variables)
}

fn decrypt(
    key_ring: &KeyRing,
    location: AssociatedData<'_>,
    encrypted: &[u8],
) -> Result<SecretString, Failure> {
    key_ring
        .decrypt(location, encrypted)
        .map_err(|error| match error {
            EncryptionError::KeyFile { .. }
            | EncryptionError::UnknownKey(_)
            | EncryptionError::NotRemovable(_) => Failure::new(
                FailureKind::Machine,
                format!("A secret cannot be decrypted: {error}."),
            ),
            EncryptionError::Damaged(_) => Failure::new(
                FailureKind::Internal,
                format!("A secret cannot be decrypted: {error}."),
            ),
        })
}
