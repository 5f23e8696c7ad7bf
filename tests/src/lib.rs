//! What the end-to-end tests share: a world with the real binary in it, clients for its API, its
//! terminals and its gateway, an Internet of its own, and the check that nothing is left over.
//!
//! `make test` builds what is run here and says where it is: `FSA_BIN`, `FSA_SANDBOXD`,
//! `FSA_WEB_IMAGE`.

pub mod api;
pub mod cluster;
pub mod github;
pub mod ingress;
pub mod internet;
pub mod keyboard;
pub mod leftovers;
pub mod model;
pub mod terminal;
pub mod visit;
pub mod way;
pub mod world;

pub use api::Api;
pub use keyboard::Keyboard;
pub use terminal::TestTerminal;
pub use visit::Visitor;
pub use world::World;

/// One TLS provider for the whole process; tests call this before their first request.
pub fn init() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A setting that `make test` exports.
///
/// # Panics
/// Where it is missing, with the way to get it.
#[must_use]
#[allow(
    clippy::disallowed_methods,
    reason = "tests have no settings but what make exports"
)]
pub fn exported(name: &str) -> std::path::PathBuf {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run the end-to-end tests through `make test`"))
        .into()
}
