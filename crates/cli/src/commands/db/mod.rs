//! `fsa db`: connection string, tunnel, psql, dump and restore of a project's database.

mod archive;
mod tunnel;

use std::io::IsTerminal as _;

use fsa_model::api::Database;

use super::{exec, terminal};
use crate::{
    args::{self, Db},
    client::{Client, encode},
    failure::{Code, Failure, Outcome},
    output,
};

pub async fn run(client: &Client, command: Db, json: bool) -> Outcome {
    match command {
        Db::Url {
            project,
            tunnel: true,
            port,
        } => tunnel::run(client, &project, port.unwrap_or(0), json).await,
        Db::Url { project, .. } => {
            let (database, url) = reveal(client, &project).await?;
            output::print(json, &database, |_| output::line(&url));
            Ok(0)
        }
        // psql runs in the sandbox: only there the database is reachable, and the environment names it.
        Db::Psql { project, arguments } if arguments.is_empty() && std::io::stdin().is_terminal() => {
            terminal::attach(client, &project, "psql", None, Some("psql")).await
        }
        Db::Psql { project, arguments } => {
            let command = std::iter::once("psql".to_owned()).chain(arguments).collect();
            let exec = args::Exec {
                project,
                command,
                ..args::Exec::default()
            };
            exec::run(client, exec, json).await
        }
        Db::Dump { project, file } => archive::dump(client, &project, file.as_deref()).await,
        Db::Restore { project, file, yes } => archive::restore(client, &project, &file, yes).await,
    }
}

/// The database with its connection string.
async fn reveal(client: &Client, project: &str) -> Result<(Database, String), Failure> {
    let path = format!("/api/projects/{}/database?reveal=true", encode(project));
    let database: Database = client.get(&path).await?;
    match database.connection_string.clone() {
        Some(url) => Ok((database, url)),
        None => Err(Failure::new(
            Code::Conflict,
            format!("the database of {project} is not ready yet"),
        )),
    }
}
