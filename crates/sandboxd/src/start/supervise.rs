//! Supervisor of the start commands: restarts them with backoff when they end, and stops them with
//! everything they started when the plan changes.

use std::{collections::BTreeMap, ffi::OsStr, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use chrono::Utc;
use fsa_model::sandboxd::{Exit, LogSource, StartCommand};
use futures_util::future::join_all;
use nix::fcntl::OFlag;
use tokio::{net::unix::pipe, time::Instant};

use super::{Start, procfile::Entry};
use crate::{
    environment,
    logs::Lines,
    reaper::Child,
    sandbox::Sandbox,
    session,
    spawn::{self, Launch},
};

/// Time between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// A run of this length resets the backoff.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(60);
/// Bytes of a command's output that are read at once. Small, because each line is work and terminals
/// wait meanwhile.
const CHUNK: usize = 8 * 1024;

/// Backoff before the next start, without jitter.
fn next_backoff(last: Option<Duration>, ran: Duration) -> Duration {
    match last {
        Some(last) if ran < BACKOFF_RESET_AFTER => (last * 2).min(MAX_BACKOFF),
        _ => MIN_BACKOFF,
    }
}

/// Adds up to a tenth, so that commands that failed together do not restart together.
fn with_jitter(wait: Duration, random: u32) -> Duration {
    wait + wait / 10 * (random % 100) / 100
}

/// Supervises until sandboxd stops.
pub(super) async fn run(start: Arc<Start>) {
    let sandbox = &start.sandbox;
    let mut plans = start.plan.subscribe();
    let mut stopping = sandbox.stopping.subscribe();
    loop {
        let plan = plans.borrow_and_update().clone();
        let waits = !plan.ready && !plan.entries.is_empty();
        if !plan.ready || plan.entries.is_empty() {
            sandbox.update_status(|status| {
                status.start_command = if waits {
                    StartCommand::Waiting
                } else {
                    StartCommand::None
                };
            });
            tokio::select! {
                changed = plans.changed() => if changed.is_err() { return },
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            continue;
        }
        let several = plan.entries.len() > 1;
        let supervised = plan
            .entries
            .iter()
            .enumerate()
            .map(|(number, entry)| supervise(&start, entry, number == 0, several));
        let stops = tokio::select! {
            _ = join_all(supervised) => true,
            _ = stopping.wait_for(|stopping| *stopping) => true,
            changed = plans.changed() => changed.is_err(),
        };
        end_all(&start).await;
        if stops {
            return;
        }
    }
}

/// Stops all supervised commands.
async fn end_all(start: &Start) {
    let live = std::mem::take(&mut *start.live.lock());
    join_all(
        live.iter()
            .map(|&pid| session::end(&start.sandbox.reaper, pid, libc::SIGTERM, GRACE)),
    )
    .await;
}

/// Runs one command and restarts it whenever it ends. `reports`: its state goes into the status.
async fn supervise(start: &Start, entry: &Entry, reports: bool, several: bool) {
    let sandbox = &start.sandbox;
    let prefix = if several {
        format!("{}: ", entry.name)
    } else {
        String::new()
    };
    let (mut restarts, mut wait) = (0u32, None);
    loop {
        let started = Instant::now();
        let exit = match spawn(start, entry, &prefix) {
            Ok((mut child, stdin)) => {
                let (pid, since) = (child.pid, Utc::now());
                sandbox
                    .logs
                    .add_notice(format!("{prefix}started `{}`", entry.command));
                if reports {
                    sandbox.update_status(|status| {
                        status.start_command = StartCommand::Running {
                            pid: pid.cast_unsigned(),
                            since,
                            restarts,
                        };
                    });
                }
                let exit = Child::ended(&mut child.exit).await;
                drop(stdin);
                // A process that it left behind may hold its port.
                session::end(&sandbox.reaper, pid, libc::SIGTERM, GRACE).await;
                start.live.lock().retain(|&live| live != pid);
                exit
            }
            Err(sentence) => {
                sandbox.logs.add_notice(format!("{prefix}{sentence}"));
                // A shell's exit code for a command that it cannot start.
                Exit::Code(127)
            }
        };
        sandbox.poll_trigger.notify();
        let next = next_backoff(wait, started.elapsed());
        wait = Some(next);
        let next = with_jitter(next, Utc::now().timestamp_subsec_nanos() / 1000);
        restarts = restarts.saturating_add(1);
        let how = match exit {
            Exit::Code(code) => format!("ended with exit code {code}"),
            Exit::Signal(signal) => format!("was ended by signal {signal}"),
        };
        sandbox.logs.add_notice(format!(
            "{prefix}it {how} and is started again in {:.1} s",
            next.as_secs_f64()
        ));
        if reports {
            let next_attempt = Utc::now() + next;
            sandbox.update_status(|status| {
                status.start_command = StartCommand::BackOff {
                    exit,
                    restarts,
                    next_attempt,
                };
            });
        }
        tokio::time::sleep(next).await;
    }
}

/// Starts a command. Returns it with the writing end of its standard input, which must stay open: watchers (esbuild,
/// Tailwind CSS, Vite) end when their standard input does.
fn spawn(start: &Start, entry: &Entry, prefix: &str) -> Result<(Child, OwnedFd), String> {
    let sandbox = &start.sandbox;
    let failed = |error: io::Error| format!("`{}` could not be started: {error}", entry.command);
    let user = sandbox.accounts.find(None).map_err(|error| error.to_string())?;
    let pipe = || {
        nix::unistd::pipe2(OFlag::O_CLOEXEC)
            .map_err(io::Error::from)
            .map_err(failed)
    };
    let (stdout_reader, stdout) = pipe()?;
    let (stderr_reader, stderr) = pipe()?;
    let (stdin, stdin_writer) = pipe()?;
    let mut extra = BTreeMap::new();
    if !sandbox.environment.contains_key("PORT") {
        extra.insert("PORT".to_owned(), entry.port.to_string());
    }
    let arguments = ["-c".to_owned(), entry.command.clone()];
    let launch = Launch {
        program: OsStr::new("/bin/sh"),
        name: None,
        arguments: &arguments,
        environment: environment::of(&user, &sandbox.environment, &extra),
        folder: sandbox.project.clone(),
        user: &user,
        stdin,
        stdout,
        stderr,
        terminal: false,
    };
    let child = spawn::spawn(&sandbox.reaper, launch).map_err(|error| error.to_string())?;
    start.live.lock().push(child.pid);
    sandbox.poll_trigger.notify();
    for (reader, source) in [
        (stdout_reader, LogSource::Stdout),
        (stderr_reader, LogSource::Stderr),
    ] {
        let reader = pipe::Receiver::from_owned_fd(reader).map_err(failed)?;
        let prefix = prefix.to_owned();
        tokio::spawn(record(Arc::clone(sandbox), reader, source, move |line| {
            prefix.clone() + &line
        }));
    }
    Ok((child, stdin_writer))
}

/// Logs the output of a pipe line by line, until the last writer is gone.
pub(super) async fn record(
    sandbox: Arc<Sandbox>,
    pipe: pipe::Receiver,
    source: LogSource,
    format: impl Fn(String) -> String,
) {
    let mut lines = Lines::default();
    let mut buffer = Vec::new();
    while pipe.readable().await.is_ok() {
        buffer.resize(CHUNK, 0);
        match pipe.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                lines.feed(&buffer[..length], |line| sandbox.logs.add(source, format(line)));
                sandbox.poll_trigger.notify();
            }
            // Free the buffer while the command is silent.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = Vec::new(),
            Err(_) => break,
        }
        tokio::task::yield_now().await;
    }
    if let Some(line) = lines.finish() {
        sandbox.logs.add(source, format(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_up_to_a_minute_and_a_long_run_resets_it() {
        let mut wait = None;
        let waits: Vec<_> = (0..8)
            .map(|_| {
                let next = next_backoff(wait, Duration::from_secs(1));
                wait = Some(next);
                next.as_secs()
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(next_backoff(wait, BACKOFF_RESET_AFTER), MIN_BACKOFF);
    }

    #[test]
    fn jitter_adds_a_tenth_at_most() {
        for random in 0..200 {
            let wait = with_jitter(MAX_BACKOFF, random);
            assert!(wait >= MAX_BACKOFF && wait <= MAX_BACKOFF * 11 / 10);
        }
    }
}
