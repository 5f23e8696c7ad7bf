//! Commands of whoever runs the server.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
    /// List the keys of the server, and how much is encrypted with each; for owners of the system
    List,
    /// Take a key out of the server's key file, with which nothing is encrypted any more
    Forget {
        /// As `fsa keys list` has it
        key: String,
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
