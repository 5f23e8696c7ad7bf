//! The runner as a separate program, for this crate's tests: they start it as `fsa serve` starts
//! `fsa runner`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    fsa_local::runner::entry()
}
