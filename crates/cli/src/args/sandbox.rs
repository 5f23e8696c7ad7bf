//! Commands that reach into a sandbox.

use clap::Args;

#[derive(Debug, Args)]
pub struct Exec {
    pub project: String,
    /// In this folder
    #[arg(long, short = 'C')]
    pub cwd: Option<String>,
    /// NAME=VALUE, any number of times
    #[arg(long = "env", short)]
    pub environment: Vec<String>,
    /// As this user: dev or root
    #[arg(long, short)]
    pub user: Option<String>,
    /// End it after this many seconds
    #[arg(long, short)]
    pub timeout: Option<u32>,
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Terminal {
    pub project: String,
    /// The session's name; it is made where there is none of that name
    #[arg(long, short, default_value = "main")]
    pub session: String,
    /// As this user: dev or root
    #[arg(long, short)]
    pub user: Option<String>,
}

#[derive(Debug, Args)]
pub struct Open {
    pub project: String,
    #[arg(default_value_t = 3000)]
    pub port: u16,
    /// Only print the URL
    #[arg(long)]
    pub print: bool,
}

#[derive(Debug, Args)]
pub struct Cp {
    /// A file or folder: PATH here, or PROJECT:PATH
    pub source: String,
    pub target: String,
}

#[derive(Debug, Args)]
pub struct Logs {
    pub project: String,
    /// Go on as lines come
    #[arg(long, short)]
    pub follow: bool,
}

#[derive(Debug, Args)]
pub struct Debug {
    pub project: String,
    /// The server's own settings, which say how its clusters are reached
    #[command(flatten)]
    pub serve: crate::config::ServeArguments,
}
