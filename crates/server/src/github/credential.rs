//! GitHub credential source: the linked account of a project's owner as a git credential, only for the project's own
//! repositories at GitHub.

use async_trait::async_trait;
use fsa_model::{ProjectId, UserId};
use secrecy::{ExposeSecret as _, SecretString};

use super::token;
use crate::{
    core::Core,
    error::{Error, Result},
    git_credentials::{CredentialSource, Login, RepositoryLocation},
    github_client::{Github, GithubError},
    store::{git, github},
};

/// GitHub takes any user name with a token; its documentation uses this one.
const USERNAME: &str = "x-access-token";

/// The source described in the module.
pub struct LinkedAccount;

/// The project's owner, if `location` is one of the project's own repositories and at GitHub.
async fn owner<'a>(
    core: &'a Core,
    project: ProjectId,
    location: &RepositoryLocation,
) -> Result<Option<(&'a Github, UserId)>> {
    let Some(client) = core
        .github
        .as_ref()
        .filter(|client| location.is_on_server(&client.settings.url))
    else {
        return Ok(None);
    };
    let own = git::own_repositories(&core.store, project).await?;
    let own = own.filter(|own| {
        own.urls
            .iter()
            .any(|url| RepositoryLocation::from_url(url).as_ref() == Some(location))
    });
    Ok(own.map(|own| (client, own.owner)))
}

/// The error, with advice, for an owner without a token.
async fn missing(core: &Core, user: UserId) -> Result<Error> {
    let mut connection = core.store.pool().acquire().await?;
    Ok(match github::account_of(&mut connection, user).await? {
        Some(account) => Error::conflict(format!(
            "GitHub no longer accepts the token of {}, who owns this project. They must sign in with GitHub or \
             link the account again.",
            account.login
        )),
        None => Error::conflict(
            "The owner of this project has no account at GitHub here: link one on the account page, or \
             set a credential with `fsa git-credential set`.",
        ),
    })
}

#[async_trait]
impl CredentialSource for LinkedAccount {
    async fn login(
        &self,
        core: &Core,
        project: ProjectId,
        location: &RepositoryLocation,
    ) -> Result<Option<Login>> {
        let Some((client, user)) = owner(core, project, location).await? else {
            return Ok(None);
        };
        let password = if client.settings.app {
            let path = location.path.as_str();
            token::call_as_user(core, user, |token| async move {
                client.repository_token(&token, path).await
            })
            .await
        } else {
            match token::valid(core, user).await? {
                Some(token) => Ok(token),
                None => Err(missing(core, user).await?),
            }
        };
        Ok(Some(Login {
            username: USERNAME.to_owned(),
            password: password?,
        }))
    }

    async fn refused(
        &self,
        core: &Core,
        project: ProjectId,
        location: &RepositoryLocation,
        password: &SecretString,
    ) -> Result<Option<String>> {
        let Some((client, user)) = owner(core, project, location).await? else {
            return Ok(None);
        };
        let Some(grant) = github::grant_of(&core.store, &core.key_ring, user).await? else {
            return Ok(Some(missing(core, user).await?.message().to_owned()));
        };
        if !client.settings.app && grant.token.expose_secret() != password.expose_secret() {
            return Ok(Some(
                "the token was renewed in the meantime; try again".to_owned(),
            ));
        }
        // A sandbox is not trusted, and a server in between may have refused: GitHub's API decides.
        match client.account(&grant.token).await {
            Ok(account) => Ok(Some(format!(
                "GitHub accepts the token of {} but denies access to {}: the organization may have to approve it",
                account.login, location.path
            ))),
            Err(GithubError::TokenRefused) => match token::renew(core, user, &grant.token).await? {
                Some(_) => Ok(Some("the token was renewed; try again".to_owned())),
                None => Ok(Some(missing(core, user).await?.message().to_owned())),
            },
            Err(other) => Err(other.into()),
        }
    }
}
