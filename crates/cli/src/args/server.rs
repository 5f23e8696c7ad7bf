//! Commands of the person who runs the server.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct Shutdown {
    #[command(flatten)]
    pub serve: crate::config::ServeArguments,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Add a key to the data folder's key file; running servers re-encrypt all stored secrets with it
    Rotate(Box<crate::config::ServeArguments>),
    #[command(flatten)]
    Server(ServerKeys),
}

/// Commands that ask a server.
#[derive(Debug, Subcommand)]
pub enum ServerKeys {
    /// List the server's keys with the number of secrets encrypted with each; for owners of the system
    List,
    /// Remove an unused key from the server's key file
    Forget {
        /// Key id, from `fsa keys list`
        key: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Image {
    /// Import an OCI archive, or one of `docker save`
    Import {
        file: PathBuf,
        /// Name to create projects with [default: the file's]
        #[arg(long)]
        name: Option<String>,
    },
    /// List the stored images: imported ones, and those of registries
    List,
    /// Remove an image that no project uses; for owners of the system
    Remove {
        /// Name, from `fsa image list`
        name: String,
    },
}
