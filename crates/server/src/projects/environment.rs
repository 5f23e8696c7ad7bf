//! Environment variables of a project, and those of its other branches over them: encrypted at rest, changed one by
//! one. Each reveal is audited. The project's are the main branch's.

use std::collections::BTreeMap;

use fsa_model::{
    ProjectId, ResourceName, SandboxId, UserId, VolumeId,
    api::{ChangeEnvironment, EnvironmentView},
    environment::DATABASE_URL,
    event::EventKind,
};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;

use super::{create::database_password, validate};
use crate::{
    auth::{
        Caller,
        permission::{Read, Write},
    },
    core::Core,
    encryption::KeyRing,
    error::{Error, Result},
    store::{
        associated_data, audit,
        branches::{self, BranchReference, BranchRow},
        databases,
        events::{self, NewEvent},
        notify::Topic,
        projects, sandboxes,
    },
};

/// Decrypted variables, in memory only.
pub type Variables = BTreeMap<String, SecretString>;

/// Decrypts the project's own variables.
///
/// # Errors
/// The stored value is damaged, or its key is missing.
pub fn decrypt_project(key_ring: &KeyRing, project: ProjectId, encrypted: &[u8]) -> Result<Variables> {
    let id = project.to_string();
    read(&key_ring.decrypt(associated_data::project_environment(&id), encrypted)?)
}

/// Decrypts a branch's own variables.
///
/// # Errors
/// Same as [`decrypt_project`].
pub fn decrypt_branch(key_ring: &KeyRing, branch: VolumeId, encrypted: Option<&[u8]>) -> Result<Variables> {
    match encrypted {
        Some(encrypted) => {
            let id = branch.to_string();
            read(&key_ring.decrypt(associated_data::branch_environment(&id), encrypted)?)
        }
        None => Ok(Variables::new()),
    }
}

/// Decrypts a user's variables for coding agents.
///
/// # Errors
/// Same as [`decrypt_project`].
pub fn decrypt_user(key_ring: &KeyRing, user: UserId, encrypted: &[u8]) -> Result<Variables> {
    let id = user.to_string();
    read(&key_ring.decrypt(associated_data::agent_credentials(&id), encrypted)?)
}

/// Encrypts a user's variables for coding agents.
#[must_use]
pub fn encrypt_user(key_ring: &KeyRing, user: UserId, variables: &Variables) -> Vec<u8> {
    key_ring.encrypt(
        associated_data::agent_credentials(&user.to_string()),
        &write(variables),
    )
}

/// Decrypts the variables of the request that started a sandbox.
///
/// # Errors
/// Same as [`decrypt_project`].
pub fn decrypt_request(key_ring: &KeyRing, sandbox: SandboxId, encrypted: &[u8]) -> Result<Variables> {
    let id = sandbox.to_string();
    read(&key_ring.decrypt(associated_data::request_environment(&id), encrypted)?)
}

/// Encrypts the project's own variables.
#[must_use]
pub fn encrypt_project(key_ring: &KeyRing, project: ProjectId, variables: &Variables) -> Vec<u8> {
    key_ring.encrypt(
        associated_data::project_environment(&project.to_string()),
        &write(variables),
    )
}

/// Encrypts a branch's own variables.
#[must_use]
pub fn encrypt_branch(key_ring: &KeyRing, branch: VolumeId, variables: &Variables) -> Vec<u8> {
    key_ring.encrypt(
        associated_data::branch_environment(&branch.to_string()),
        &write(variables),
    )
}

/// Encrypts the variables of a request.
#[must_use]
pub fn encrypt_request(key_ring: &KeyRing, sandbox: SandboxId, variables: &Variables) -> Vec<u8> {
    key_ring.encrypt(
        associated_data::request_environment(&sandbox.to_string()),
        &write(variables),
    )
}

/// The names of the variables, and with `reveal` their values. A reveal is audited before the values are shown.
///
/// # Errors
/// Not found; the database does not answer.
pub async fn view(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    reveal: bool,
) -> Result<EnvironmentView> {
    let found = branches::find::<Read>(&core.store, caller, reference).await?;
    let mut tx = core.store.begin().await?;
    let variables = load(core, &mut tx, found.branch()).await?;
    if reveal {
        found.with_permission::<Write>()?;
        let object = match found.branch().name.is_main() {
            true => format!("project {}", found.id),
            false => format!("branch {} of project {}", found.branch().name, found.id),
        };
        audit::record(&mut tx, caller, "environment.reveal", object).await?;
        tx.commit().await?;
    }
    Ok(EnvironmentView {
        env_vars: env_vars(&variables, reveal),
        restarting: false,
    })
}

/// Replaces all variables (PUT).
///
/// # Errors
/// 422 for an invalid variable, or one without a value.
pub async fn replace(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    request: ChangeEnvironment,
) -> Result<EnvironmentView> {
    let variables = request
        .env_vars
        .into_iter()
        .map(|(name, value)| match value {
            Some(value) => Ok((name, value.into())),
            None => Err(Error::invalid(
                format!("envVars.{name}"),
                "null removes a variable in a PATCH; in a PUT leave it out",
            )),
        })
        .collect::<Result<Variables>>()?;
    store(core, caller, reference, |_| variables).await
}

/// Sets some variables and removes those that are null (PATCH). The others stay unchanged.
///
/// # Errors
/// 422 for an invalid variable.
pub async fn change(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    request: ChangeEnvironment,
) -> Result<EnvironmentView> {
    store(core, caller, reference, |variables| {
        merged(variables.clone(), request.env_vars)
    })
    .await
}

/// Pure: `changes` applied to `variables`; null removes a variable.
pub(crate) fn merged(mut variables: Variables, changes: BTreeMap<String, Option<String>>) -> Variables {
    for (name, value) in changes {
        match value {
            Some(value) => variables.insert(name, value.into()),
            None => variables.remove(&name),
        };
    }
    variables
}

/// Stores the variables after `change`. Restarts the sandbox if they differ.
async fn store(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    change: impl FnOnce(&Variables) -> Variables + Send,
) -> Result<EnvironmentView> {
    let found = branches::find::<Write>(&core.store, caller, reference).await?;
    let mut tx = core.store.begin().await?;
    let project = branches::lock(&mut tx, &found).await?;
    let branch = project.branch();
    let before = load(core, &mut tx, branch).await?;
    let after = change(&before);
    validate::variables(
        after
            .iter()
            .map(|(name, value)| (name.as_str(), value.expose_secret())),
    )?;
    let names = changed(&before, &after);
    validate::settable(
        names
            .iter()
            .filter(|name| after.contains_key(*name))
            .map(String::as_str),
    )?;
    if names.is_empty() {
        return Ok(EnvironmentView {
            env_vars: env_vars(&after, false),
            restarting: false,
        });
    }
    let restarting = if branch.name.is_main() {
        let encrypted = encrypt_project(&core.key_ring, project.id, &after);
        projects::set_environment(&mut tx, project.id, &encrypted).await?;
        if needs_database(&after) {
            // A project that was created with another database gets its own once it names none.
            let resource = ResourceName::generate(&project.name);
            let password = database_password(&core.key_ring, project.id);
            databases::ensure(&mut tx, project.id, &resource, &password).await?;
        }
        sandboxes::bump_running(&mut tx, project.id, None).await?
    } else {
        let encrypted = encrypt_branch(&core.key_ring, branch.volume, &after);
        branches::set_environment(&mut tx, branch.volume, &encrypted).await?;
        sandboxes::bump_running(&mut tx, project.id, Some(branch.volume)).await?
    };
    let message = if restarting {
        "The environment was changed; the sandbox restarts with it."
    } else {
        "The environment was changed."
    };
    let event = NewEvent::new(&project, EventKind::EnvironmentChanged, message)
        .in_branch(&branch.name)
        .with(serde_json::json!({"names": names, "restarting": restarting, "by": caller.login()}));
    events::append(&mut tx, event).await?;
    tx.commit().await?;
    if restarting {
        core.hub.wake(Topic::DesiredState);
    }
    Ok(EnvironmentView {
        env_vars: env_vars(&after, false),
        restarting,
    })
}

/// The branch's own variables; the main branch's are the project's.
async fn load(core: &Core, tx: &mut PgConnection, branch: &BranchRow) -> Result<Variables> {
    if branch.name.is_main() {
        let encrypted = projects::environment(tx, branch.project).await?;
        decrypt_project(&core.key_ring, branch.project, &encrypted)
    } else {
        let encrypted = branches::environment(tx, branch.volume).await?;
        decrypt_branch(&core.key_ring, branch.volume, encrypted.as_deref())
    }
}

/// Pure: whether a project with these variables needs its own database.
pub(super) fn needs_database(variables: &Variables) -> bool {
    variables
        .get(DATABASE_URL)
        .is_none_or(|url| url.expose_secret().is_empty())
}

/// Pure: the names whose values differ.
fn changed(before: &Variables, after: &Variables) -> Vec<String> {
    let differs = |name: &&String| {
        before.get(*name).map(SecretString::expose_secret)
            != after.get(*name).map(SecretString::expose_secret)
    };
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    after.keys().chain(gone).filter(differs).cloned().collect()
}

pub(crate) fn env_vars(variables: &Variables, reveal: bool) -> BTreeMap<String, Option<String>> {
    variables
        .iter()
        .map(|(name, value)| (name.clone(), reveal.then(|| value.expose_secret().to_owned())))
        .collect()
}

fn write(variables: &Variables) -> SecretString {
    let plain: BTreeMap<_, _> = variables
        .iter()
        .map(|(name, value)| (name, value.expose_secret()))
        .collect();
    serde_json::to_string(&plain)
        .expect("a map of strings is serializable")
        .into()
}

fn read(text: &SecretString) -> Result<Variables> {
    let plain: BTreeMap<String, String> = serde_json::from_str(text.expose_secret())?;
    Ok(plain
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned().into()))
            .collect()
    }

    #[test]
    fn a_patch_keeps_other_variables() {
        let before = variables(&[("A", "1"), ("B", "2"), ("C", "3")]);
        let changes = [("A".to_owned(), None), ("B".to_owned(), Some("two".to_owned()))].into();
        let after = merged(before.clone(), changes);
        assert_eq!(
            env_vars(&after, true),
            [
                ("B".to_owned(), Some("two".to_owned())),
                ("C".to_owned(), Some("3".to_owned()))
            ]
            .into()
        );
        assert_eq!(changed(&before, &after), ["B", "A"]);
        assert!(changed(&before, &merged(before.clone(), BTreeMap::new())).is_empty());
    }
}
