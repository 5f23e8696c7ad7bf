//! The command line: what can be said, and its help.

mod account;
mod agent;
mod git;
mod project;
mod sandbox;
mod server;

use clap::{Args, Parser, Subcommand, ValueHint};
use fsa_model::sharing::ProjectRole;

pub use self::{
    account::{Login, Token, User},
    agent::{Agent, Task, TaskRun},
    git::{Git, GitCredential},
    project::{Db, Env, Events, Project, ProjectCreate, Wish},
    sandbox::{Cp, Debug, Exec, Logs, Open, Terminal},
    server::{Halt, Image, Keys},
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

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The server to talk to [default: the one signed in to last, else http://localhost:8080]
    #[arg(long, global = true, env = "FSA_URL", value_hint = ValueHint::Url)]
    pub url: Option<String>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server
    Serve(crate::config::ServeArguments),
    /// End what outlives the server: sandboxes, their way to the databases, the clusters
    Halt(Halt),
    /// Renew the key that stored secrets are encrypted with
    #[command(subcommand)]
    Keys(Keys),
    /// Check this machine point by point, and say how to mend what is missing
    Doctor(crate::config::ServeArguments),
    /// Sign in to a server, with the one-time link it printed, a token or a password
    Login(Login),
    /// Make, list and revoke API tokens
    #[command(subcommand)]
    Token(Token),
    /// List users with what they have, and change what they may have
    #[command(subcommand)]
    User(User),
    /// Create, list, show, change and delete projects
    #[command(subcommand)]
    Project(Project),
    /// Share a project with somebody, or change as what
    Share {
        project: String,
        /// Their login or id
        user: String,
        /// viewer, editor or admin
        #[arg(long = "as", value_name = "ROLE", default_value = "viewer")]
        role: ProjectRole,
    },
    /// End sharing a project with somebody; what they have open in it ends too
    Unshare { project: String, user: String },
    /// List who may use a project
    Members { project: String },
    /// Start a project's sandbox
    Start(Wish),
    /// Stop a project's sandbox; its files and its database stay
    Stop(Wish),
    /// Restart a project's sandbox
    Restart(Wish),
    /// Run a command in a project's sandbox; ends with its exit code
    Exec(Exec),
    /// Open a terminal in a project's sandbox; leave it with Ctrl-] and it goes on
    Terminal(Terminal),
    /// Open what a project serves in a browser
    Open(Open),
    /// Copy files: SOURCE TARGET, one of them PROJECT:PATH
    Cp(Cp),
    /// Show what the start command prints
    Logs(Logs),
    /// Show what happened to a project, or to all of them
    Events(Events),
    /// Collect what a cluster says of a project: pods, events, logs, ingresses
    Debug(Debug),
    /// Set, unset and list environment variables
    #[command(subcommand)]
    Env(Env),
    /// A project's database
    #[command(subcommand)]
    Db(Db),
    /// Agents that work in a project by themselves
    #[command(subcommand)]
    Task(Task),
    /// What agents spend, and your own keys for them
    #[command(subcommand)]
    Agent(Agent),
    /// Git in a project's folder: what has changed, commits, and the exchange with its repository
    #[command(subcommand)]
    Git(Git),
    /// What git in a project's sandbox shows to its repository's server
    #[command(subcommand)]
    GitCredential(GitCredential),
    /// The images that projects can be made from
    #[command(subcommand)]
    Image(Image),
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// The privileged half of `fsa serve`, which starts it
    #[command(hide = true)]
    Runner(Internal),
    /// The way from sandboxes to their databases, which `fsa serve` starts
    #[command(hide = true)]
    Gate(Internal),
}

/// What the processes that `fsa serve` starts are told; nothing for people.
#[derive(Debug, Args)]
pub struct Internal {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}
