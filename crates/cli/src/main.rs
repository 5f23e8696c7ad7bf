//! `fsa`: the server and its client in one binary.
//!
//! One file per command in `commands/`; what they share (settings, credentials, the API client, printing) is beside
//! them.

#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod config;
mod credentials;
mod failure;
mod input;
mod output;
mod websocket;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // reqwest is built without a TLS provider, so that there is one: ring.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = args::Arguments::parse();
    commands::run(arguments)
}
