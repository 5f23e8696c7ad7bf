//! What all parts of sandboxd share: the boot document, the accounts, the state that is told.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use fsa_model::{
    callback,
    sandboxd::{Boot, Status},
};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::{
    asks::Asks, exec::tasks::Tasks, logs::Logs, options::Options, pulse::Pulse, reaper::Reaper, start::Start,
    terminal::Terminals, user::Accounts,
};

/// The sandbox, as sandboxd knows it.
#[derive(Debug)]
pub struct Sandbox {
    pub home: PathBuf,
    pub project: PathBuf,
    pub control_token: Token,
    pub terminal_token: Option<Token>,
    /// What programs in the sandbox show at the port where they ask.
    pub asks_token: Token,
    pub asks: Asks,
    pub tasks: Tasks,
    pub environment: BTreeMap<String, SecretString>,
    pub accounts: Accounts,
    pub reaper: Arc<Reaper>,
    pub logs: Logs,
    pub status: watch::Sender<Status>,
    pub pulse: Pulse,
    pub terminals: Terminals,
    pub start: Start,
    /// Set once, when the sandbox is to end.
    pub stopping: watch::Sender<bool>,
    /// Outlives an exec: what is left over of it and goes on writing.
    pub leftovers: Mutex<usize>,
}

impl Sandbox {
    #[must_use]
    pub fn new(options: &Options, boot: Boot, accounts: Accounts, reaper: Arc<Reaper>) -> Self {
        Self {
            home: options.home.clone(),
            project: options.project(),
            asks_token: Token(callback::token(&boot.control_token)),
            asks: Asks::default(),
            tasks: Tasks::default(),
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
            pulse: Pulse::default(),
            terminals: Terminals::default(),
            start: Start::new(boot.start_command, boot.repository),
            stopping: watch::Sender::new(false),
            leftovers: Mutex::new(0),
        }
    }

    /// Changes what is told, and tells it if it is another thing than before.
    pub fn tell(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }
}

/// A bearer token.
#[derive(Debug)]
pub struct Token(SecretString);

impl Token {
    /// Compares in a time that depends on the lengths alone.
    #[must_use]
    pub fn is(&self, given: &str) -> bool {
        !given.is_empty() && bool::from(self.0.expose_secret().as_bytes().ct_eq(given.as_bytes()))
    }

    /// For the one route that hands it to whoever has shown it.
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
    fn only_the_very_token_passes() {
        let token = Token::from("secret");
        assert!(token.is("secret"));
        for wrong in ["", "secre", "secrett", "Secret"] {
            assert!(!token.is(wrong), "{wrong}");
        }
        assert!(!Token::from("").is(""), "an empty token opens nothing");
    }
}
