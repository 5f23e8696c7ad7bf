//! Terminal session: a shell on a pseudo-terminal, its scrollback, and its viewers ([`super::viewer_handle`]).
//!
//! **Flow control.** Output goes from the terminal into the scrollback and nowhere else; a viewer is
//! a position in it ([`super::viewer`]) and holds no queue. The terminal is read while some viewer
//! is less than [`WINDOW`] behind, or there is no viewer; so the fastest viewer sets the rate, and
//! with one viewer no output is ever skipped. A viewer that stays behind for [`BEHIND_TIMEOUT`] (it
//! paused, its machine sleeps) is no longer waited for: the program continues, and the viewer gets a
//! replay when it returns and its position is no longer in the scrollback.
//!
//! **Size.** The window of the viewer that was active last, like tmux with `window-size latest`.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use fsa_model::{
    sandboxd::{Exit, TerminalSession},
    tty::{InputSequence, WindowSize},
};
use nix::errno::Errno;
use parking_lot::Mutex;
use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Terminals,
    input_dedup::InputDedup,
    scrollback::{CAPACITY, Scrollback},
    sequence::{self, Parser, Piece},
    viewer_handle::{ViewerHandle, ViewerState},
};
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

/// How many bytes a viewer may be behind before it holds back the program.
pub(super) const WINDOW: u64 = CAPACITY as u64 / 2;
/// How long a viewer may hold back the program.
const BEHIND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a shell may take to exit after it closed its terminal.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that are read from the terminal, or sent to a viewer, at once.
pub(super) const CHUNK: usize = 64 * 1024;
/// How long one terminal is read before other tasks run: a key's echo beside a flood waits for a
/// few of these.
const TIME_SLICE: Duration = Duration::from_micros(300);
/// Maximum number of viewers of one session.
const MAX_VIEWERS: usize = 64;
/// Bytes that are read from the terminal after the shell has ended; more comes from other processes.
const MAX_FINAL_OUTPUT: usize = 1024 * 1024;

/// Terminal session.
#[derive(Debug)]
pub struct Session {
    pub name: String,
    pub uid: u32,
    /// The shell's process id, which is also its kernel session's id.
    pub pid: i32,
    created_at: DateTime<Utc>,
    pub(super) terminal: AsyncFd<OwnedFd>,
    pub(super) state: Mutex<State>,
    pub(super) input_dedup: Mutex<InputDedup>,
    /// Wakes the reader of the terminal: a viewer was added, removed or has advanced.
    pub(super) viewers_changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) scrollback: Scrollback,
    titles: Parser,
    pub(super) title: String,
    size: WindowSize,
    pub(super) viewers: Vec<ViewerState>,
    /// Grows with each new viewer and each activity of one.
    pub(super) counter: u64,
    pub(super) ended: Option<String>,
}

/// Whether the terminal may be read now.
#[derive(Debug, PartialEq, Eq)]
enum FlowControl {
    Read,
    WaitUntil(Instant),
}

/// State of the terminal after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterRead {
    More,
    /// There is no output at the moment.
    WouldBlock,
    End,
}

impl Session {
    /// Starts the user's shell on a new terminal, and the task that reads it.
    pub(super) fn start(
        terminals: &Arc<Terminals>,
        name: &str,
        user: &User,
        size: WindowSize,
    ) -> Result<Arc<Self>, ApiError> {
        let sandbox = &terminals.sandbox;
        let no_terminal = |error: io::Error| {
            ApiError::new(
                http::StatusCode::SERVICE_UNAVAILABLE,
                "NoTerminal",
                format!("no terminal could be made: {error}"),
            )
        };
        let pty = pty::open(user, size).map_err(no_terminal)?;
        let terminal = pty::register(pty.ours).map_err(no_terminal)?;
        let copy = || pty.theirs.try_clone().map_err(no_terminal);
        let (stdin, stdout) = (copy()?, copy()?);
        let mut environment = environment::of(user, &sandbox.environment, &std::collections::BTreeMap::new());
        environment.retain(|(name, _)| name != "TERM" && name != "COLORTERM");
        environment.push(("TERM".into(), "xterm-256color".into()));
        environment.push(("COLORTERM".into(), "truecolor".into()));
        // A login shell is one whose argv[0] begins with a dash.
        let shell = environment::shell(user, &sandbox.environment);
        let mut dashed = std::ffi::OsString::from("-");
        dashed.push(shell.file_name().unwrap_or(shell.as_os_str()));
        let launch = Launch {
            program: shell.as_os_str(),
            name: Some(dashed),
            arguments: &[],
            environment,
            folder: sandbox.project.clone(),
            user,
            stdin,
            stdout,
            stderr: pty.theirs,
            terminal: true,
        };
        let Child { pid, exit } = spawn::spawn(&sandbox.reaper, launch)?;
        let session = Arc::new(Self {
            name: name.into(),
            uid: user.uid,
            pid,
            created_at: Utc::now(),
            terminal,
            state: Mutex::new(State {
                scrollback: Scrollback::default(),
                titles: Parser::default(),
                title: String::new(),
                size,
                viewers: Vec::new(),
                counter: 0,
                ended: None,
            }),
            input_dedup: Mutex::default(),
            viewers_changed: Notify::new(),
        });
        tokio::spawn(Arc::clone(&session).run(Arc::clone(terminals), exit));
        Ok(session)
    }

    /// Whether the shell has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state.lock().ended.is_some()
    }

    /// The session as `GET /v1/terminals` lists it.
    #[must_use]
    pub fn describe(&self) -> TerminalSession {
        let state = self.state.lock();
        TerminalSession {
            name: self.name.clone(),
            title: state.title.clone(),
            viewers: state.viewers.len() as u32,
            columns: state.size.columns,
            rows: state.size.rows,
            created_at: self.created_at,
        }
    }

    /// Hangs up: sends SIGHUP to the shell and what it started, and kills what does not end.
    pub async fn hang_up(&self, sandbox: &Sandbox) {
        session::end(&sandbox.reaper, self.pid, libc::SIGHUP, session::EXEC_GRACE).await;
    }

    /// Adds a viewer. A viewer with an `input_sequence` gets an acknowledgment of its input, now and after each write.
    ///
    /// # Errors
    /// The session has too many viewers, in a sentence.
    pub(super) fn add_viewer(
        self: &Arc<Self>,
        size: Option<WindowSize>,
        input_sequence: Option<InputSequence>,
    ) -> Result<ViewerHandle, String> {
        let ack_due = input_sequence
            .as_ref()
            .map(|sequence| self.input_dedup.lock().connect(&sequence.client, sequence.from));
        let wake = Arc::new(Notify::new());
        let mut state = self.state.lock();
        if state.viewers.len() >= MAX_VIEWERS {
            return Err(format!("this terminal has {MAX_VIEWERS} viewers already"));
        }
        state.counter += 1;
        let viewer = ViewerState {
            id: state.counter,
            position: state.scrollback.start(),
            paused: false,
            behind_since: None,
            fresh: true,
            title_due: !state.title.is_empty(),
            ack_due,
            size,
            active: state.counter,
            wake: Arc::clone(&wake),
        };
        let id = viewer.id;
        state.viewers.push(viewer);
        self.apply_active_size(&mut state);
        drop(state);
        self.viewers_changed.notify_one();
        Ok(ViewerHandle {
            session: Arc::clone(self),
            id,
            wake,
            client: input_sequence.map(|sequence| sequence.client),
        })
    }

    /// Sets the size to that of the viewer that was active last.
    pub(super) fn apply_active_size(&self, state: &mut State) {
        let latest = state
            .viewers
            .iter()
            .filter(|viewer| viewer.size.is_some())
            .max_by_key(|viewer| viewer.active);
        if let Some(size) = latest.and_then(|viewer| viewer.size)
            && size != state.size
            && pty::resize(&self.terminal, size).is_ok()
        {
            state.size = size;
        }
    }

    async fn run(self: Arc<Self>, terminals: Arc<Terminals>, mut exit: oneshot::Receiver<Exit>) {
        let sandbox = &terminals.sandbox;
        let mut buffer = vec![0; CHUNK];
        let exit = loop {
            if let FlowControl::WaitUntil(deadline) = self.flow_control(Instant::now()) {
                tokio::select! {
                    () = self.viewers_changed.notified() => {}
                    () = sleep_until(deadline) => {}
                    exit = Child::ended(&mut exit) => break exit,
                }
                continue;
            }
            let read = tokio::select! {
                exit = Child::ended(&mut exit) => break exit,
                read = self.read(&mut buffer) => read,
            };
            if read == 0 {
                // No process has the other end open. Either the shell has ended, and what it left in
                // the background with `nohup` continues, or it closed the terminal and is of no more use.
                if let Ok(exit) = timeout(EXIT_TIMEOUT, Child::ended(&mut exit)).await {
                    break exit;
                }
                self.hang_up(sandbox).await;
                break Child::ended(&mut exit).await;
            }
            self.output(&buffer[..read]);
            sandbox.poll_trigger.notify();
            // Let other terminals and the viewers run.
            tokio::task::yield_now().await;
        };
        let mut left = MAX_FINAL_OUTPUT;
        while left > 0 {
            let (length, _) = self.read_now(&mut buffer);
            if length == 0 {
                break;
            }
            self.output(&buffer[..length]);
            left = left.saturating_sub(length);
        }
        self.end(match exit {
            Exit::Code(0) => "the shell has ended; open the terminal again for a new one".into(),
            Exit::Code(code) => {
                format!("the shell has ended with exit code {code}; open the terminal again for a new one")
            }
            Exit::Signal(_) => "the terminal was closed; open it again for a new one".into(),
        });
        terminals.remove(&self);
        sandbox.poll_trigger.notify();
    }

    fn flow_control(&self, now: Instant) -> FlowControl {
        let mut state = self.state.lock();
        let end = state.scrollback.end();
        let mut earliest = None;
        for viewer in &mut state.viewers {
            if !viewer.fresh && end - viewer.position < WINDOW {
                return FlowControl::Read;
            }
            let deadline = *viewer.behind_since.get_or_insert(now) + BEHIND_TIMEOUT;
            if deadline > now {
                earliest = Some(earliest.map_or(deadline, |other: Instant| other.min(deadline)));
            }
        }
        // There is no viewer, or all have been behind for too long.
        earliest.map_or(FlowControl::Read, FlowControl::WaitUntil)
    }

    /// Waits for output, and reads what there is; 0 at the end of the output.
    async fn read(&self, buffer: &mut [u8]) -> usize {
        loop {
            let Ok(mut ready) = self.terminal.readable().await else {
                return 0;
            };
            let (length, after) = self.read_now(buffer);
            if after == AfterRead::WouldBlock {
                ready.clear_ready();
            }
            if length > 0 || after == AfterRead::End {
                return length;
            }
        }
    }

    /// Reads until the buffer is full, the terminal is empty, or [`TIME_SLICE`] is over: one read gives
    /// at most what the kernel's small buffer holds (4 KiB), and a read may have to wait for the
    /// kernel to fill it (up to 0.1 ms), while nothing else here runs.
    fn read_now(&self, buffer: &mut [u8]) -> (usize, AfterRead) {
        let (mut length, begun) = (0, Instant::now());
        while length < buffer.len() && (length == 0 || begun.elapsed() < TIME_SLICE) {
            match nix::unistd::read(self.terminal.get_ref(), &mut buffer[length..]) {
                Ok(0) => return (length, AfterRead::End),
                Ok(more) => length += more,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return (length, AfterRead::WouldBlock),
                // EIO: no process has the other end open any more.
                Err(_) => return (length, AfterRead::End),
            }
        }
        (length, AfterRead::More)
    }

    fn output(&self, bytes: &[u8]) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.scrollback.push(bytes);
        let mut title = None;
        state.titles.feed(bytes, |piece| {
            if let Piece::Sequence(bytes) = piece {
                title = sequence::title(bytes).or_else(|| title.take());
            }
        });
        let renamed = title.filter(|title| *title != state.title);
        for viewer in &mut state.viewers {
            viewer.title_due |= renamed.is_some();
            viewer.wake.notify_one();
        }
        if let Some(title) = renamed {
            state.title = title;
        }
    }

    fn end(&self, message: String) {
        let mut state = self.state.lock();
        state.ended = Some(message);
        for viewer in &state.viewers {
            viewer.wake.notify_one();
        }
    }
}
