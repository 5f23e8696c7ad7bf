//! Environment variables, and files beside this program.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::failure::Failure;

/// A program in the folder of this one.
pub(super) fn beside(name: &str) -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    Ok(program.parent().unwrap_or(Path::new("/")).join(name))
}

/// The client's token, if the environment has one.
pub fn client_token() -> Option<SecretString> {
    variable("FSA_TOKEN").map(SecretString::from)
}

/// The folder of this user's settings (XDG Base Directory Specification).
pub fn config_folder() -> Option<PathBuf> {
    variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")))
        .map(|folder| folder.join("fsa"))
}

pub(super) fn data_home() -> Option<PathBuf> {
    variable("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".local/share")))
}

/// The filter of the log.
pub fn log_filter() -> Option<String> {
    variable("FSA_LOG")
}

/// Whether log lines are JSON.
pub fn log_json() -> bool {
    variable("FSA_LOG_FORMAT").as_deref() == Some("json")
}

#[allow(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
