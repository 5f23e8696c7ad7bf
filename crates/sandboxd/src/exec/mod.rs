//! Command execution: validates the request, starts the command with pipes or a pseudo-terminal, and owns it until it
//! ends.

pub mod capture;
pub mod stream;
pub mod tasks;

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use fsa_model::{
    sandboxd::{ExecRequest, Exit},
    tty::WindowSize,
};
use nix::{errno::Errno, fcntl::OFlag};
use tokio::{io::unix::AsyncFd, net::unix::pipe, sync::oneshot};

use crate::{
    environment,
    http::ApiError,
    pty,
    reaper::Child,
    sandbox::Sandbox,
    session,
    spawn::{self, Launch},
    user::User,
};

/// Timeout in seconds, when a request gives none.
const DEFAULT_TIMEOUT_SECONDS: u32 = 60;
const MAX_TIMEOUT_SECONDS: u32 = 3600;
/// Exit code of timeout(1).
const TIMED_OUT_EXIT_CODE: i32 = 124;
/// Bytes that are read from a pipe at once: the capacity of a pipe.
const CHUNK: usize = 64 * 1024;
/// Maximum number of pipes that are still drained after their command has ended.
const MAX_LEFTOVERS: usize = 64;

/// Running command. Dropped, it is killed with everything that it started.
#[derive(Debug)]
struct Running {
    /// The process id, which is also the id of its session.
    pid: i32,
    exit: oneshot::Receiver<Exit>,
    stdin: Option<pipe::Sender>,
    /// The command's terminal, in place of pipes.
    terminal: Option<Terminal>,
    stdout: Output,
    stderr: Output,
    sandbox: Arc<Sandbox>,
    finished: bool,
}

/// Our end of a command's pseudo-terminal.
type Terminal = Arc<AsyncFd<OwnedFd>>;

/// Output of a command that has not ended yet.
#[derive(Debug, Default)]
struct Output {
    source: Option<Source>,
}

#[derive(Debug)]
enum Source {
    Pipe(pipe::Receiver),
    Terminal(Terminal),
}

/// Starts the command of the request.
fn start(sandbox: &Arc<Sandbox>, request: &ExecRequest) -> Result<Running, ApiError> {
    let Some((program, arguments)) = request.command.split_first() else {
        return Err(ApiError::field(
            "command",
            "the command is empty; it is a list of a program and its arguments",
        ));
    };
    if program.is_empty() {
        return Err(ApiError::field("command", "the program's name is empty"));
    }
    if request.command.iter().any(|word| word.contains('\0')) {
        return Err(ApiError::field(
            "command",
            "an argument holds a NUL byte, which no process can receive",
        ));
    }
    let user = sandbox.accounts.find(request.user.as_deref())?;
    let folder = match request.cwd.as_deref() {
        Some(cwd) if cwd.contains('\0') => {
            return Err(ApiError::field("cwd", "a path cannot hold a NUL byte"));
        }
        Some(cwd) => sandbox.project.join(cwd),
        None => sandbox.project.clone(),
    };
    let channels = match request.tty {
        Some(size) => Channels::terminal(&user, size)?,
        None => Channels::pipes()?,
    };
    let mut environment = environment::of(&user, &sandbox.environment, &request.env);
    if channels.terminal.is_some() {
        for (name, value) in [("TERM", "xterm-256color"), ("COLORTERM", "truecolor")] {
            if !request.env.contains_key(name) {
                environment.retain(|(other, _)| other != name);
                environment.push((name.into(), value.into()));
            }
        }
    }
    let [stdin, stdout, stderr] = channels.theirs;
    let launch = Launch {
        program: OsStr::new(program),
        name: None,
        arguments,
        environment,
        folder,
        user: &user,
        stdin,
        stdout,
        stderr,
        terminal: channels.terminal.is_some(),
    };
    let Child { pid, exit } = spawn::spawn(&sandbox.reaper, launch)?;
    sandbox.poll_trigger.notify();
    Ok(Running {
        pid,
        exit,
        stdin: channels.stdin,
        terminal: channels.terminal,
        stdout: channels.stdout,
        stderr: channels.stderr,
        sandbox: Arc::clone(sandbox),
        finished: false,
    })
}

/// Both ends of the input and output of a command.
struct Channels {
    theirs: [OwnedFd; 3],
    stdin: Option<pipe::Sender>,
    stdout: Output,
    stderr: Output,
    terminal: Option<Terminal>,
}

impl Channels {
    fn pipes() -> Result<Self, ApiError> {
        let pipe = || {
            nix::unistd::pipe2(OFlag::O_CLOEXEC)
                .map_err(io::Error::from)
                .map_err(no_pipe)
        };
        let (stdin, stdin_writer) = pipe()?;
        let (stdout_reader, stdout) = pipe()?;
        let (stderr_reader, stderr) = pipe()?;
        let output = |reader| {
            pipe::Receiver::from_owned_fd(reader).map(|pipe| Output {
                source: Some(Source::Pipe(pipe)),
            })
        };
        Ok(Self {
            theirs: [stdin, stdout, stderr],
            stdin: Some(pipe::Sender::from_owned_fd(stdin_writer).map_err(no_pipe)?),
            stdout: output(stdout_reader).map_err(no_pipe)?,
            stderr: output(stderr_reader).map_err(no_pipe)?,
            terminal: None,
        })
    }

    fn terminal(user: &User, size: WindowSize) -> Result<Self, ApiError> {
        let size = WindowSize::checked(size.columns, size.rows)
            .ok_or_else(|| ApiError::field("tty", "a terminal has at least one column and one row"))?;
        let open = || {
            let pty = pty::open(user, size)?;
            let (stdin, stdout) = (pty.theirs.try_clone()?, pty.theirs.try_clone()?);
            let terminal = Arc::new(pty::register(pty.ours)?);
            Ok(Self {
                theirs: [stdin, stdout, pty.theirs],
                stdin: None,
                stdout: Output {
                    source: Some(Source::Terminal(Arc::clone(&terminal))),
                },
                stderr: Output::default(),
                terminal: Some(terminal),
            })
        };
        open().map_err(|error: io::Error| {
            ApiError::new(
                http::StatusCode::SERVICE_UNAVAILABLE,
                "NoTerminal",
                format!("no terminal could be made: {error}"),
            )
        })
    }
}

#[allow(clippy::needless_pass_by_value)]
fn no_pipe(error: io::Error) -> ApiError {
    ApiError::new(
        http::StatusCode::SERVICE_UNAVAILABLE,
        "StartFailed",
        format!("no pipe could be made for the command: {error}"),
    )
}

/// Refuses a terminal where nothing is streamed.
fn refuse_terminal(request: &ExecRequest) -> Result<(), ApiError> {
    match request.tty {
        Some(_) => Err(ApiError::field(
            "tty",
            "a command has a terminal only when it is streamed: GET as a WebSocket",
        )),
        None => Ok(()),
    }
}

/// Validates the request's timeout.
fn time_limit(seconds: Option<u32>) -> Result<Option<Duration>, ApiError> {
    match seconds {
        None => Ok(None),
        Some(seconds @ 1..=MAX_TIMEOUT_SECONDS) => Ok(Some(Duration::from_secs(seconds.into()))),
        Some(seconds) => Err(ApiError::field(
            "timeoutSeconds",
            format!("{seconds} is not from 1 to {MAX_TIMEOUT_SECONDS}"),
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
            (TIMED_OUT_EXIT_CODE, true)
        }
    }
}

impl Source {
    /// Reads at least one byte; 0 at the end.
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self {
                Self::Pipe(pipe) => {
                    pipe.readable().await?;
                    match pipe.try_read(buffer) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        result => return result,
                    }
                }
                Self::Terminal(terminal) => {
                    let mut ready = terminal.readable().await?;
                    match ready.try_io(|terminal| Ok(nix::unistd::read(terminal.get_ref(), buffer)?)) {
                        Err(_would_block) => {}
                        Ok(result) => return result,
                    }
                }
            }
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Pipe(pipe) => pipe.as_fd(),
            Self::Terminal(terminal) => terminal.as_fd(),
        }
    }
}

impl Output {
    /// Waits for output and reads it into the buffer. Returns 0 at the end, once; later calls never return.
    /// A terminal that no process has open any more is at its end.
    async fn read(&mut self, buffer: &mut [u8]) -> usize {
        let Some(source) = &self.source else {
            return std::future::pending().await;
        };
        match source.read(buffer).await {
            Ok(length) if length > 0 => length,
            _ => {
                self.source = None;
                0
            }
        }
    }

    /// Reads the output that is there now; `None` when there is none. It reads from the kernel, because the
    /// runtime's `try_read` returns nothing before the runtime has polled the pipe, and the runtime may learn of the
    /// command's end first.
    fn read_now(&mut self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            match nix::unistd::read(self.source.as_ref()?, buffer) {
                Ok(length) if length > 0 => return Some(length),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return None,
                _ => self.source = None,
            }
        }
    }
}

impl Running {
    /// Marks the command as ended, after all its output was read. Processes that it left in the
    /// background may continue; their pipes are drained, so that a closed pipe does not kill them. A
    /// terminal is hung up.
    fn finish(&mut self) {
        self.finished = true;
        self.sandbox.poll_trigger.notify();
        for output in [&mut self.stdout, &mut self.stderr] {
            let Some(Source::Pipe(pipe)) = output.source.take() else {
                continue;
            };
            {
                let mut count = self.sandbox.leftovers.lock();
                if *count >= MAX_LEFTOVERS {
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
        if self.finished {
            return;
        }
        // The client disconnected. The command may have ended, and have left other processes behind.
        let (sandbox, pid) = (Arc::clone(&self.sandbox), self.pid);
        // An interactive shell ignores SIGTERM.
        let signal = if self.terminal.is_some() {
            libc::SIGHUP
        } else {
            libc::SIGTERM
        };
        tokio::spawn(async move {
            session::end(&sandbox.reaper, pid, signal, session::EXEC_GRACE).await;
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
            source: Some(Source::Pipe(pipe::Receiver::from_owned_fd(reader).unwrap())),
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
