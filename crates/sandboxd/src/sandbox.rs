//! Shared state of sandboxd: the boot document, the accounts, the published status.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use fsa_model::{
    callback,
    sandboxd::{Boot, Status},
};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::{logs::Logs, options::Options, poll_trigger::PollTrigger, reaper::Reaper, user::Accounts};

/// State of the sandbox.
#[derive(Debug)]
pub struct Sandbox {
    pub home: PathBuf,
    pub project: PathBuf,
    pub control_token: Token,
    pub terminal_token: Option<Token>,
    /// Token of the callback's local proxy.
    pub callback_token: Token,
    pub environment: BTreeMap<String, SecretString>,
    pub accounts: Accounts,
    pub reaper: Arc<Reaper>,
    pub logs: Logs,
    pub status: watch::Sender<Status>,
    pub poll_trigger: PollTrigger,
    /// Set once, when the sandbox stops.
    pub stopping: watch::Sender<bool>,
    /// Number of pipes that are drained because a process outlived its exec and still writes.
    pub leftovers: Mutex<usize>,
}

impl Sandbox {
    #[must_use]
    pub fn new(options: &Options, boot: Boot, accounts: Accounts, reaper: Arc<Reaper>) -> Self {
        Self {
            home: options.home.clone(),
            project: options.project(),
            callback_token: Token(callback::token(&boot.control_token)),
            control_token: Token(boot.control_token),
            terminal_token: boot.terminal_token.map(Token),
            environment: boot.environment,
            accounts,
            reaper,
            logs: Logs::default(),
            status: watch::Sender::new(Status {
                version: env!("CARGO_PKG_VERSION").into(),
                ready: true,
                ..Status::default()
            }),
            poll_trigger: PollTrigger::default(),
            stopping: watch::Sender::new(false),
            leftovers: Mutex::new(0),
        }
    }

    /// Updates the status, and notifies its watchers if it has changed.
    pub fn update_status(&self, update: impl FnOnce(&mut Status)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            update(status);
            *status != before
        });
    }
}

/// Bearer token.
#[derive(Debug)]
pub struct Token(SecretString);

impl Token {
    /// Compares in a time that depends on the lengths only.
    #[must_use]
    pub fn is(&self, given: &str) -> bool {
        !given.is_empty() && bool::from(self.0.expose_secret().as_bytes().ct_eq(given.as_bytes()))
    }

    /// The text, for the one route that returns the token to a client that has it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_is_accepted() {
        let token = Token::from("secret");
        assert!(token.is("secret"));
        for wrong in ["", "secre", "secrett", "Secret"] {
            assert!(!token.is(wrong), "{wrong}");
        }
        assert!(!Token::from("").is(""), "an empty token is never accepted");
    }
}
