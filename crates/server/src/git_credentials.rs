//! Git credentials for repositories, requested by git in a sandbox. Each is for one repository, and none is stored in
//! the sandbox.
//!
//! Git names the repository that it connects to ([`RepositoryLocation`]). The [`CredentialSource`]s are queried in
//! order.

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
pub struct RepositoryLocation {
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
pub trait CredentialSource: Send + Sync {
    /// The credential of `location` for the sandboxes of `project`; `None` where this source has
    /// none for exactly that repository.
    ///
    /// # Errors
    /// The credential could not be determined.
    async fn login(
        &self,
        core: &Core,
        project: ProjectId,
        location: &RepositoryLocation,
    ) -> Result<Option<Login>>;

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
        location: &RepositoryLocation,
        password: &SecretString,
    ) -> Result<Option<String>>;
}

impl RepositoryLocation {
    /// Parses a repository's URL. `None` where passwords are not sent to such a URL.
    #[must_use]
    pub fn from_url(url: &str) -> Option<Self> {
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
    pub fn is_on_server(&self, server: &Url) -> bool {
        let mut one = server.clone();
        one.set_path("/x");
        Self::from_url(one.as_str())
            .is_some_and(|one| (one.protocol, one.host) == (self.protocol.clone(), self.host.clone()))
    }

    /// Parses git's request (git-credential(1), INPUT/OUTPUT FORMAT): lines of `name=value`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::new(
            value(text, "protocol")?,
            value(text, "host")?,
            value(text, "path")?,
        )
    }

    fn new(protocol: &str, host: &str, path: &str) -> Option<Self> {
        let path = path.trim_matches('/');
        // Git LFS of a repository (git-lfs, docs/api/server-discovery.md): `me/app.git/info/lfs`.
        let path = path.strip_suffix("/info/lfs").unwrap_or(path);
        let path = path.strip_suffix(".git").unwrap_or(path);
        let supported = matches!(protocol, "https" | "http") && !host.is_empty() && !path.is_empty();
        supported.then(|| Self {
            protocol: protocol.to_owned(),
            host: host.to_ascii_lowercase(),
            path: path.to_owned(),
        })
    }
}

/// One value of git's request.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find_map(|(found, value)| (found == name).then_some(value))
}

/// The password in git's request.
#[must_use]
pub fn password_of(text: &str) -> Option<SecretString> {
    value(text, "password").map(|password| password.to_owned().into())
}

/// The credential that a person set for the project.
pub struct StoredCredential;

#[async_trait]
impl CredentialSource for StoredCredential {
    async fn login(
        &self,
        core: &Core,
        project: ProjectId,
        location: &RepositoryLocation,
    ) -> Result<Option<Login>> {
        let Some(row) = git::find(&core.store, project).await? else {
            return Ok(None);
        };
        if RepositoryLocation::from_url(&row.url).as_ref() != Some(location) {
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
        location: &RepositoryLocation,
        password: &SecretString,
    ) -> Result<Option<String>> {
        let Some(login) = self.login(core, project, location).await? else {
            return Ok(None);
        };
        if login.password.expose_secret() == password.expose_secret() {
            git::mark_refused(&core.store, project).await?;
        }
        Ok(Some(format!(
            "{} refused the project's credential for this repository; set another one with `fsa git-credential set`",
            location.host
        )))
    }
}

/// All sources, in the order in which they are tried. Cheap to clone.
#[derive(Clone)]
pub struct GitCredentials(Arc<[Box<dyn CredentialSource>]>);

impl GitCredentials {
    #[must_use]
    pub fn new(sources: Vec<Box<dyn CredentialSource>>) -> Self {
        Self(sources.into())
    }

    /// The credential of `location`, from the first source that has one.
    ///
    /// # Errors
    /// A source could not determine the credential, and none before it had one.
    pub async fn login(
        &self,
        core: &Core,
        project: ProjectId,
        location: &RepositoryLocation,
    ) -> Result<Option<Login>> {
        for source in self.0.iter() {
            if let Some(login) = source.login(core, project, location).await? {
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
        location: &RepositoryLocation,
        password: &SecretString,
    ) -> Result<Option<String>> {
        for source in self.0.iter() {
            if let Some(sentence) = source.refused(core, project, location, password).await? {
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
    fn equivalent_repository_urls_are_equal() {
        let url = |text| RepositoryLocation::from_url(text);
        let parse = |text| RepositoryLocation::parse(text);
        let this = url("https://Git.Example/team/shop.git").unwrap();
        assert_eq!(url("https://git.example:443/team/shop/").unwrap(), this);
        assert_eq!(
            parse("protocol=https\nhost=git.example\npath=team/shop.git\n").unwrap(),
            this
        );
        assert_eq!(
            parse("protocol=https\nhost=git.example\npath=team/shop.git/info/lfs\n").unwrap(),
            this
        );
        for other in [
            "protocol=http\nhost=git.example\npath=team/shop\n",
            "protocol=https\nhost=git.example:444\npath=team/shop\n",
            "protocol=https\nhost=git.example\npath=team/shop/../other\n",
            "protocol=https\nhost=git.example.evil\npath=team/shop\n",
            "protocol=https\nhost=git.example\npath=team\n",
        ] {
            assert_ne!(parse(other).unwrap(), this, "{other}");
        }
        for nothing in [
            "",
            "protocol=https\nhost=git.example\n",
            "protocol=ssh\nhost=a\npath=b\n",
        ] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
    }
}
