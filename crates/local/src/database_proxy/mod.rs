//! The way from each sandbox to its own database.
//!
//! In each sandbox 127.0.0.1:5432 is a listening socket that the runner made in the sandbox's
//! network namespace and that the gate accepts from. The gate reads a client's opening, refuses
//! every user and database but the sandbox's own, and copies bytes to the projects cluster's Unix
//! socket. It is one process for all sandboxes and outlives `fsa serve`, so connections do too.
//!
//! - A bound socket keeps its network namespace alive, whether or not anything else lives in it,
//!   and nothing tells the gate that the sandbox is gone. So whoever stops or destroys a sandbox
//!   unbinds it.
//! - A gate that dies loses its sockets and connections. [`DatabaseProxyClient::is_bound`] then says so,
//!   and the sandboxes are bound anew as they are looked at.
//! - Cancel requests are passed on for the connections of the same sandbox alone, and by the
//!   gate that has them: one that has handed over to a newer version gets no more of them.

mod bindings;
mod client;
mod relay;
mod server;
mod session;
#[doc(hidden)]
pub mod startup;
mod wire;

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use async_trait::async_trait;
pub use client::{DatabaseProxyClient, DatabaseProxyError, end, ensure_running};
use fsa_model::{Failure, ResourceName};
use serde::{Deserialize, Serialize};
pub use wire::BindingInfo;

use crate::postgres::Cluster;

/// The database proxy as the driver uses it: lets each sandbox reach its own database and no other.
#[async_trait]
pub trait DatabaseProxy: Send + Sync {
    /// From now on, connections to `listener` may use `role` and nothing else. Replaces an earlier
    /// binding of the sandbox.
    async fn bind(
        &self,
        resource: &ResourceName,
        role: &str,
        listener: OwnedFd,
    ) -> std::result::Result<(), Failure>;

    /// Closes the sandbox's listener and its connections. Idempotent.
    async fn unbind(&self, resource: &ResourceName) -> std::result::Result<(), Failure>;

    /// Whether the proxy listens for the sandbox.
    async fn is_bound(&self, resource: &ResourceName) -> std::result::Result<bool, Failure>;
}

/// Carries the [`DatabaseProxyConfig`] to the process, whose standard input is its control socket.
const CONFIG_VARIABLE: &str = "FSA_GATE";

/// Where the gate listens and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseProxyConfig {
    control: PathBuf,
    log: PathBuf,
    postgres: PathBuf,
}

impl DatabaseProxyConfig {
    /// Of a data folder, to its projects cluster.
    #[must_use]
    pub fn new(data: &Path, projects: &Cluster) -> Self {
        Self {
            control: control_socket(data),
            log: data.join("logs").join("gate.log"),
            postgres: projects.socket(),
        }
    }

    fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn control_socket(data: &Path) -> PathBuf {
    data.join("run").join("gate.sock")
}

/// The gate's process (`fsa gate`), as [`ensure_running`] starts it.
#[must_use]
pub fn entry() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the gate cannot go on; it is started by `fsa serve`, not by hand");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    #[allow(
        clippy::disallowed_methods,
        reason = "how `fsa serve` hands over to the gate, which has no other settings"
    )]
    let config = std::env::var(CONFIG_VARIABLE).map_err(io::Error::other)?;
    let config: DatabaseProxyConfig = serde_json::from_str(&config)?;
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    listener.local_addr()?;
    // Only the copy is to listen, so that it ends when it is dropped.
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    // A session of its own: what is sent to the terminal or the group of `fsa serve` is not meant.
    let _ = rustix::process::setsid();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(server::run(listener, config.postgres))
}
