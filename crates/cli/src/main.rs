//! `fsa`: the server and its client in one binary.
//!
//! One file per command in `commands/`; what they share (settings, credentials, the API client,
//! the way to print) is beside them.

#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod config;
mod credentials;
mod failure;
mod output;
mod sse;
mod websocket;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // reqwest is built without a provider of its own, so that there is one TLS stack: ring's.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = args::Arguments::parse();
    commands::run(arguments)
}
