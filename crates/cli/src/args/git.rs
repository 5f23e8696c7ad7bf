//! Commands about a project's repository.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Git {
    /// What has changed
    Status { project: String },
    /// How files differ from what is staged, or with --staged from the last commit
    Diff {
        project: String,
        path: Option<String>,
        #[arg(long)]
        staged: bool,
    },
    /// Put files, or everything, into the next commit
    Stage { project: String, paths: Vec<String> },
    /// Take files, or everything, out of the next commit
    Unstage { project: String, paths: Vec<String> },
    /// Commit what is staged
    Commit {
        project: String,
        #[arg(long, short)]
        message: String,
        /// Stage everything first
        #[arg(long, short)]
        all: bool,
    },
    /// Push the branch
    Push { project: String },
    /// Fetch and merge the branch that this one follows
    Pull { project: String },
    /// Give up a merge that conflicts
    Abort { project: String },
    /// Make a repository at GitHub from the project, and push to it
    Publish {
        project: String,
        /// The repository's name [default: the project's]
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
        /// Everybody may see it
        #[arg(long)]
        public: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum GitCredential {
    /// Set it; the password or token is read from standard input
    Set {
        project: String,
        #[arg(long)]
        username: String,
        /// The repository [default: the project's own]
        #[arg(long)]
        url: Option<String>,
    },
    Show {
        project: String,
    },
    Forget {
        project: String,
    },
}
