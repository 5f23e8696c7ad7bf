//! Shared parts of the end-to-end tests: a fixture with the real binary, clients for its API, terminals and
//! gateway, public hosts, stand-ins for GitHub and for LLM providers, and the check that nothing is left over.
//!
//! `make test` builds the programs and exports their paths: `FSA_BIN`, `FSA_SANDBOXD`, `FSA_WEB_IMAGE`.
pub mod api;
pub mod api_server_proxy;
pub mod cluster;
pub mod github;
pub mod ingress;
pub mod invitation;
pub mod leftovers;
pub mod preview_client;
pub mod pty_program;
pub mod public_host;
pub mod reserved_port;
pub mod scripted_llm;
pub mod terminal;
pub mod world;

pub use api::Api;
pub use preview_client::PreviewClient;
pub use pty_program::PtyProgram;
pub use reserved_port::ReservedPort;
pub use terminal::TestTerminal;
pub use world::World;

/// Installs the TLS provider of the process; tests call this before their first request.
pub fn init() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Path that `make test` exports.
///
/// # Panics
/// The variable is not set.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "make exports the settings of the tests")]
pub fn exported(name: &str) -> std::path::PathBuf {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run the end-to-end tests through `make test`"))
        .into()
}
