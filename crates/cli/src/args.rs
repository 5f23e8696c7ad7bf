//! The command line: what can be said, and its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use fsa_model::sharing::ProjectRole;

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
    /// Renew the key that stored secrets are sealed with
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

#[derive(Debug, Args)]
pub struct Halt {
    #[command(flatten)]
    pub serve: crate::config::ServeArguments,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Add a key to the data folder's key file, with which servers then seal everything anew while they serve
    Rotate(Box<crate::config::ServeArguments>),
    /// List the keys of the server, and how much is sealed with each; for owners of the system
    List,
    /// Take a key out of the server's key file, with which nothing is sealed any more
    Forget {
        /// As `fsa keys list` has it
        key: String,
    },
}

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

#[derive(Debug, Subcommand)]
pub enum Project {
    Create(Box<ProjectCreate>),
    List,
    Show {
        project: String,
    },
    /// Delete a project with its sandbox, files and database
    Delete {
        project: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Debug, Args)]
pub struct ProjectCreate {
    /// Lower-case letters, digits and single dashes
    pub name: String,
    #[arg(long)]
    pub description: Option<String>,
    /// `web` or `host`
    #[arg(long, conflicts_with = "image")]
    pub template: Option<String>,
    /// An OCI image: a reference, or the name of an imported one
    #[arg(long)]
    pub image: Option<String>,
    /// micro, small, medium or large
    #[arg(long, value_parser = ["micro", "small", "medium", "large"])]
    pub size: Option<String>,
    #[arg(long)]
    pub region: Option<String>,
    /// A git repository to clone into it
    #[arg(long)]
    pub repository: Option<String>,
    #[arg(long, requires = "repository")]
    pub branch: Option<String>,
    /// What to run and keep running in the project's folder
    #[arg(long)]
    pub start_command: Option<String>,
    /// NAME=VALUE, any number of times
    #[arg(long = "env", short)]
    pub environment: Vec<String>,
    /// Do not start its sandbox
    #[arg(long)]
    pub no_start: bool,
    /// Do not wait until it runs
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub struct Wish {
    pub project: String,
    /// Do not wait until it is so
    #[arg(long)]
    pub no_wait: bool,
}

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

#[derive(Debug, Args)]
pub struct Events {
    pub project: Option<String>,
    /// Go on as they happen
    #[arg(long, short)]
    pub follow: bool,
}

#[derive(Debug, Subcommand)]
pub enum Env {
    /// NAME=VALUE, any number of times; other variables stay as they are
    Set {
        project: String,
        #[arg(required_unless_present = "file")]
        variables: Vec<String>,
        /// From a file of NAME=VALUE lines
        #[arg(long)]
        file: Option<PathBuf>,
    },
    Unset {
        project: String,
        #[arg(required = true)]
        names: Vec<String>,
    },
    List {
        project: String,
        /// With the values
        #[arg(long)]
        reveal: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Db {
    /// Print the connection string, as programs in the sandbox use it
    Url { project: String },
    /// Run psql in the sandbox; arguments after -- are psql's
    Psql {
        project: String,
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Have an agent do something, and show how it does; ends with 0 if it succeeded
    Run(Box<TaskRun>),
    List {
        project: String,
    },
    Show {
        project: String,
        task: String,
        /// Show its steps until it has ended
        #[arg(long, short)]
        follow: bool,
        /// What the agent changed
        #[arg(long, conflicts_with = "follow")]
        diff: bool,
    },
    /// End a task, or take it out of the queue
    Cancel {
        project: String,
        task: String,
    },
}

#[derive(Debug, Args)]
pub struct TaskRun {
    pub project: String,
    /// What the agent is to do [default: read from standard input]
    pub prompt: Option<String>,
    /// claude, codex or gemini
    #[arg(long, default_value = "claude", value_parser = ["claude", "codex", "gemini"])]
    pub agent: String,
    /// As the agent names it
    #[arg(long)]
    pub model: Option<String>,
    /// US dollars
    #[arg(long)]
    pub budget: Option<f64>,
    /// End it after this many seconds [default: 3600]
    #[arg(long, short)]
    pub timeout: Option<u32>,
    /// Go on with the conversation of this earlier task
    #[arg(long = "continue", value_name = "TASK")]
    pub continues: Option<String>,
    /// Print the task's id and do not wait
    #[arg(long, short)]
    pub detach: bool,
}

#[derive(Debug, Subcommand)]
pub enum Agent {
    /// What a project's agents have spent this month, by model
    Show {
        project: String,
    },
    /// Set what a project's agents may spend in a month
    Budget {
        project: String,
        /// US dollars, or `none` for the server's own limit
        dollars: String,
    },
    /// List your own variables for agents
    Keys,
    /// Set one of your own variables for agents; its value is read from standard input
    SetKey {
        /// Such as ANTHROPIC_API_KEY
        name: String,
    },
    UnsetKey {
        name: String,
    },
}

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

#[derive(Debug, Subcommand)]
pub enum Image {
    /// Take an OCI archive (or one of `docker save`)
    Import {
        file: PathBuf,
        /// The name to create projects with [default: the file's]
        #[arg(long)]
        name: Option<String>,
    },
    List,
}
