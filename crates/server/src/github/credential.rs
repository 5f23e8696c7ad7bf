//! GitHub credential source: the linked account of a project's owner as a git credential, only for the project's own
//! repositories at GitHub.

use async_trait::async_trait;
use fsa_model::{ProjectId, UserId};
use secrecy::{ExposeSecret as _, SecretString};

use super::token;
use crate::{
    core::Core,
    error::{Error, Result},
    git_credentials::{Login, Place, Source},
    github_client::{CallError, Github},
    store::{git, github},
};

/// GitHub takes any user name with a token; its documentation uses this one.
const USERNAME: &str = "x-access-token";

/// The source described in the module.
pub struct Linked;

/// The project's owner, if `place` is one of the project's own repositories and at GitHub.
async fn owner<'a>(
    core: &'a Core,
    project: ProjectId,
    place: &Place,
) -> Result<Option<(&'a Github, UserId)>> {
    let Some(way) = core.github.as_ref().filter(|way| place.is_at(&way.settings.url)) else {
        return Ok(None);
    };
    let own = git::own(&core.store, project).await?;
    let own = own.filter(|own| {
        own.urls
            .iter()
            .any(|url| Place::of_url(url).as_ref() == Some(place))
    });
    Ok(own.map(|own| (way, own.owner)))
}

/// The error, with advice, for an owner without a token.
async fn missing(core: &Core, user: UserId) -> Result<Error> {
    let mut connection = core.store.pool().acquire().await?;
    Ok(match github::account_of(&mut connection, user).await? {
        Some(account) => Error::conflict(format!(
            "GitHub no longer takes the token of {}, who owns this project: they sign in with GitHub again, or \
             link the account again.",
            account.login
        )),
        None => Error::conflict(
            "The owner of this project has no account at GitHub here: they link one on their account page, or \
             a credential is set with `fsa git-credential set`.",
        ),
    })
}

#[async_trait]
impl Source for Linked {
    async fn login(&self, core: &Core, project: ProjectId, place: &Place) -> Result<Option<Login>> {
        let Some((way, user)) = owner(core, project, place).await? else {
            return Ok(None);
        };
        let password = if way.settings.app {
            let path = place.path.as_str();
            token::in_name_of(
                core,
                user,
                |token| async move { way.narrowed(&token, path).await },
            )
            .await
        } else {
            match token::of(core, user).await? {
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
        place: &Place,
        password: &SecretString,
    ) -> Result<Option<String>> {
        let Some((way, user)) = owner(core, project, place).await? else {
            return Ok(None);
        };
        let Some(grant) = github::grant_of(&core.store, &core.key_ring, user).await? else {
            return Ok(Some(missing(core, user).await?.message().to_owned()));
        };
        if !way.settings.app && grant.token.expose_secret() != password.expose_secret() {
            return Ok(Some("the token was renewed meanwhile; try again".to_owned()));
        }
        // A sandbox is not trusted, and a server in between may have refused: GitHub's API decides.
        match way.account(&grant.token).await {
            Ok(account) => Ok(Some(format!(
                "GitHub knows {} and does not let them in to {}: their organization may have to allow it",
                account.login, place.path
            ))),
            Err(CallError::TokenRefused) => match token::renewed(core, user, &grant.token).await? {
                Some(_) => Ok(Some("the token was renewed; try again".to_owned())),
                None => Ok(Some(missing(core, user).await?.message().to_owned())),
            },
            Err(other) => Err(other.into()),
        }
    }
}
