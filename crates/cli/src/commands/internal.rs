//! The hidden commands with which `fsa serve` starts its other processes. Neither has threads or
//! a runtime when it begins.

use std::process::ExitCode;

use super::serve::log;

pub fn runner() -> ExitCode {
    log::start();
    fsa_local::runner::entry()
}

pub fn gate() -> ExitCode {
    log::start();
    fsa_local::database_proxy::entry()
}
