//! Commands for the branches of a project.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Branch {
    /// Create a branch: a copy of another one with its files and its database, under URLs that are new
    Create {
        project: String,
        /// Name of the new branch
        name: String,
        /// Branch or snapshot to copy [default: main]
        #[arg(long)]
        from: Option<String>,
        /// Do not start its sandbox
        #[arg(long)]
        no_start: bool,
        /// Do not wait until its sandbox runs
        #[arg(long)]
        no_wait: bool,
    },
    /// List the branches of a project
    List { project: String },
    /// Delete a branch with its sandbox, files, database and snapshots
    Delete {
        project: String,
        /// Name of the branch
        name: String,
        /// Do not ask for confirmation
        #[arg(long, short)]
        yes: bool,
        /// Do not wait until it is gone
        #[arg(long)]
        no_wait: bool,
    },
    /// Promote a branch: main gets its files and its database; the branch stays
    Promote {
        project: String,
        /// Name of the branch
        name: String,
        /// Do not wait until main runs again
        #[arg(long)]
        no_wait: bool,
    },
}
