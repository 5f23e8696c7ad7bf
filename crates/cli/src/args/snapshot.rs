//! Commands for snapshots and their restore.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Take a snapshot of a project's files and database, while it runs
    Create {
        project: String,
        /// Name, unique within the project
        #[arg(long, short)]
        name: Option<String>,
    },
    /// List a project's snapshots, newest first
    List { project: String },
    /// Show a snapshot
    Show {
        project: String,
        /// Id or name
        snapshot: String,
    },
    /// List the files that were added, changed and removed after a snapshot
    Diff {
        project: String,
        /// Id or name
        snapshot: String,
        /// Compare with this later snapshot [default: the present files]
        #[arg(long, value_name = "SNAPSHOT")]
        to: Option<String>,
    },
    /// Delete a snapshot
    Delete {
        project: String,
        /// Id or name
        snapshot: String,
    },
}

#[derive(Debug, Args)]
pub struct Restore {
    pub project: String,
    /// Id or name of the snapshot
    pub snapshot: String,
    /// Do not wait until it is restored
    #[arg(long)]
    pub no_wait: bool,
}
