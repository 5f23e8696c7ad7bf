//! Command execution: validates the request, starts the command with pipes, and owns it until it ends.

pub mod capture;
pub mod stream;
pub mod tasks;

use std::{ffi::OsStr, io, sync::Arc, time::Duration};

use fsa_model::sandboxd::{ExecRequest, Exit};
use nix::{errno::Errno, fcntl::OFlag};
use tokio::{net::unix::pipe, sync::oneshot};

use crate::{
    environment,
    http::Refusal,
    reaper::Child,
    sandbox::Sandbox,
    session,
    spawn::{self, Launch},
};

/// Timeout in seconds, when a request gives none.
const DEFAULT_TIMEOUT: u32 = 60;
const LONGEST_TIMEOUT: u32 = 3600;
/// Exit code of timeout(1).
const TIMED_OUT: i32 = 124;
/// Bytes that are read from a pipe at once: the capacity of a pipe.
const CHUNK: usize = 64 * 1024;
/// Maximum number of pipes that are still drained after their command has ended.
const LEFTOVERS: usize = 64;

/// Running command. Dropped, it is killed with everything that it started.
#[derive(Debug)]
struct Running {
    /// The process id, which is also the id of its session.
    pid: i32,
    exit: oneshot::Receiver<Exit>,
    stdin: Option<pipe::Sender>,
    stdout: Output,
    stderr: Output,
    sandbox: Arc<Sandbox>,
    over: bool,
}

/// Reading end of an output pipe.
#[derive(Debug)]
struct Output {
    pipe: Option<pipe::Receiver>,
}

/// Starts the command of the request.
fn start(sandbox: &Arc<Sandbox>, request: &ExecRequest) -> Result<Running, Refusal> {
    let Some((program, arguments)) = request.command.split_first() else {
        return Err(Refusal::field(
            "command",
            "the command is empty; it is a list of a program and its arguments",
        ));
    };
    if program.is_empty() {
        return Err(Refusal::field("command", "the program's name is empty"));
    }
    if request.command.iter().any(|word| word.contains('\0')) {
        return Err(Refusal::field(
            "command",
            "an argument holds a NUL byte, which no process can receive",
        ));
    }
    let user = sandbox.accounts.find(request.user.as_deref())?;
    let folder = match request.cwd.as_deref() {
        Some(cwd) if cwd.contains('\0') => {
            return Err(Refusal::field("cwd", "a path cannot hold a NUL byte"));
        }
        Some(cwd) => sandbox.project.join(cwd),
        None => sandbox.project.clone(),
    };
    let pipe = || {
        nix::unistd::pipe2(OFlag::O_CLOEXEC)
            .map_err(io::Error::from)
            .map_err(no_pipe)
    };
    let (stdin, stdin_writer) = pipe()?;
    let (stdout_reader, stdout) = pipe()?;
    let (stderr_reader, stderr) = pipe()?;
    let launch = Launch {
        program: OsStr::new(program),
        name: None,
        arguments,
        environment: environment::of(&user, &sandbox.environment, &request.env),
        folder,
        user: &user,
        stdin,
        stdout,
        stderr,
        terminal: false,
    };
    let Child { pid, exit } = spawn::spawn(&sandbox.reaper, launch)?;
    sandbox.poll_trigger.notify();
    let mut running = Running {
        pid,
        exit,
        stdin: None,
        stdout: Output { pipe: None },
        stderr: Output { pipe: None },
        sandbox: Arc::clone(sandbox),
        over: false,
    };
    running.stdin = Some(pipe::Sender::from_owned_fd(stdin_writer).map_err(no_pipe)?);
    running.stdout.pipe = Some(pipe::Receiver::from_owned_fd(stdout_reader).map_err(no_pipe)?);
    running.stderr.pipe = Some(pipe::Receiver::from_owned_fd(stderr_reader).map_err(no_pipe)?);
    Ok(running)
}

#[allow(clippy::needless_pass_by_value)]
fn no_pipe(error: io::Error) -> Refusal {
    Refusal::new(
        http::StatusCode::SERVICE_UNAVAILABLE,
        "StartFailed",
        format!("no pipe could be made for the command: {error}"),
    )
}

/// Validates the request's timeout.
fn time_limit(seconds: Option<u32>) -> Result<Option<Duration>, Refusal> {
    match seconds {
        None => Ok(None),
        Some(seconds @ 1..=LONGEST_TIMEOUT) => Ok(Some(Duration::from_secs(seconds.into()))),
        Some(seconds) => Err(Refusal::field(
            "timeoutSeconds",
            format!("{seconds} is not from 1 to {LONGEST_TIMEOUT}"),
        )),
    }
}

/// Waits for the end of the command. After `limit` the whole session gets SIGTERM, and SIGKILL after
/// [`session::EXEC_GRACE`].
///
/// Returns the exit code, and whether the command timed out.
async fn ended(
    exit: &mut oneshot::Receiver<Exit>,
    sandbox: &Sandbox,
    pid: i32,
    limit: Option<Duration>,
) -> (i32, bool) {
    let timeout = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        exit = Child::ended(exit) => (exit.code(), false),
        () = timeout => {
            session::end(&sandbox.reaper, pid, libc::SIGTERM, session::EXEC_GRACE).await;
            (TIMED_OUT, true)
        }
    }
}

impl Output {
    /// Waits for output and reads it into the buffer. Returns 0 at the end, once; later calls never return.
    async fn read(&mut self, buffer: &mut [u8]) -> usize {
        loop {
            let Some(pipe) = &self.pipe else {
                return std::future::pending().await;
            };
            if pipe.readable().await.is_ok() {
                match pipe.try_read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Ok(length) if length > 0 => return length,
                    _ => {}
                }
            }
            self.pipe = None;
            return 0;
        }
    }

    /// Reads the output that is in the pipe now; `None` when there is none. It reads from the kernel, because the
    /// runtime's `try_read` returns nothing before the runtime has polled the pipe, and the runtime may learn of the
    /// command's end first.
    fn read_now(&mut self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match nix::unistd::read(self.pipe.as_ref()?, buffer) {
                Ok(length) if length > 0 => return Some(length),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return None,
                _ => self.pipe = None,
            }
        }
    }
}

impl Running {
    /// Marks the command as ended, after all its output was read. Processes that it left in the
    /// background may continue; their pipes are drained, so that a closed pipe does not kill them.
    fn finish(&mut self) {
        self.over = true;
        self.sandbox.poll_trigger.notify();
        for output in [&mut self.stdout, &mut self.stderr] {
            let Some(pipe) = output.pipe.take() else { continue };
            {
                let mut count = self.sandbox.leftovers.lock();
                if *count >= LEFTOVERS {
                    continue;
                }
                *count += 1;
            }
            let sandbox = Arc::clone(&self.sandbox);
            tokio::spawn(async move {
                drain(&pipe).await;
                *sandbox.leftovers.lock() -= 1;
            });
        }
    }
}

/// Reads and discards until the last writer is gone.
async fn drain(pipe: &pipe::Receiver) {
    while pipe.readable().await.is_ok() {
        let mut buffer = [0; 4096];
        match pipe.try_read(&mut buffer) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            _ => tokio::task::yield_now().await,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // The client disconnected. The command may have ended, and have left other processes behind.
        let (sandbox, pid) = (Arc::clone(&self.sandbox), self.pid);
        tokio::spawn(async move {
            session::end(&sandbox.reaper, pid, libc::SIGTERM, session::EXEC_GRACE).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_is_read_also_before_the_runtime_has_polled_the_pipe() {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let mut output = Output {
            pipe: Some(pipe::Receiver::from_owned_fd(reader).unwrap()),
        };
        nix::unistd::write(&writer, b"the last words").unwrap();

        // Nothing is awaited here, so the runtime has not polled the pipe.
        let mut buffer = [0; 64];
        let length = output.read_now(&mut buffer).expect("output in the pipe");

        assert_eq!(&buffer[..length], b"the last words");
        assert_eq!(output.read_now(&mut buffer), None);
        drop(writer);
        assert_eq!(output.read_now(&mut buffer), None);
    }
}
