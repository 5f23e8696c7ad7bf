//! From rows to what a driver is asked to make.

use std::collections::BTreeMap;

use fsa_model::{
    DatabaseSpec, SandboxSpec, Trouble, TroubleKind,
    agent::Mode,
    environment::{self, Environment},
    spec::Credentials,
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    agents,
    auth::seal::{Place, SealError, Sealer},
    store::{claims::Claim, databases::DatabaseRow, places, projects::ProjectRow},
};

/// The database of a project, as it is to be made.
///
/// # Errors
/// Where its password cannot be opened.
pub fn database(
    sealer: &Sealer,
    project: &ProjectRow,
    database: &DatabaseRow,
) -> Result<DatabaseSpec, Trouble> {
    let id = project.id.to_string();
    Ok(DatabaseSpec {
        project: project.id,
        resource: database.resource.clone(),
        password: open(sealer, places::database_password(&id), &database.password)?,
        resources: project.size.resources(),
    })
}

/// The bearer token of a sandbox's sandboxd.
///
/// # Errors
/// Where it cannot be opened.
pub fn control_token(sealer: &Sealer, sandbox: &str, sealed: &[u8]) -> Result<SecretString, Trouble> {
    open(sealer, places::control_token(sandbox), sealed)
}

/// A claimed sandbox, completely described. `agent` is the first layer of its environment, and
/// `mode` how agents' credentials reach it.
///
/// # Errors
/// Where a secret of it cannot be opened.
pub fn sandbox(
    sealer: &Sealer,
    agent: &Environment,
    mode: Mode,
    claim: &Claim,
    credentials: Option<&Credentials>,
) -> Result<SandboxSpec, Trouble> {
    let (sandbox, project) = (&claim.sandbox, &claim.project);
    let sandbox_id = sandbox.id.to_string();
    let project_id = project.id.to_string();
    let of_project = variables(
        sealer,
        places::project_environment(&project_id),
        &claim.project_environment,
    )?;
    let of_request = variables(
        sealer,
        places::request_environment(&sandbox_id),
        &claim.request_environment,
    )?;
    let owner_id = project.owner.to_string();
    let of_user = match &claim.agent_credentials {
        Some(sealed) => variables(sealer, places::agent_credentials(&owner_id), sealed)?,
        None => Environment::new(),
    };
    let control_token = control_token(sealer, &sandbox_id, &sandbox.control_token)?;
    let layers = agents::layers(mode, [agent, &of_user, &of_project, &of_request], &control_token);
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

fn variables(sealer: &Sealer, place: Place<'_>, sealed: &[u8]) -> Result<Environment, Trouble> {
    let json = open(sealer, place, sealed)?;
    let variables: BTreeMap<String, SecretString> =
        serde_json::from_str(json.expose_secret()).map_err(|_| {
            // Without serde's own words: they may quote a value.
            Trouble::new(
                TroubleKind::Internal,
                format!(
                    "The stored variables in {}.{} cannot be read.",
                    place.table, place.column
                ),
            )
        })?;
    Ok(variables)
}

fn open(sealer: &Sealer, place: Place<'_>, sealed: &[u8]) -> Result<SecretString, Trouble> {
    sealer.unseal(place, sealed).map_err(|error| match error {
        SealError::KeyFile { .. } | SealError::UnknownKey(_) | SealError::Kept(_) => Trouble::new(
            TroubleKind::Machine,
            format!("A secret cannot be opened: {error}."),
        ),
        SealError::Damaged(_) => Trouble::new(
            TroubleKind::Internal,
            format!("A secret cannot be opened: {error}."),
        ),
    })
}
