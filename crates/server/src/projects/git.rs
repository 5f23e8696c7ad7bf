//! Git credential of a project's repository: encrypted at rest, never shown, given to git only.

use fsa_model::{
    ProjectId, Repository,
    agent_api::{GitCredential, SetGitCredential},
};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;

use super::validate;
use crate::{
    auth::{
        Caller,
        permission::{Manage, Read},
    },
    core::Core,
    encryption::KeyRing,
    error::{Error, Result},
    store::{associated_data, audit, git, projects},
};

/// The maximum length of a user name or password.
const MAX_LENGTH: usize = 10_000;

/// The credential's user and repository, without its password.
///
/// # Errors
/// Not found: the project or its credential.
pub async fn view(core: &Core, caller: &Caller, project: &str) -> Result<GitCredential> {
    let project = projects::find::<Read>(&core.store, caller, project).await?;
    let row = git::find(&core.store, project.id)
        .await?
        .ok_or_else(|| Error::not_found("git credential"))?;
    Ok(GitCredential {
        url: row.url,
        username: row.username,
        updated_at: row.updated_at,
        refused_at: row.refused_at,
    })
}

/// Sets the credential.
///
/// # Errors
/// 422 with the field and its rule.
pub async fn set(
    core: &Core,
    caller: &Caller,
    project: &str,
    request: SetGitCredential,
) -> Result<GitCredential> {
    let found = projects::find::<Manage>(&core.store, caller, project).await?;
    let url = match (request.url, &found.repository) {
        (Some(url), _) => url,
        (None, Some(repository)) => repository.url.clone(),
        (None, None) => {
            return Err(Error::invalid(
                "url",
                "the project has no repository, so the URL is required",
            ));
        }
    };
    validate::repository(&Repository {
        url: url.clone(),
        branch: None,
    })
    .map_err(|error| match error.field() {
        Some(field) => Error::invalid("url", field.rule.clone()),
        None => error,
    })?;
    let mut tx = core.store.begin().await?;
    let project = projects::lock(&mut tx, &found).await?;
    store(
        &mut tx,
        &core.key_ring,
        project.id,
        &url,
        &request.username,
        &request.password,
    )
    .await?;
    audit::record(
        &mut tx,
        caller,
        "git-credential.set",
        format!("project {}", project.id),
    )
    .await?;
    tx.commit().await?;
    view(core, caller, &project.id.to_string()).await
}

/// Stores a checked credential for a checked URL.
///
/// # Errors
/// 422 with the field and its rule.
pub(super) async fn store(
    tx: &mut PgConnection,
    key_ring: &KeyRing,
    project: ProjectId,
    url: &str,
    username: &str,
    password: &SecretString,
) -> Result<()> {
    for (field, text) in [("username", username), ("password", password.expose_secret())] {
        if text.is_empty() || text.len() > MAX_LENGTH || text.chars().any(char::is_control) {
            let rule = format!("it has from 1 to {MAX_LENGTH} characters, and no control character");
            return Err(Error::invalid(field, rule));
        }
    }
    let encrypted = key_ring.encrypt(associated_data::git_password(&project.to_string()), password);
    git::set(tx, project, url, username, &encrypted).await
}

/// Removes the credential.
///
/// # Errors
/// Not found.
pub async fn delete(core: &Core, caller: &Caller, project: &str) -> Result<()> {
    let found = projects::find::<Manage>(&core.store, caller, project).await?;
    let mut tx = core.store.begin().await?;
    let project = projects::lock(&mut tx, &found).await?;
    git::delete(&mut tx, project.id).await?;
    audit::record(
        &mut tx,
        caller,
        "git-credential.forget",
        format!("project {}", project.id),
    )
    .await?;
    tx.commit().await?;
    Ok(())
}
