//! Control plane: the API (api/), authentication (auth/), the database (store/), reconciliation of the desired
//! state (reconcile/), and the gateway to the ports of sandboxes (gateway/).

#![forbid(unsafe_code)]

pub mod api;
pub mod auth;
pub mod backups;
pub mod callback;
pub mod core;
pub mod credential_cache;
pub mod encryption;
pub mod error;
pub mod extract;
pub mod gateway;
pub mod git;
pub mod git_credentials;
pub mod github;
pub mod github_client;
mod keyed_count;
pub mod listener;
pub mod llm_proxy;
pub mod login_throttle;
pub mod metrics;
pub mod pricing;
pub mod projects;
pub mod rate_limit;
pub mod reconcile;
mod regions;
mod sandbox_client;
pub mod settings;
pub mod state;
pub mod store;
pub mod tasks;
pub mod tunnel;

pub use error::{Error, Result};
pub use settings::Settings;
pub use state::App;
