//! Sandbox callback (reverse tunnel): requests of programs in a sandbox to the control plane, for model
//! calls and git credentials.
//!
//! The control plane connects to sandboxd and never the other way. So a program sends its request to
//! sandboxd, at [`PORT`] on the sandbox's loopback; sandboxd sets a flag in its status
//! ([`crate::sandboxd::Status::callback_requested`]); the control plane opens a connection and upgrades
//! it, and from then on the roles on it are reversed: sandboxd is an HTTP/2 client, the control plane
//! the server. Nothing that comes over it is trusted.
//!
//! **Wire values.** sandboxd processes outlive the control plane and run with the build that started
//! them. So [`UPGRADE`], [`ROUTE`], the status field `asking`, and the variables `FSA_ASKS_URL` and
//! `FSA_ASKS_TOKEN` keep the name that this protocol had first, "asks".

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// Port of sandboxd's local proxy, on the sandbox's loopback only.
pub const PORT: u16 = 7682;
/// Protocol name in the `Upgrade` header.
pub const UPGRADE: &str = "fsa-asks";
/// Route that is upgraded.
pub const ROUTE: &str = "/v1/asks";
/// Header with the id of the task whose process sent the request. sandboxd sets it, and removes it from
/// the requests of programs.
pub const TASK_HEADER: &str = "fsa-task";
/// Environment variables of a sandbox's programs: the URL of the port, and the token for it.
pub const URL_VARIABLE: &str = "FSA_ASKS_URL";
pub const TOKEN_VARIABLE: &str = "FSA_ASKS_TOKEN";

/// Token that a program sends to the port. It is derived one way from the sandbox's control token, and is
/// valid for that port in that sandbox only.
#[must_use]
pub fn token(control_token: &SecretString) -> SecretString {
    let digest = Sha256::new()
        .chain_update(b"fsa asks token\0")
        .chain_update(control_token.expose_secret().as_bytes())
        .finalize();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("fsa-sandbox-{hex}").into()
}

/// Token of one task's process: the sandbox's [`token`] and the task's id.
#[must_use]
pub fn task_token(token: &str, task: &str) -> String {
    format!("{token}.{task}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_stable_and_differs_between_sandboxes() {
        let of = |text: &str| token(&text.to_owned().into()).expose_secret().to_owned();
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
        assert!(!of("the-control-token").contains("control"));
        assert_eq!(task_token(&of("a"), "7"), format!("{}.7", of("a")));
    }
}
