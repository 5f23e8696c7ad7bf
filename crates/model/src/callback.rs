//! How programs in a sandbox ask the control plane for what it keeps for them: the way to a model,
//! a git credential.
//!
//! The control plane reaches sandboxd and never the other way. So a program asks sandboxd, at
//! [`PORT`] on the sandbox's loopback; sandboxd says in its status that somebody asks
//! ([`crate::sandboxd::Status::asking`]); the control plane opens a connection, upgrades it
//! (`POST /v1/asks`, `Upgrade: fsa-asks`), and from then on the two change roles on it: sandboxd is
//! an HTTP/2 client, the control plane the server. Nothing that comes over it is trusted.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// Where sandboxd listens, on the sandbox's loopback alone.
pub const PORT: u16 = 7682;
/// The word of the upgrade.
pub const UPGRADE: &str = "fsa-asks";
/// The route that is upgraded.
pub const ROUTE: &str = "/v1/asks";
/// Says to the control plane which task's process asks. sandboxd sets it and takes it from nobody.
pub const TASK_HEADER: &str = "fsa-task";
/// Variables by which a sandbox's programs find the way: an URL, and what opens it.
pub const URL_VARIABLE: &str = "FSA_ASKS_URL";
pub const TOKEN_VARIABLE: &str = "FSA_ASKS_TOKEN";

/// What a program shows at the port. It follows from the sandbox's control token, which cannot be
/// found from it, and opens that port in that sandbox and nothing else anywhere.
#[must_use]
pub fn token(control_token: &SecretString) -> SecretString {
    let digest = Sha256::new()
        .chain_update(b"fsa asks token\0")
        .chain_update(control_token.expose_secret().as_bytes())
        .finalize();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("fsa-sandbox-{hex}").into()
}

/// The token of one task's process: the sandbox's, and which task it is.
#[must_use]
pub fn token_of_task(control_token: &SecretString, task: &str) -> SecretString {
    format!("{}.{task}", token(control_token).expose_secret()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_same_each_time_and_another_one_in_each_sandbox() {
        let of = |text: &str| token(&text.to_owned().into()).expose_secret().to_owned();
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
        assert!(!of("the-control-token").contains("control"));
        let task = token_of_task(&"a".to_owned().into(), "7");
        assert_eq!(task.expose_secret(), &format!("{}.7", of("a")));
    }
}
