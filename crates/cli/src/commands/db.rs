//! `fsa db`.

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
        Db::Url { project } => {
            let path = format!("/api/projects/{}/database?reveal=true", encode(&project));
            let database: Database = client.get(&path).await?;
            if database.connection_string.is_none() {
                return Err(Failure::new(
                    Code::Conflict,
                    format!("the database of {project} is not ready yet"),
                ));
            }
            output::print(json, &database, |database| {
                output::line(database.connection_string.as_deref().unwrap_or_default());
            });
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
    }
}
