//! PostgreSQL clusters of one machine: discovery of binaries, initialization, start and stop.
//!
//! *control* holds the tables of `fsa serve`. *projects* held one database for each project in
//! earlier releases; it is only started to move them ([`crate::project_databases`]). Both run the
//! machine's own PostgreSQL binaries, listen on Unix sockets only, and outlive `fsa serve`.
//!
//! Most callers only need [`Cluster::ensure_running`].

pub(crate) mod binaries;
mod cluster;
mod configuration;
mod error;
mod initialize;
mod postmaster;

pub use binaries::{Installation, MINIMUM_MAJOR, installations};
pub use cluster::{Cluster, Settings};
pub use error::PostgresError;

/// Our superuser in both clusters. Only the system user that runs them (and root) may sign in as
/// it, by peer authentication over the Unix socket; it has no password.
pub const SUPERUSER: &str = "fsa";

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClusterKind {
    /// The tables of `fsa serve`.
    Control,
    /// One database for each project, in a data folder of an earlier release.
    Projects,
}

impl ClusterKind {
    /// The name of its folder in the data folder, and of its log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Projects => "projects",
        }
    }

    /// Its socket's folder in `run`. Short, because a Unix socket's path has 107 bytes at most.
    const fn socket_folder(self) -> &'static str {
        match self {
            Self::Control => "c",
            Self::Projects => "p",
        }
    }

    /// Its name in a sentence.
    const fn title(self) -> &'static str {
        match self {
            Self::Control => "the control plane's PostgreSQL",
            Self::Projects => "the projects' PostgreSQL",
        }
    }
}
