//! Hidden commands: the processes that `fsa serve` starts. Neither has threads or a runtime when it begins.

use std::process::ExitCode;

use super::serve::log;

/// Makes the runner log nothing.
pub const QUIET: &str = "quiet";

pub fn runner() -> ExitCode {
    match std::env::args().any(|argument| argument == QUIET) {
        true => log::start_quiet(),
        false => log::start(),
    }
    fsa_local::runner::entry()
}

pub fn database_proxy() -> ExitCode {
    log::start();
    fsa_local::database_proxy::entry()
}
