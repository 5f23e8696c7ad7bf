//! Commands for backups.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Backup {
    /// Back up a project's settings, variables, files and databases, while it runs
    Create {
        project: String,
        /// Do not wait until it is stored
        #[arg(long)]
        no_wait: bool,
    },
    /// List backups, newest first: of a project, or all of yours
    List {
        project: Option<String>,
        /// List instead what other servers stored in the repository; for owners of the system
        #[arg(long, conflicts_with = "project")]
        foreign: bool,
    },
    /// Show a backup
    Show {
        /// Id of the backup
        backup: String,
    },
    /// Create a new project from a backup
    Restore {
        /// Id of the backup
        backup: String,
        /// Name of the new project [default: the backup's]
        #[arg(long, short)]
        name: Option<String>,
        /// Region of the new project
        #[arg(long)]
        region: Option<String>,
        /// Do not wait until the project runs
        #[arg(long)]
        no_wait: bool,
    },
    /// Read all of a backup and compare it with its checksums
    Verify {
        /// Id of the backup
        backup: String,
        /// Do not wait for the result
        #[arg(long)]
        no_wait: bool,
    },
    /// End a backup that is not stored yet
    Cancel {
        /// Id of the backup
        backup: String,
    },
    /// Delete a backup
    Delete {
        /// Id of the backup
        backup: String,
    },
}
