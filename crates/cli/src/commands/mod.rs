//! One file per command, and the way from the parsed arguments to each.

mod agent;
mod cp;
mod db;
mod debug;
mod doctor;
mod env;
mod events;
mod exec;
mod git;
mod halt;
mod image;
mod internal;
mod keys;
mod login;
mod logs;
mod open;
mod project;
mod serve;
mod share;
mod task;
mod terminal;
mod token;
mod user;
mod wish;

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::{
    args::{self, Arguments, Command},
    client::Client,
    failure::{Failure, Outcome},
    output,
};

/// Runs the command that was given, and prints what it failed with.
pub fn run(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Runner(_) => return internal::runner(),
        Command::Gate(_) => return internal::gate(),
        _ => {}
    }
    let json = arguments.global.json;
    match dispatch(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            match &failure.body {
                Some(body) if json => output::line(&serde_json::to_string_pretty(body).unwrap_or_default()),
                _ => output::note(&format!("fsa: {failure}")),
            }
            failure.exit_code()
        }
    }
}

fn dispatch(arguments: Arguments) -> Outcome {
    match arguments.command {
        // These set up their own processes and privileges before any thread is started.
        Command::Serve(serve) => serve::run(serve),
        Command::Halt(halt) => halt::run(halt),
        Command::Keys(args::Keys::Rotate(serve)) => keys::rotate(*serve),
        Command::Doctor(serve) => doctor::run(serve, arguments.global.json),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "fsa", &mut std::io::stdout());
            Ok(0)
        }
        Command::Debug(debug) => debug::run(debug, arguments.global.url.as_deref(), arguments.global.json),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| {
                    Failure::failed(format!("the asynchronous runtime cannot be started: {error}"))
                })?;
            runtime.block_on(client(
                command,
                arguments.global.url.as_deref(),
                arguments.global.json,
            ))
        }
    }
}

async fn client(command: Command, url: Option<&str>, json: bool) -> Outcome {
    if let Command::Login(login) = command {
        return login::run(login, url, json).await;
    }
    let client = Client::connect(url)?;
    match command {
        Command::Token(command) => token::run(&client, command, json).await,
        Command::Keys(command) => keys::run(&client, command, json).await,
        Command::User(command) => user::run(&client, command, json).await,
        Command::Share { project, user, role } => share::share(&client, &project, &user, role, json).await,
        Command::Unshare { project, user } => share::unshare(&client, &project, &user).await,
        Command::Members { project } => share::list(&client, &project, json).await,
        Command::Project(command) => project::run(&client, command, json).await,
        Command::Start(wish) => wish::run(&client, "start", &wish, json).await,
        Command::Stop(wish) => wish::run(&client, "stop", &wish, json).await,
        Command::Restart(wish) => wish::run(&client, "restart", &wish, json).await,
        Command::Exec(exec) => exec::run(&client, exec, json).await,
        Command::Terminal(terminal) => terminal::run(&client, &terminal).await,
        Command::Open(open) => open::run(&client, &open, json).await,
        Command::Cp(cp) => cp::run(&client, &cp).await,
        Command::Logs(logs) => logs::run(&client, &logs, json).await,
        Command::Events(events) => events::run(&client, &events, json).await,
        Command::Env(command) => env::run(&client, command, json).await,
        Command::Db(command) => db::run(&client, command, json).await,
        Command::Task(command) => task::run(&client, command, json).await,
        Command::Agent(command) => agent::run(&client, command, json).await,
        Command::Git(command) => git::run(&client, command, json).await,
        Command::GitCredential(command) => agent::git(&client, command, json).await,
        Command::Image(command) => image::run(&client, command, json).await,
        Command::Serve(_)
        | Command::Doctor(_)
        | Command::Halt(_)
        | Command::Debug(_)
        | Command::Login(_)
        | Command::Runner(_)
        | Command::Gate(_)
        | Command::Completions { .. } => Ok(0),
    }
}
