//! Commands for projects, their events, environment and database.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Project {
    /// Create a project and start its sandbox
    Create(Box<ProjectCreate>),
    /// List projects
    List,
    /// Show a project
    Show { project: String },
    /// Change a project; a running sandbox restarts if it must
    Set(Box<ProjectSet>),
    /// Delete a project with its sandbox, files and database
    Delete {
        project: String,
        /// Do not ask for confirmation
        #[arg(long, short)]
        yes: bool,
        /// Do not wait until it is deleted
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Debug, Args)]
pub struct ProjectCreate {
    /// Name: lower-case letters, digits and single dashes
    pub name: String,
    /// Description
    #[arg(long)]
    pub description: Option<String>,
    /// Template: `web` or `host`
    #[arg(long, conflicts_with = "image")]
    pub template: Option<String>,
    /// OCI image: a reference, or the name of an imported image
    #[arg(long)]
    pub image: Option<String>,
    /// Size of the sandbox
    #[arg(long, value_parser = ["micro", "small", "medium", "large"])]
    pub size: Option<String>,
    /// Region [default: the server's default region]
    #[arg(long)]
    pub region: Option<String>,
    /// Git repository to clone
    #[arg(long)]
    pub repository: Option<String>,
    /// Branch to clone [default: the repository's]
    #[arg(long, requires = "repository")]
    pub branch: Option<String>,
    /// Command to run and keep running in the project's folder
    #[arg(long)]
    pub start_command: Option<String>,
    /// Environment variable NAME=VALUE; repeatable
    #[arg(long = "env", short)]
    pub environment: Vec<String>,
    /// Do not start the sandbox
    #[arg(long)]
    pub no_start: bool,
    /// Do not wait until the sandbox runs
    #[arg(long)]
    pub no_wait: bool,
}

/// Changes of a project; an empty text clears a description, a start command or a repository.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").multiple(true).required(true))]
pub struct ProjectSet {
    pub project: String,
    /// New name; the addresses of its previews change with it
    #[arg(long, group = "change")]
    pub name: Option<String>,
    /// Description; '' for none
    #[arg(long, group = "change")]
    pub description: Option<String>,
    /// Template: `web` or `host`
    #[arg(long, group = "change", conflicts_with = "image")]
    pub template: Option<String>,
    /// OCI image: a reference, or the name of an imported image
    #[arg(long, group = "change")]
    pub image: Option<String>,
    /// Size of the sandbox
    #[arg(long, group = "change", value_parser = ["micro", "small", "medium", "large"])]
    pub size: Option<String>,
    /// Git repository to clone, until one is cloned; '' for none
    #[arg(long, group = "change")]
    pub repository: Option<String>,
    /// Branch to clone [default: the repository's]
    #[arg(long, requires = "repository")]
    pub branch: Option<String>,
    /// Command to run and keep running in the project's folder; '' for none
    #[arg(long, group = "change")]
    pub start_command: Option<String>,
}

#[derive(Debug, Args)]
pub struct Lifecycle {
    pub project: String,
    /// Do not wait until the sandbox has reached the state
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub struct Events {
    pub project: Option<String>,
    /// Follow new events
    #[arg(long, short)]
    pub follow: bool,
}

#[derive(Debug, Subcommand)]
pub enum Env {
    /// Set variables, NAME=VALUE; other variables stay as they are
    Set {
        project: String,
        #[arg(required_unless_present = "file")]
        variables: Vec<String>,
        /// File of NAME=VALUE lines
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Delete variables
    Unset {
        project: String,
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// List variables
    List {
        project: String,
        /// Show the values
        #[arg(long)]
        reveal: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Db {
    /// Print the connection string that programs in the sandbox use
    Url {
        project: String,
        /// Connect a port of this machine to the database until Ctrl-C, and print its connection string
        #[arg(long)]
        tunnel: bool,
        /// Port of this machine [default: a free one]
        #[arg(long, requires = "tunnel")]
        port: Option<u16>,
    },
    /// Run psql in the sandbox; arguments after -- are passed to psql
    Psql {
        project: String,
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Write the database to an archive of pg_dump's custom format
    Dump {
        project: String,
        /// File to write [default: standard output]
        file: Option<PathBuf>,
    },
    /// Replace everything in the database with an archive of pg_dump's custom format, or nothing if that fails
    Restore {
        project: String,
        /// Archive, or - for standard input
        file: PathBuf,
        /// Do not ask for confirmation
        #[arg(long, short)]
        yes: bool,
    },
}
