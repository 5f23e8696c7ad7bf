//! Commands: one file each, and the dispatch from the parsed arguments.

mod agent;
mod backup;
mod branch;
mod cp;
mod db;
mod debug;
mod doctor;
mod env;
mod events;
mod exec;
mod git;
mod git_credential;
mod image;
mod internal;
mod keys;
mod lifecycle;
mod login;
mod logs;
mod open;
mod port;
mod project;
mod serve;
mod share;
mod shutdown;
mod snapshot;
mod snapshot_diff;
mod task;
mod terminal;
mod token;
mod user;

use std::process::ExitCode;

use clap::CommandFactory as _;
use tokio::runtime::Runtime;

use crate::{
    args::{Arguments, ClientCommand, Command, Global, InternalCommand, Keys, LocalCommand},
    client::Client,
    config,
    failure::{Failure, Outcome},
    output,
};

/// Runs a command, and prints why it failed.
pub fn run(arguments: Arguments) -> ExitCode {
    let Arguments { global, command } = arguments;
    let outcome = match command {
        Command::Internal(InternalCommand::Runner(_)) => return internal::runner(),
        Command::Internal(InternalCommand::Gate(_)) => return internal::database_proxy(),
        Command::Local(command) => local(*command, &global),
        Command::Client(command) => with_client(&global, async |client| {
            self::client(client, command, global.json).await
        }),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            match &failure.body {
                Some(body) if global.json => {
                    output::line(&serde_json::to_string_pretty(body).unwrap_or_default());
                }
                _ => output::notice(&format!("fsa: {failure}")),
            }
            failure.exit_code()
        }
    }
}

fn local(command: LocalCommand, global: &Global) -> Outcome {
    let (url, json) = (global.url.as_deref(), global.json);
    match command {
        LocalCommand::Serve(serve) => serve::run(serve),
        LocalCommand::Halt(shutdown) => shutdown::run(shutdown),
        LocalCommand::Keys(Keys::Rotate(serve)) => keys::rotate(*serve),
        LocalCommand::Keys(Keys::Server(command)) => {
            with_client(global, async |client| keys::run(client, command, json).await)
        }
        LocalCommand::Doctor(serve) => doctor::run(serve, json),
        LocalCommand::Login(login) => block_on(login::run(login, url, json)),
        LocalCommand::Debug(debug) => debug::run(debug, url, json),
        LocalCommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "fsa", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end());
            Ok(0)
        }
        LocalCommand::Settings => {
            output::line(config::table().trim_end());
            Ok(0)
        }
    }
}

fn with_client(global: &Global, command: impl AsyncFnOnce(&Client) -> Outcome) -> Outcome {
    block_on(async {
        let client = Client::connect(global.url.as_deref())?;
        command(&client).await
    })
}

/// Runs a command, and does not wait for the runtime's threads: one that reads standard input cannot be interrupted
/// before the next key.
fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = runtime()?;
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}

/// A single-threaded runtime.
fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the asynchronous runtime cannot be started: {error}")))
}

async fn client(client: &Client, command: ClientCommand, json: bool) -> Outcome {
    match command {
        ClientCommand::Token(command) => token::run(client, command, json).await,
        ClientCommand::User(command) => user::run(client, command, json).await,
        ClientCommand::Share { project, user, role } => {
            share::share(client, &project, &user, role, json).await
        }
        ClientCommand::Unshare { project, user } => share::unshare(client, &project, &user).await,
        ClientCommand::Members { project } => share::list(client, &project, json).await,
        ClientCommand::Project(command) => project::run(client, command, json).await,
        ClientCommand::Start(arguments) => lifecycle::run(client, "start", &arguments, json).await,
        ClientCommand::Stop(arguments) => lifecycle::run(client, "stop", &arguments, json).await,
        ClientCommand::Restart(arguments) => lifecycle::run(client, "restart", &arguments, json).await,
        ClientCommand::Branch(command) => branch::run(client, command, json).await,
        ClientCommand::Backup(command) => backup::run(client, command, json).await,
        ClientCommand::Snapshot(command) => snapshot::run(client, command, json).await,
        ClientCommand::Restore(arguments) => snapshot::restore(client, &arguments, json).await,
        ClientCommand::Exec(exec) => exec::run(client, exec, json).await,
        ClientCommand::Terminal(terminal) => terminal::run(client, &terminal).await,
        ClientCommand::Open(open) => open::run(client, &open, json).await,
        ClientCommand::Port(port) => port::run(client, port, json).await,
        ClientCommand::Cp(cp) => cp::run(client, &cp).await,
        ClientCommand::Logs(logs) => logs::run(client, &logs, json).await,
        ClientCommand::Events(events) => events::run(client, &events, json).await,
        ClientCommand::Env(command) => env::run(client, command, json).await,
        ClientCommand::Db(command) => db::run(client, command, json).await,
        ClientCommand::Task(command) => task::run(client, command, json).await,
        ClientCommand::Agent(command) => agent::run(client, command, json).await,
        ClientCommand::Git(command) => git::run(client, command, json).await,
        ClientCommand::GitCredential(command) => git_credential::run(client, command, json).await,
        ClientCommand::Image(command) => image::run(client, command, json).await,
    }
}
