//! Database proxy: connects each sandbox to the database server of its volume.
//!
//! In each sandbox 127.0.0.1:5432 is a listening socket. The runner creates it in the sandbox's network
//! namespace, and the proxy accepts from it. The proxy reads a client's start-up packet, refuses the bootstrap
//! superuser and replication, and copies bytes to the Unix socket of the volume's server. Where that does not
//! run, the proxy asks `fsa serve` to start it ([`starter`]), and the client waits. One process serves all
//! sandboxes. It outlives `fsa serve`, so connections do too.
//!
//! - A bound socket keeps its network namespace alive, and nothing notifies the proxy when the sandbox stops.
//!   Therefore stopping or destroying a sandbox must unbind it.
//! - A proxy that dies loses its sockets and connections. [`DatabaseProxyClient::is_bound`] then reports
//!   that, and the reconciler binds the sandboxes again.
//! - Cancel requests are forwarded only for connections of the same sandbox, and only by the process that has
//!   the connection. A process that has handed over to a newer version receives none.
//!
//! The server that a socket reaches is fixed when it is bound, by the volume, so a client's packet cannot
//! choose another. Difference from `pgwire`, which implements a whole server: this proxy forwards after one
//! packet, and an idle connection holds no buffer.
//!
//! The subcommand `fsa gate`, `run/gate.sock` and `logs/gate.log` keep the proxy's earlier name, so that a
//! proxy of an earlier release is found and hands over its sockets.

mod bindings;
mod client;
mod relay;
mod server;
mod servers;
mod session;
pub mod starter;
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
use fsa_model::{Failure, ResourceName, VolumeId};
use serde::{Deserialize, Serialize};
pub use wire::BindingInfo;

/// Database proxy interface of the driver: lets each sandbox reach its own database server and no other.
#[async_trait]
pub trait DatabaseProxy: Send + Sync {
    /// Lets connections to `listener` use the server of `volume` and nothing else. Replaces an earlier
    /// binding of the sandbox.
    async fn bind(
        &self,
        resource: &ResourceName,
        volume: VolumeId,
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

/// The proxy's control socket, its log, and where it finds the database servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseProxyConfig {
    control: PathBuf,
    log: PathBuf,
    /// The folder of the servers' sockets.
    sockets: PathBuf,
    /// The socket at which `fsa serve` starts servers.
    starter: PathBuf,
}

impl DatabaseProxyConfig {
    /// For a data folder.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self {
            control: control_socket(data),
            log: data.join("logs").join("gate.log"),
            sockets: data.join(crate::runner::layout::SOCKETS),
            starter: starter::socket(data),
        }
    }

    fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn control_socket(data: &Path) -> PathBuf {
    data.join("run").join("gate.sock")
}

/// Main function of the proxy's process (`fsa gate`), which [`ensure_running`] starts.
#[must_use]
pub fn entry() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the database proxy cannot run; `fsa serve` starts it, it is not started by hand");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    #[allow(
        clippy::disallowed_methods,
        reason = "how `fsa serve` configures the proxy, which has no other settings"
    )]
    let config = std::env::var(CONFIG_VARIABLE).map_err(io::Error::other)?;
    let config: DatabaseProxyConfig = serde_json::from_str(&config)?;
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    listener.local_addr()?;
    // Only the copy listens, so that the socket closes when it is dropped.
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    // A new session: signals to the terminal or the group of `fsa serve` do not reach it.
    let _ = rustix::process::setsid();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
    let servers = servers::Servers::new(&config.sockets, config.starter)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(server::run(listener, servers))
}
