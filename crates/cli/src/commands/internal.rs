//! Hidden commands: the processes that `fsa serve` starts. Neither has threads or a runtime when it begins.

use std::process::ExitCode;

use super::serve::log;

pub fn runner() -> ExitCode {
    log::start();
    fsa_local::runner::entry()
}

pub fn database_proxy() -> ExitCode {
    log::start();
    fsa_local::database_proxy::entry()
}
