//! Git credentials for repositories, requested by git in a sandbox. Each is for one repository, and none is stored in
//! the sandbox.
//!
//! Git names the repository that it connects to ([`Place`]). The [`Source`]s are queried in order.

use std::sync::Arc;

use async_trait::async_trait;
use fsa_model::ProjectId;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::{
    core::Core,
    error::Result,
    store::{associated_data, git},
};

/// A repository as git names it: scheme, server and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub protocol: String,
    /// Host name, with the port where that is not the scheme's default.
    pub host: String,
    /// Path without slashes around it and without `.git` at its end.
    pub path: String,
}

/// A user name and password for a server.
#[derive(Clone, Debug)]
pub struct Login {
    pub username: String,
    pub password: SecretString,
}

/// A source of repository credentials.
#[async_trait]
pub trait Source: Send + Sync {
    /// The credential of `place` for the sandboxes of `project`; `None` where this source has
    /// none for exactly that repository.
    ///
    /// # Errors
    /// The credential could not be determined.
    async fn login(&self, core: &Core, project: ProjectId, place: &Place) -> Result<Option<Login>>;

    /// Handles git's report that the repository's server refused `password`. Returns a sentence with advice for the
    /// person, if the credential came from this source. A false report by the sandbox does no harm that the sandbox
    /// could not have done anyway.
    ///
    /// # Errors
    /// The advice could not be determined.
    async fn refused(
        &self,
        core: &Core,
        project: ProjectId,
        place: &Place,
        password: &SecretString,
    ) -> Result<Option<String>>;
}

impl Place {
    /// Parses a repository's URL. `None` where passwords are not sent to such a URL.
    #[must_use]
    pub fn of_url(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let host = url.host_str()?;
        let host = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Self::new(url.scheme(), &host, url.path())
    }

    /// Whether it is on the server of this URL.
    #[must_use]
    pub fn is_at(&self, server: &Url) -> bool {
        let mut one = server.clone();
        one.set_path("/x");
        Self::of_url(one.as_str())
            .is_some_and(|one| (one.protocol, one.host) == (self.protocol.clone(), self.host.clone()))
    }

    /// Parses git's request (git-credential(1), INPUT/OUTPUT FORMAT): lines of `name=value`.
    #[must_use]
    pub fn of_question(text: &str) -> Option<Self> {
        Self::new(told(text, "protocol")?, told(text, "host")?, told(text, "path")?)
    }

    fn new(protocol: &str, host: &str, path: &str) -> Option<Self> {
        let path = path.trim_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path);
        let possible = matches!(protocol, "https" | "http") && !host.is_empty() && !path.is_empty();
        possible.then(|| Self {
            protocol: protocol.to_owned(),
            host: host.to_ascii_lowercase(),
            path: path.to_owned(),
        })
    }
}

/// One value of git's request.
fn told<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find_map(|(found, value)| (found == name).then_some(value))
}

/// The password in git's request.
#[must_use]
pub fn password_of(text: &str) -> Option<SecretString> {
    told(text, "password").map(|password| password.to_owned().into())
}

/// The credential that a person set for the project.
pub struct Stored;

#[async_trait]
impl Source for Stored {
    async fn login(&self, core: &Core, project: ProjectId, place: &Place) -> Result<Option<Login>> {
        let Some(row) = git::find(&core.store, project).await? else {
            return Ok(None);
        };
        if Place::of_url(&row.url).as_ref() != Some(place) {
            return Ok(None);
        }
        let id = project.to_string();
        Ok(Some(Login {
            username: row.username,
            password: core
                .key_ring
                .decrypt(associated_data::git_password(&id), &row.password)?,
        }))
    }

    async fn refused(
        &self,
        core: &Core,
        project: ProjectId,
        place: &Place,
        password: &SecretString,
    ) -> Result<Option<String>> {
        let Some(login) = self.login(core, project, place).await? else {
            return Ok(None);
        };
        if login.password.expose_secret() == password.expose_secret() {
            git::refused(&core.store, project).await?;
        }
        Ok(Some(format!(
            "{} refused the project's credential for this repository; set another one with `fsa git-credential set`",
            place.host
        )))
    }
}

/// All sources, in the order in which they are tried. Cheap to clone.
#[derive(Clone)]
pub struct GitCredentials(Arc<[Box<dyn Source>]>);

impl GitCredentials {
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Source>>) -> Self {
        Self(sources.into())
    }

    /// The credential of `place`, from the first source that has one.
    ///
    /// # Errors
    /// A source could not determine the credential, and none before it had one.
    pub async fn login(&self, core: &Core, project: ProjectId, place: &Place) -> Result<Option<Login>> {
        for source in self.0.iter() {
            if let Some(login) = source.login(core, project, place).await? {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    /// Reports to the sources that a server refused a password, until one returns advice.
    ///
    /// # Errors
    /// A source could not determine its advice.
    pub async fn refused(
        &self,
        core: &Core,
        project: ProjectId,
        place: &Place,
        password: &SecretString,
    ) -> Result<Option<String>> {
        for source in self.0.iter() {
            if let Some(sentence) = source.refused(core, project, place, password).await? {
                return Ok(Some(sentence));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_repository_is_the_same_in_every_spelling_and_another_is_not() {
        let url = |text| Place::of_url(text);
        let asked = |text| Place::of_question(text);
        let this = url("https://Git.Example/team/shop.git").unwrap();
        assert_eq!(url("https://git.example:443/team/shop/").unwrap(), this);
        assert_eq!(
            asked("protocol=https\nhost=git.example\npath=team/shop.git\n").unwrap(),
            this
        );
        for other in [
            "protocol=http\nhost=git.example\npath=team/shop\n",
            "protocol=https\nhost=git.example:444\npath=team/shop\n",
            "protocol=https\nhost=git.example\npath=team/shop/../other\n",
            "protocol=https\nhost=git.example.evil\npath=team/shop\n",
            "protocol=https\nhost=git.example\npath=team\n",
        ] {
            assert_ne!(asked(other).unwrap(), this, "{other}");
        }
        for nothing in [
            "",
            "protocol=https\nhost=git.example\n",
            "protocol=ssh\nhost=a\npath=b\n",
        ] {
            assert_eq!(asked(nothing), None, "{nothing}");
        }
    }
}
