//! Spec construction: builds the specs for the drivers from rows.

use std::collections::BTreeMap;

use fsa_model::{
    DatabaseSpec, Failure, FailureKind, SandboxSpec,
    environment::{self, Environment},
    llm_provider::Mode,
    spec::Credentials,
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    encryption::{AssociatedData, EncryptionError, KeyRing},
    llm_proxy,
    store::{associated_data, databases::DatabaseRow, leases::Claim, projects::ProjectRow},
};

/// The spec of a project's database.
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
        resource: database.resource.clone(),
        password: open(
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
    open(key_ring, associated_data::control_token(sandbox), encrypted)
}

/// The complete spec of a claimed sandbox. `agent` is the first layer of its environment, and
/// `mode` says how agents' credentials reach it.
///
/// # Errors
/// One of its secrets cannot be decrypted.
pub fn sandbox(
    key_ring: &KeyRing,
    agent: &Environment,
    mode: Mode,
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
    let layers = llm_proxy::layers(mode, [agent, &of_user, &of_project, &of_request], &control_token);
    Ok(SandboxSpec {
        sandbox: sandbox.reference(),
        owner: project.owner,
        project_name: project.name.clone(),
        image: project.image.clone(),
        resources: project.size.resources(),
        environment: environment::merge(layers, Environment::new(), Environment::new(), credentials),
        start_command: project.start_command.clone(),
        repository: project.repository.clone(),
        control_token,
        database_role: credentials.map(|credentials| credentials.user.clone()),
        restarts: sandbox.restarts,
    })
}

fn variables(
    key_ring: &KeyRing,
    place: AssociatedData<'_>,
    encrypted: &[u8],
) -> Result<Environment, Failure> {
    let json = open(key_ring, place, encrypted)?;
    let variables: BTreeMap<String, SecretString> =
        serde_json::from_str(json.expose_secret()).map_err(|_| {
            // Without serde's message: it may quote a value.
            Failure::new(
                FailureKind::Internal,
                format!(
                    "The stored variables in {}.{} cannot be read.",
                    place.table, place.column
                ),
            )
        })?;
    Ok(variables)
}

fn open(key_ring: &KeyRing, place: AssociatedData<'_>, encrypted: &[u8]) -> Result<SecretString, Failure> {
    key_ring.decrypt(place, encrypted).map_err(|error| match error {
        EncryptionError::KeyFile { .. } | EncryptionError::UnknownKey(_) | EncryptionError::Kept(_) => {
            Failure::new(
                FailureKind::Machine,
                format!("A secret cannot be opened: {error}."),
            )
        }
        EncryptionError::Damaged(_) => Failure::new(
            FailureKind::Internal,
            format!("A secret cannot be opened: {error}."),
        ),
    })
}
