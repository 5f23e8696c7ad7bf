//! Messages about database servers: what the runner is given for one, and what it observes of it.

use fsa_model::{Failure, FailureKind, Resources, VolumeId};
use serde::{Deserialize, Serialize};

use super::ExitCause;

/// PostgreSQL's longest name in bytes (`NAMEDATALEN - 1`).
const NAME_MAX: usize = 63;
const VERIFIER_MAX: usize = 512;

/// What a volume's database has to be. The runner keeps it beside the files, so that the server can
/// be started by a name alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSetup {
    /// The name of the project's role and database.
    pub role: String,
    /// The SCRAM verifier of the role's password.
    pub verifier: String,
    /// The project's limits. The server's follow from them.
    pub resources: Resources,
}

/// When [`super::Request::StopDatabase`] stops a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StopWhen {
    Always,
    /// No client is connected.
    Unused,
}

/// The observed state of a volume's database server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedServer {
    pub volume: VolumeId,
    pub setup: DatabaseSetup,
    /// The PostgreSQL release that made the files; `None` before the first start.
    pub major: Option<u32>,
    /// The files were made, and are missing.
    pub lost: bool,
    pub running: bool,
    /// It accepts clients ([`super::Request::OpenDatabase`]).
    pub open: bool,
    /// Connected clients, `fsa serve` among them.
    pub connections: u32,
}

/// How a database server ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseExit {
    pub volume: VolumeId,
    pub how: ExitCause,
}

/// Validates what serde does not.
///
/// # Errors
/// Names the field.
pub fn check(setup: &DatabaseSetup) -> Result<(), Failure> {
    let wrong = |what: &str| {
        Err(Failure::new(
            FailureKind::Internal,
            format!("the runner was given {what}"),
        ))
    };
    let role = setup.role.as_bytes();
    if role.is_empty()
        || role.len() > NAME_MAX
        || !role.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    {
        return wrong("an invalid name of a database");
    }
    let verifier = setup.verifier.as_bytes();
    if !verifier.starts_with(b"SCRAM-SHA-256$")
        || verifier.len() > VERIFIER_MAX
        || !verifier
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-$:+/=".contains(b))
    {
        return wrong("an invalid verifier of a password");
    }
    if setup.resources.memory_limit_mib < 8 || setup.resources.pids_limit < 8 {
        return wrong("limits too low for any program");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fsa_model::Size;

    use super::*;

    fn setup(role: &str, verifier: &str) -> DatabaseSetup {
        DatabaseSetup {
            role: role.to_owned(),
            verifier: verifier.to_owned(),
            resources: Size::Micro.resources(),
        }
    }

    #[test]
    fn a_name_or_verifier_that_could_be_something_else_is_refused() {
        let verifier = "SCRAM-SHA-256$4096:c2FsdA==$a2V5+/=:a2V5";
        check(&setup("todo_app_2k3b4c", verifier)).unwrap();
        for (role, verifier) in [
            ("", verifier),
            ("../x", verifier),
            ("a\"b", verifier),
            (&*"a".repeat(64), verifier),
            ("todo", "md5abc"),
            ("todo", "SCRAM-SHA-256$4096:x' SUPERUSER"),
        ] {
            check(&setup(role, verifier)).unwrap_err();
        }
    }
}
