//! Commands that connect to a sandbox.

use std::ffi::OsString;

use clap::{Args, Subcommand, ValueEnum};
use fsa_model::api::HostHeader;

#[derive(Debug, Default, Args)]
pub struct Exec {
    pub project: String,
    /// Working folder
    #[arg(long, short = 'C')]
    pub cwd: Option<String>,
    /// Environment variable NAME=VALUE; repeatable
    #[arg(long = "env", short)]
    pub environment: Vec<String>,
    /// User to run as: dev or root
    #[arg(long, short)]
    pub user: Option<String>,
    /// Timeout in seconds
    #[arg(long)]
    pub timeout: Option<u32>,
    /// Do not read standard input, as in a loop whose own input it is
    #[arg(long, short)]
    pub no_stdin: bool,
    /// Give the command a pseudo-terminal, for a shell or another interactive program
    #[arg(long, short, overrides_with = "no_tty")]
    pub tty: bool,
    /// Give it none, which is the default; undoes -t
    #[arg(long, short = 'T', overrides_with = "tty")]
    pub no_tty: bool,
    /// Pass standard input on, which is the default (`docker exec -it`)
    #[arg(long, short, hide = true, conflicts_with = "no_stdin")]
    pub interactive: bool,
    /// Command and its arguments; `--` before them ends the options
    #[arg(trailing_var_arg = true, required = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Terminal {
    pub project: String,
    /// Name of the session; created if there is none
    #[arg(long, short, default_value = "main")]
    pub session: String,
    /// User to run as: dev or root
    #[arg(long, short)]
    pub user: Option<String>,
}

#[derive(Debug, Args)]
pub struct Open {
    pub project: String,
    /// Port of the preview
    #[arg(default_value_t = 3000)]
    pub port: u16,
    /// Print the URL and do not open it
    #[arg(long)]
    pub print: bool,
}

/// Settings of the ports of a sandbox.
#[derive(Debug, Subcommand)]
pub enum Port {
    /// Set who may open a port's preview, and which host name its application sees
    Set {
        project: String,
        port: u16,
        /// private (members of the project), link (everyone with its link) or public
        #[arg(long, value_parser = ["private", "link", "public"])]
        sharing: Option<String>,
        /// public (the preview's own name), or localhost for an application that answers to no other name
        #[arg(long)]
        host_header: Option<HostHeader>,
    },
    /// Open a port to everyone, or paths of it alone
    Public {
        project: String,
        port: u16,
        /// Open this path and all below it, and leave the rest as it is; may be repeated
        #[arg(long = "path", value_name = "PATH")]
        paths: Vec<String>,
    },
    /// Close a port and all paths of it to everyone but the members of the project
    Private { project: String, port: u16 },
}

#[derive(Debug, Args)]
pub struct Cp {
    /// File or folder: PATH on this machine, or PROJECT:PATH
    pub source: OsString,
    /// Where to copy to: PATH or PROJECT:PATH
    pub target: OsString,
}

#[derive(Debug, Args)]
pub struct Logs {
    pub project: String,
    /// Follow new lines
    #[arg(long, short, conflicts_with = "source")]
    pub follow: bool,
    /// Log of the start command, or of the project's database server
    #[arg(long, value_enum, default_value_t = LogsSource::Sandbox, hide_default_value = true)]
    pub source: LogsSource,
}

/// What `fsa logs` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogsSource {
    Sandbox,
    Database,
}

#[derive(Debug, Args)]
pub struct Debug {
    pub project: String,
    /// The server's settings, which have the kubeconfigs of its clusters
    #[command(flatten)]
    pub serve: crate::config::ServeArguments,
}
