//! Commands about people and their tokens.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct Login {
    /// The sign-in link (http://…/sign-in#…), or the server's address
    pub url: Option<String>,
    /// Read an API token from standard input
    #[arg(long)]
    pub with_token: bool,
    /// Sign in as this user with a password, which is asked for
    #[arg(long)]
    pub user: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum User {
    /// List everybody with an account; for owners of the system
    List,
    /// Give somebody limits of their own; what is not named has none
    Limit {
        /// Their login
        user: String,
        #[arg(long)]
        projects: Option<u64>,
        /// Running sandboxes
        #[arg(long)]
        running: Option<u64>,
        /// Thousandths of a processor of the running sandboxes together
        #[arg(long)]
        cpu_millis: Option<u64>,
        /// MiB of memory of the running sandboxes together
        #[arg(long)]
        memory_mib: Option<u64>,
        /// MiB on disk of their projects' sandboxes and databases together
        #[arg(long)]
        disk_mib: Option<u64>,
        /// Requests of the API in a minute
        #[arg(long)]
        requests_per_minute: Option<u64>,
        /// Programs that the API starts in sandboxes in a minute
        #[arg(long)]
        execs_per_minute: Option<u64>,
        /// What the server lets everybody have, again
        #[arg(long, conflicts_with_all = ["projects", "running", "cpu_millis", "memory_mib", "disk_mib",
            "requests_per_minute", "execs_per_minute"])]
        default: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token; it is shown once
    Create {
        name: String,
        /// Days until it expires [default: never]
        #[arg(long)]
        days: Option<u32>,
        /// It may look, and change nothing
        #[arg(long)]
        read_only: bool,
        /// It is for this project alone
        #[arg(long)]
        project: Option<String>,
    },
    List,
    Revoke {
        id: String,
    },
}
