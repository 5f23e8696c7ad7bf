//! A project's variables: sealed at rest, changed one by one, revealed on the record.

use std::collections::BTreeMap;

use fsa_model::{
    ProjectId, SandboxId, UserId, Wanted,
    api::{ChangeEnvironment, EnvironmentView},
    event::EventKind,
};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;

use super::validate;
use crate::{
    auth::{
        Caller,
        right::{Read, Write},
        seal::Sealer,
        sign_in,
    },
    error::{Error, Result},
    state::App,
    store::{
        events::{self, NewEvent},
        notify::Topic,
        places, projects, sandboxes,
    },
};

/// Variables in the clear, in memory only.
pub type Variables = BTreeMap<String, SecretString>;

/// Opens the project's own variables.
///
/// # Errors
/// The stored value is damaged, or its key is not there.
pub fn open_of_project(sealer: &Sealer, project: ProjectId, sealed: &[u8]) -> Result<Variables> {
    let id = project.to_string();
    read(&sealer.unseal(places::project_environment(&id), sealed)?)
}

/// Opens a user's variables for coding agents.
///
/// # Errors
/// As [`open_of_project`].
pub fn open_of_user(sealer: &Sealer, user: UserId, sealed: &[u8]) -> Result<Variables> {
    let id = user.to_string();
    read(&sealer.unseal(places::agent_credentials(&id), sealed)?)
}

/// Seals a user's variables for coding agents.
#[must_use]
pub fn seal_of_user(sealer: &Sealer, user: UserId, variables: &Variables) -> Vec<u8> {
    sealer.seal(places::agent_credentials(&user.to_string()), &write(variables))
}

/// Opens the variables of the request that started a sandbox.
///
/// # Errors
/// As [`open_of_project`].
pub fn open_of_request(sealer: &Sealer, sandbox: SandboxId, sealed: &[u8]) -> Result<Variables> {
    let id = sandbox.to_string();
    read(&sealer.unseal(places::request_environment(&id), sealed)?)
}

/// Seals the project's own variables.
#[must_use]
pub fn seal_of_project(sealer: &Sealer, project: ProjectId, variables: &Variables) -> Vec<u8> {
    sealer.seal(
        places::project_environment(&project.to_string()),
        &write(variables),
    )
}

/// Seals the variables of a request.
#[must_use]
pub fn seal_of_request(sealer: &Sealer, sandbox: SandboxId, variables: &Variables) -> Vec<u8> {
    sealer.seal(
        places::request_environment(&sandbox.to_string()),
        &write(variables),
    )
}

/// The names, and with `reveal` the values, which is audited before they are shown.
///
/// # Errors
/// Not found; the database does not answer.
pub async fn view(app: &App, caller: &Caller, project: &str, reveal: bool) -> Result<EnvironmentView> {
    let project = projects::find::<Read>(&app.store, caller, project).await?;
    let mut tx = app.store.begin().await?;
    let sealed = projects::environment(&mut tx, project.id).await?;
    let variables = open_of_project(&app.sealer, project.id, &sealed)?;
    if reveal {
        project.also::<Write>()?;
        sign_in::record(
            &mut tx,
            caller,
            "environment.reveal",
            format!("project {}", project.id),
        )
        .await?;
        tx.commit().await?;
    }
    Ok(EnvironmentView {
        env_vars: shown(&variables, reveal),
        restarting: false,
    })
}

/// Replaces all variables (PUT).
///
/// # Errors
/// 422 for a wrong variable, or one without a value.
pub async fn replace(
    app: &App,
    caller: &Caller,
    project: &str,
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
    store(app, caller, project, |_| variables).await
}

/// Sets some variables and removes those that are null (PATCH). The others stay.
///
/// # Errors
/// 422 for a wrong variable.
pub async fn change(
    app: &App,
    caller: &Caller,
    project: &str,
    request: ChangeEnvironment,
) -> Result<EnvironmentView> {
    store(app, caller, project, |variables| {
        merged(variables.clone(), request.env_vars)
    })
    .await
}

/// Pure: `changes` over `variables`, where null removes.
pub(crate) fn merged(mut variables: Variables, changes: BTreeMap<String, Option<String>>) -> Variables {
    for (name, value) in changes {
        match value {
            Some(value) => variables.insert(name, value.into()),
            None => variables.remove(&name),
        };
    }
    variables
}

/// Writes what `change` makes of the variables, and restarts the sandbox if that is something else.
async fn store(
    app: &App,
    caller: &Caller,
    project: &str,
    change: impl FnOnce(&Variables) -> Variables + Send,
) -> Result<EnvironmentView> {
    let found = projects::find::<Write>(&app.store, caller, project).await?;
    let mut tx = app.store.begin().await?;
    let project = projects::lock(&mut tx, &found).await?;
    let sealed = projects::environment(&mut tx, project.id).await?;
    let before = open_of_project(&app.sealer, project.id, &sealed)?;
    let after = change(&before);
    validate::variables(
        after
            .iter()
            .map(|(name, value)| (name.as_str(), value.expose_secret())),
    )?;
    let names = changed(&before, &after);
    if names.is_empty() {
        return Ok(EnvironmentView {
            env_vars: shown(&after, false),
            restarting: false,
        });
    }
    let sealed = seal_of_project(&app.sealer, project.id, &after);
    projects::set_environment(&mut tx, project.id, &sealed).await?;
    let restarting = renew(&mut tx, project.id).await?;
    let message = if restarting {
        "The environment was changed; the sandbox restarts with it."
    } else {
        "The environment was changed."
    };
    let event = NewEvent::new(&project, EventKind::EnvironmentChanged, message)
        .with(serde_json::json!({"names": names, "restarting": restarting, "by": caller.login()}));
    events::append(&mut tx, event).await?;
    tx.commit().await?;
    if restarting {
        app.hub.wake(Topic::Wishes);
    }
    Ok(EnvironmentView {
        env_vars: shown(&after, false),
        restarting,
    })
}

/// Gives the main sandbox a new generation if it is wanted running, so that it is brought up to
/// date; returns whether it is.
pub(super) async fn renew(tx: &mut PgConnection, project: ProjectId) -> Result<bool> {
    match sandboxes::main_in(tx, project).await? {
        Some(sandbox) if sandbox.wanted == Wanted::Running => {
            sandboxes::wish(tx, sandbox.id, Wanted::Running, false).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
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

pub(crate) fn shown(variables: &Variables, reveal: bool) -> BTreeMap<String, Option<String>> {
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
        .expect("a map of text is written without fail")
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
    fn a_change_keeps_what_it_does_not_name() {
        let before = variables(&[("A", "1"), ("B", "2"), ("C", "3")]);
        let changes = [("A".to_owned(), None), ("B".to_owned(), Some("two".to_owned()))].into();
        let after = merged(before.clone(), changes);
        assert_eq!(
            shown(&after, true),
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
