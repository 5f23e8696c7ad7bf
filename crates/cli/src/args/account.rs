//! Commands for users and their tokens.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct Login {
    /// One-time sign-in link (http://…/sign-in#…), or the server's URL
    pub url: Option<String>,
    /// Read an API token from standard input
    #[arg(long)]
    pub with_token: bool,
    /// Sign in as this user with a password, read from a prompt
    #[arg(long)]
    pub user: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum User {
    /// List all users with their usage and limits; for owners of the system
    List,
    /// Set the limits of one user; a limit that is not given is removed
    Limit {
        /// Login of the user
        user: String,
        /// Projects
        #[arg(long)]
        projects: Option<u64>,
        /// Running sandboxes
        #[arg(long)]
        running: Option<u64>,
        /// Processor use of the running sandboxes, in thousandths of a processor
        #[arg(long)]
        cpu_millis: Option<u64>,
        /// Memory of the running sandboxes, in MiB
        #[arg(long)]
        memory_mib: Option<u64>,
        /// Disk use of the projects' sandboxes and databases, in MiB
        #[arg(long)]
        disk_mib: Option<u64>,
        /// API requests per minute
        #[arg(long)]
        requests_per_minute: Option<u64>,
        /// Programs started in sandboxes through the API per minute
        #[arg(long)]
        execs_per_minute: Option<u64>,
        /// Remove the user's own limits, so that the server's apply
        #[arg(long, conflicts_with_all = ["projects", "running", "cpu_millis", "memory_mib", "disk_mib",
            "requests_per_minute", "execs_per_minute"])]
        default: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Create a token and print it; it is shown only once
    Create {
        /// Name to recognize it by
        name: String,
        /// Days until it expires [default: 90]
        #[arg(long)]
        days: Option<u32>,
        /// It does not expire
        #[arg(long, conflicts_with = "days")]
        never: bool,
        /// Allow only reads
        #[arg(long)]
        read_only: bool,
        /// Allow everything at any time, creating tokens, sign-in links and invitations too
        #[arg(long, conflicts_with_all = ["read_only", "project"])]
        admin: bool,
        /// Restrict the token to this project
        #[arg(long)]
        project: Option<String>,
    },
    /// List your tokens
    List,
    /// Revoke a token
    Revoke {
        /// Token id, from `fsa token list`
        id: String,
    },
}
