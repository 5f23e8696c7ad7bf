//! Commands for a project's repository.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Git {
    /// Show changed files
    Status { project: String },
    /// Show unstaged changes, or with --staged the staged ones
    Diff {
        project: String,
        path: Option<String>,
        /// Show the staged changes
        #[arg(long)]
        staged: bool,
    },
    /// Stage files, or everything
    Stage { project: String, paths: Vec<String> },
    /// Unstage files, or everything
    Unstage { project: String, paths: Vec<String> },
    /// Commit the staged changes
    Commit {
        project: String,
        /// Commit message
        #[arg(long, short)]
        message: String,
        /// Stage everything first
        #[arg(long, short)]
        all: bool,
    },
    /// Push the current branch
    Push { project: String },
    /// Fetch and merge the upstream branch
    Pull { project: String },
    /// Abort a merge that conflicts
    Abort { project: String },
    /// Create a GitHub repository from the project, and push to it
    Publish {
        project: String,
        /// Name of the repository [default: the project's]
        #[arg(long)]
        name: Option<String>,
        /// Description of the repository
        #[arg(long)]
        description: Option<String>,
        /// Make the repository public
        #[arg(long)]
        public: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum GitCredential {
    /// Set the credential; the password or token is read from standard input
    Set {
        project: String,
        /// User name at the repository's server
        #[arg(long)]
        username: String,
        /// URL of the repository [default: the project's]
        #[arg(long)]
        url: Option<String>,
    },
    /// Show the URL and the user name
    Show { project: String },
    /// Delete the credential
    Forget { project: String },
}
