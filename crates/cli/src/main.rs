//! `fsa`: the server and its client in one binary.
//!
//! One file per command in `commands/`; shared code (settings, credentials, the API client, output) is beside it.

#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod config;
mod credentials;
mod failure;
mod input;
mod loopback_names;
mod output;
mod websocket;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // reqwest and rustls are built without a default TLS provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = args::Arguments::parse();
    commands::run(arguments)
}
