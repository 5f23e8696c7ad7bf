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
    /// List the files that were added, changed and removed after a snapshot, or show what changed in them
    Diff {
        project: String,
        /// Id or name
        snapshot: String,
        /// Compare with this later snapshot [default: the present files]
        #[arg(long, value_name = "SNAPSHOT")]
        to: Option<String>,
        /// Show the text of each change, of at most 100 files
        #[arg(long)]
        text: bool,
        /// Show what changed in the database: tables, columns and numbers of rows
        #[arg(long, conflicts_with = "text")]
        database: bool,
    },
    /// Show or set how many scheduled snapshots of each branch are kept
    Schedule {
        project: String,
        /// Keep the newest snapshot of this many hours that had a change: 0 to 48
        #[arg(long, value_name = "NUMBER")]
        hourly: Option<u16>,
        /// Keep the newest snapshot of this many days that had a change: 0 to 60
        #[arg(long, value_name = "NUMBER")]
        daily: Option<u16>,
        /// Take none; those that exist stay
        #[arg(long, conflicts_with_all = ["hourly", "daily"])]
        off: bool,
        /// Reset to the default of the project's region
        #[arg(long, conflicts_with_all = ["hourly", "daily", "off"])]
        reset: bool,
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
