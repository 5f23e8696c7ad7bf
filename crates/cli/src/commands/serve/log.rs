//! Logging of the server's processes: text lines or JSON.

use tracing_subscriber::{EnvFilter, fmt};

use crate::config;

/// Starts logging to standard error. A second call changes nothing.
pub fn start() {
    start_from("info");
}

/// Logs nothing unless the environment has a level: for a command whose output says what failed.
pub fn start_quiet() {
    start_from("off");
}

fn start_from(default: &str) {
    let filter = config::log_filter().unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(default));
    let lines = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    let _ = if config::log_json() {
        lines.json().try_init()
    } else {
        lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init()
    };
}
