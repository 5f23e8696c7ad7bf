//! Commands about a project and what belongs to it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
