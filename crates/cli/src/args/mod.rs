//! Command line: the commands, their arguments and their help.

mod account;
mod agent;
mod backup;
mod branch;
#[cfg(test)]
mod documented;
mod git;
mod project;
mod sandbox;
mod server;
mod snapshot;

use clap::{Args, Parser, Subcommand, ValueHint};
use fsa_model::sharing::ProjectRole;

pub use self::{
    account::{Login, Token, User},
    agent::{Agent, Task, TaskRun},
    backup::Backup,
    branch::Branch,
    git::{Git, GitCredential},
    project::{Db, Env, Events, Lifecycle, Project, ProjectCreate, ProjectSet},
    sandbox::{Cp, Debug, Exec, Logs, LogsSource, Open, Port, Terminal},
    server::{Image, Keys, ServerKeys, Shutdown},
    snapshot::{Restore, Snapshot},
};

/// Sandboxes with a terminal, a database, a coding agent and a URL, in well under a second.
#[derive(Debug, Parser)]
#[command(name = "fsa", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The server's URL [default: the server last signed in to, else http://localhost:8080]
    #[arg(long, global = true, env = "FSA_URL", value_hint = ValueHint::Url)]
    pub url: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// A command, by what it needs before it runs.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Local(Box<LocalCommand>),
    #[command(flatten)]
    Client(ClientCommand),
    #[command(flatten)]
    Internal(InternalCommand),
}

/// Commands that set up their own processes, privileges and connections before any thread is started.
#[derive(Debug, Subcommand)]
pub enum LocalCommand {
    /// Run the server
    Serve(crate::config::ServeArguments),
    /// Stop what keeps running after the server stops: sandboxes, database proxy and databases
    Halt(Shutdown),
    /// Manage the keys that stored secrets are encrypted with
    #[command(subcommand)]
    Keys(Keys),
    /// Check the requirements of this machine, and say how to fix what is missing
    Doctor(crate::config::ServeArguments),
    /// Sign in to a server with a one-time link, a token or a password
    Login(Login),
    /// Show pods, events, logs and ingresses of a project in a Kubernetes region
    Debug(Debug),
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the server's settings as a Markdown table
    #[command(hide = true)]
    Settings,
}

/// Commands that send requests to a server.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Create, list and revoke API tokens
    #[command(subcommand)]
    Token(Token),
    /// List users with their usage, and set their limits
    #[command(subcommand)]
    User(User),
    /// Create, list, show, change and delete projects
    #[command(subcommand)]
    Project(Project),
    /// Create, list and delete branches of a project
    #[command(subcommand)]
    Branch(Branch),
    /// Share a project with a user, or change their role
    Share {
        project: String,
        /// Login or id of the user
        user: String,
        /// viewer, editor or admin
        #[arg(long = "as", value_name = "ROLE", default_value = "viewer")]
        role: ProjectRole,
    },
    /// Stop sharing a project with a user, and close their open connections to it
    Unshare { project: String, user: String },
    /// List the members of a project
    Members { project: String },
    /// Start a project's sandbox
    Start(Lifecycle),
    /// Stop a project's sandbox; its files and database stay
    Stop(Lifecycle),
    /// Restart a project's sandbox
    Restart(Lifecycle),
    /// Back up projects, and restore, verify and delete backups
    #[command(subcommand)]
    Backup(Backup),
    /// Take, list, show, compare and delete snapshots of a project
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Restore a snapshot: its files and database replace the present ones, which are kept as a snapshot
    Restore(Restore),
    /// Run a command in a project's sandbox, and exit with its exit code
    Exec(Exec),
    /// Open a terminal in a project's sandbox; Ctrl-] detaches, and the session keeps running
    Terminal(Terminal),
    /// Open a preview of a project in a browser
    Open(Open),
    /// Set how the ports of a sandbox are served
    #[command(subcommand)]
    Port(Port),
    /// Copy files to or from a sandbox; one of SOURCE and TARGET is PROJECT:PATH
    Cp(Cp),
    /// Show the output of the start command
    Logs(Logs),
    /// Show the events of a project, or of all projects
    Events(Events),
    /// Set, unset and list environment variables
    #[command(subcommand)]
    Env(Env),
    /// Connect to a project's database
    #[command(subcommand)]
    Db(Db),
    /// Run coding agents in a project, unattended
    #[command(subcommand)]
    Task(Task),
    /// Show and limit what agents spend, and manage your own keys for them
    #[command(subcommand)]
    Agent(Agent),
    /// Work with the git repository in a project's folder
    #[command(subcommand)]
    Git(Git),
    /// Manage the credential that git in a project's sandbox uses
    #[command(subcommand)]
    GitCredential(GitCredential),
    /// Import, list and remove images to create projects from
    #[command(subcommand)]
    Image(Image),
}

/// Processes that `fsa serve` starts. They are not for people.
#[derive(Debug, Subcommand)]
pub enum InternalCommand {
    /// The privileged half of `fsa serve`
    #[command(hide = true)]
    Runner(Ignored),
    /// The proxy from sandboxes to their databases
    #[command(hide = true)]
    Gate(Ignored),
}

/// Arguments that the process reads by itself.
#[derive(Debug, Args)]
pub struct Ignored {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_and_every_option_has_help() {
        fn check(path: &str, command: &clap::Command) {
            for argument in command
                .get_arguments()
                .filter(|argument| !argument.is_positional())
            {
                assert!(argument.get_help().is_some(), "{path} --{}", argument.get_id());
            }
            for command in command.get_subcommands() {
                let path = format!("{path} {}", command.get_name());
                assert!(command.get_about().is_some(), "{path}");
                check(&path, command);
            }
        }
        let command = Arguments::command();
        command.clone().debug_assert();
        check("fsa", &command);
    }
}
