//! Runner supervisor: restarts the runner's worker process and reaps orphans.
//!
//! `fsa serve` starts the supervisor while it is still root, and cannot start another once it has
//! dropped its privileges. So the supervisor does nothing that could fail: it restarts the worker
//! when that dies, and reaps orphans. Both hold the socket to `fsa serve`; when that is closed,
//! the worker ends, and the supervisor after it. If the first worker does not start, later ones
//! would not either: then both end, and `fsa serve` is notified why.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use fsa_model::Failure;
use nix::{
    fcntl::OFlag,
    sys::{
        signal::{SigHandler, Signal, signal},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, pipe2, setsid},
};
use rustix::fs::{MemfdFlags, Mode, OFlags};

use super::{
    Runner, RunnerConfig, mounts, oci::FIRST_FREE_FD, privilege_mode::PrivilegeMode, rootless, serve,
};
use crate::protocol::{self, Message, Push, machine};

/// Descriptors with which `fsa runner` gets its socket and its configuration.
const SOCKET_FD: i32 = 3;
const CONFIG_FD: i32 = 4;
/// Exit code of a worker whose socket to `fsa serve` was closed.
const CLOSED: u8 = 0;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Starts `program arguments…` (this program with `runner`) with the socket and the
/// configuration as inherited descriptors. Called while still privileged; the child must be
/// waited for once it ends.
///
/// # Errors
/// The program cannot be started.
pub fn spawn(
    program: &Path,
    arguments: &[String],
    socket: &OwnedFd,
    config: &RunnerConfig,
) -> io::Result<Child> {
    let mut file = File::from(rustix::fs::memfd_create("fsa-runner", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(config)?)?;
    file.rewind()?;
    let copies = [
        (rustix::io::fcntl_dupfd_cloexec(socket, FIRST_FREE_FD)?, SOCKET_FD),
        (rustix::io::fcntl_dupfd_cloexec(&file, FIRST_FREE_FD)?, CONFIG_FD),
    ];
    let targets = copies.each_ref().map(|(fd, target)| (fd.as_raw_fd(), *target));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    // SAFETY: between fork and exec the child calls dup2 alone, which is async-signal-safe,
    // allocates nothing and takes no lock.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            for (fd, target) in targets {
                if libc::dup2(fd, target) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.spawn()
}

/// Main function of `fsa runner`: takes the descriptors of [`spawn`] and runs until `fsa serve`
/// ends. Must be called before there is a second thread.
#[must_use]
pub fn entry() -> ExitCode {
    // SAFETY: these two were put there by `spawn`, for this process alone; where they were not
    // (`fsa runner` typed by hand), reading from them fails and nothing else is done.
    #[allow(unsafe_code)]
    let (socket, config) = unsafe {
        if libc::fcntl(SOCKET_FD, libc::F_GETFD) < 0 || libc::fcntl(CONFIG_FD, libc::F_GETFD) < 0 {
            eprintln!("fsa runner is started by fsa serve; it cannot be started by hand.");
            return ExitCode::from(64);
        }
        (OwnedFd::from_raw_fd(SOCKET_FD), OwnedFd::from_raw_fd(CONFIG_FD))
    };
    let mut text = String::new();
    let config = File::from(config)
        .take(1024 * 1024)
        .read_to_string(&mut text)
        .ok()
        .and_then(|_| serde_json::from_str::<RunnerConfig>(&text).ok());
    match config {
        Some(config) => main(socket, config),
        None => {
            eprintln!("fsa runner is started by fsa serve; it cannot be started by hand.");
            ExitCode::from(64)
        }
    }
}

/// Supervises until the other side of `socket` is gone. The process must have one thread.
#[must_use]
pub fn main(socket: OwnedFd, config: RunnerConfig) -> ExitCode {
    // A new session: the terminal's signals are for `fsa serve`; the runner ends with it.
    let _ = setsid();
    for signal_number in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
        // SAFETY: the handler does nothing, so nothing that is not async-signal-safe.
        #[allow(unsafe_code)]
        let _ = unsafe { signal(signal_number, SigHandler::Handler(ignore_signal)) };
    }
    let privilege_mode = match rootless::enter(&config) {
        Ok(privilege_mode) => privilege_mode,
        Err(failure) => return give_up(&socket, failure),
    };
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Reserves the low descriptor numbers, which a child needs for its own.
    let socket = match reserve(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "the runner cannot start");
            return ExitCode::FAILURE;
        }
    };
    let (started_reader, started_writer) = match pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK) {
        Ok(ends) => ends,
        Err(error) => {
            let why = format!("the runner cannot start: no pipe can be made ({error})");
            return give_up(&socket, machine(why));
        }
    };
    let mut ever_started = false;
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        // SAFETY: this process has one thread, so the child's copy of it is whole.
        #[allow(unsafe_code)]
        let worker = match unsafe { fork() } {
            Ok(ForkResult::Child) => std::process::exit(i32::from(work(
                socket,
                config,
                privilege_mode,
                (!ever_started).then_some(&started_writer),
            ))),
            Ok(ForkResult::Parent { child }) => child,
            Err(error) if !ever_started => {
                let why = format!("the runner cannot start: no process can be started ({error})");
                return give_up(&socket, machine(why));
            }
            Err(error) => {
                tracing::error!(%error, "the runner's worker could not be started");
                pause_for(PAUSE_MAX);
                continue;
            }
        };
        match wait_for(worker) {
            WaitStatus::Exited(_, code) if code == i32::from(CLOSED) => return ExitCode::SUCCESS,
            status => {
                ever_started |= rustix::io::read(&started_reader, &mut [0u8; 8]).is_ok_and(|bytes| bytes > 0);
                if !ever_started {
                    // A failure that the worker itself has sent before takes precedence.
                    let why =
                        format!("the runner ended before it was ready ({status:?}); its log has the reason");
                    return give_up(&socket, machine(why));
                }
                tracing::error!(?status, ?pause, "the runner's worker ended; restarting it");
            }
        }
        pause = if begun.elapsed() > PAUSE_MAX {
            PAUSE_MIN
        } else {
            (pause * 2).min(PAUSE_MAX)
        };
        pause_for(pause);
    }
}

/// Notifies `fsa serve` why there is no runner.
fn give_up(socket: &OwnedFd, failure: Failure) -> ExitCode {
    fail(socket, failure);
    ExitCode::FAILURE
}

fn fail(socket: &OwnedFd, failure: Failure) {
    // Fails where `fsa serve` has ended.
    let _ = protocol::send(socket, &Message::Push(Push::Failed(failure)), &[]);
}

/// Pauses between two attempts. The supervisor has one thread and nothing else to do.
#[allow(
    clippy::disallowed_methods,
    reason = "a pause before a retry: nothing is awaited"
)]
fn pause_for(pause: Duration) {
    thread::sleep(pause);
}

/// A handler instead of SIG_IGN, which sandboxes would inherit.
extern "C" fn ignore_signal(_: i32) {}

/// Reaps children until `worker` is one of them.
fn wait_for(worker: Pid) -> WaitStatus {
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(worker) => return status,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return WaitStatus::StillAlive,
        }
    }
}

fn reserve(socket: OwnedFd) -> io::Result<OwnedFd> {
    let moved = rustix::io::fcntl_dupfd_cloexec(&socket, FIRST_FREE_FD)?;
    drop(socket);
    loop {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        if null.as_raw_fd() >= FIRST_FREE_FD {
            return Ok(moved);
        }
        // Stays open as long as the process lives.
        std::mem::forget(null);
    }
}

/// Main function of a worker; returns its exit code. `first`, for the first worker only: it writes
/// there once it is ready, and notifies `fsa serve` of a failure; later workers are restarted.
fn work(socket: OwnedFd, config: RunnerConfig, privilege_mode: PrivilegeMode, first: Option<&OwnedFd>) -> u8 {
    crate::malloc_arenas::limit_to(2);
    // Paths of sandboxes and mount points are derived from it.
    let config = RunnerConfig {
        data_dir: absolute(&config.data_dir),
        ..config
    };
    if let Err(error) = mounts::private_namespace() {
        let advice = match privilege_mode {
            PrivilegeMode::Root => ": it needs CAP_SYS_ADMIN",
            PrivilegeMode::Rootless => rootless::advice(),
        };
        let why = format!("the runner cannot have a private mount namespace ({error}){advice}");
        return report_start_failure(&socket, machine(why), first.is_some());
    }
    let for_failure = match socket.try_clone() {
        Ok(copy) => copy,
        Err(error) => {
            tracing::error!(%error, "the runner cannot start");
            return 1;
        }
    };
    let runner = match Runner::open(config, privilege_mode, socket) {
        Ok(runner) => runner,
        Err(failure) => {
            return report_start_failure(&for_failure, failure, first.is_some());
        }
    };
    drop(for_failure);
    if let Some(first) = first {
        // The pipe is empty and has room.
        let _ = rustix::io::write(first, &[1]);
    }
    runner.push(&Push::WorkerStarted);
    let watching = thread::Builder::new()
        .name("watch".into())
        .stack_size(super::STACK)
        .spawn({
            let runner = Arc::clone(&runner);
            move || runner.watch_forever()
        });
    if let Err(error) = watching {
        tracing::error!(%error, "the runner cannot start");
        return 1;
    }
    match serve::serve(&runner) {
        Ok(()) => {
            runner.clean_up();
            CLOSED
        }
        Err(error) => {
            tracing::error!(%error, "the runner's socket failed");
            1
        }
    }
}

fn report_start_failure(socket: &OwnedFd, failure: Failure, first: bool) -> u8 {
    tracing::error!(%failure, "the runner's worker cannot start");
    if first {
        fail(socket, failure);
    }
    1
}

fn absolute(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
