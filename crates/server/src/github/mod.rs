//! GitHub, as a way to sign in and as a place where repositories are.
//!
//! `client` makes the calls, `sign_in` decides who comes in by them, `token` keeps what lets us in
//! in somebody's name, `repositories` lists and makes repositories, `credential` lets git in
//! sandboxes in to them.

mod client;
pub mod credential;
pub mod repositories;
pub mod sign_in;
mod token;

use secrecy::SecretString;
use url::Url;

pub use client::Github;

/// What the person who runs the server decided about GitHub.
#[derive(Clone, Debug)]
pub struct Settings {
    pub client_id: String,
    pub client_secret: SecretString,
    /// Where people sign in: `https://github.com/`, or a GitHub Enterprise server.
    pub url: Url,
    /// Its API: `https://api.github.com/`, or `https://HOST/api/v3/`.
    pub api: Url,
    /// The client is a GitHub App, and no OAuth App: what it may do is set at GitHub, its tokens
    /// expire, and git in a sandbox gets one for its own repository alone.
    pub app: bool,
    pub join: Join,
}

/// Who may become a user by signing in with GitHub. Whoever is a user already may sign in
/// whatever this says.
#[derive(Clone, Debug, Default)]
pub struct Join {
    pub anyone: bool,
    /// These logins at GitHub.
    pub logins: Vec<String>,
    /// Members of these organizations.
    pub organizations: Vec<String>,
}

impl Join {
    /// Whether somebody with this login may join; `None` where their organizations decide.
    #[must_use]
    pub fn by_login(&self, login: &str) -> Option<bool> {
        if self.anyone
            || self
                .logins
                .iter()
                .any(|listed| listed.eq_ignore_ascii_case(login))
        {
            return Some(true);
        }
        self.organizations.is_empty().then_some(false)
    }

    /// Whether a member of these organizations may join.
    #[must_use]
    pub fn by_organizations(&self, theirs: &[String]) -> bool {
        theirs.iter().any(|one| {
            self.organizations
                .iter()
                .any(|listed| listed.eq_ignore_ascii_case(one))
        })
    }
}
