//! System user that `fsa serve` runs as when started as root.

use std::process::Command;

use fsa_local::privileges;

use crate::failure::Failure;

/// Finds the user, or creates it: a system user without a home, a shell or a password. Returns its
/// user and group id.
#[allow(
    clippy::disallowed_methods,
    reason = "useradd is the system's own way; it is awaited here"
)]
pub fn ensure(name: &str) -> Result<(u32, u32), Failure> {
    match privileges::system_user(name) {
        Ok(found) => return Ok(found),
        Err(privileges::PrivilegeError::NoUser(_)) => {}
        Err(error) => return Err(Failure::failed(error.to_string())),
    }
    let output = Command::new("useradd")
        .args([
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
        ])
        .args([
            "--shell",
            "/usr/sbin/nologin",
            "--comment",
            "FullStack Agent",
            "--",
            name,
        ])
        .output()
        .map_err(|error| {
            Failure::failed(format!(
                "the system user {name} is missing, and useradd cannot be started: {error}"
            ))
        })?;
    privileges::system_user(name).map_err(|error| {
        Failure::failed(format!(
            "{error}; output of useradd: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    })
}
