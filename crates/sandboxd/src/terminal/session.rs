//! One session: a shell on a pseudo-terminal, its scrollback, the seats of its viewers ([`super::chair`]).
//!
//! **Flow.** Output goes from the terminal into the scrollback and nowhere else; a viewer is a
//! position in it ([`super::viewer`]) and holds no queue. The terminal is read while some viewer
//! is less than [`WINDOW`] behind, or nobody watches; so the fastest viewer sets the pace, and
//! with one viewer nothing is ever left out. A viewer that stays behind for [`PATIENCE`] (it
//! paused, its machine sleeps) does not count any more: the program goes on, and the viewer is
//! brought up to date by a replay when it comes back and its position is gone.
//!
//! **Size.** As tmux has it (`window-size latest`): the window of the viewer that was active last.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use fsa_model::{
    sandboxd::{Exit, TerminalSession},
    tty::{Typist, WindowSize},
};
use nix::errno::Errno;
use parking_lot::Mutex;
use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{
    chair::{Chair, Seat},
    pty,
    scrollback::{CAPACITY, Scrollback},
    sequence::{self, Parser, Piece},
    typists::Typists,
};
use crate::{
    environment,
    http::Refusal,
    reaper::Child,
    sandbox::Sandbox,
    session,
    spawn::{self, Launch},
    user::User,
};

/// How far behind a viewer may be before it holds back the program, in bytes.
pub(super) const WINDOW: u64 = CAPACITY as u64 / 2;
/// How long it may hold it back.
const PATIENCE: Duration = Duration::from_secs(5);
/// Read from the terminal, and sent to a viewer, at once.
pub(super) const CHUNK: usize = 64 * 1024;
/// How long one terminal is read before the others get their turn: a key's echo beside a flood
/// waits for a few of these.
const TURN: Duration = Duration::from_micros(300);
/// Viewers of one session at a time.
const VIEWERS: usize = 64;
/// What may still be in the terminal after the shell's end; more comes from others.
const LAST_WORDS: usize = 1024 * 1024;

/// A session.
#[derive(Debug)]
pub struct Session {
    pub name: String,
    pub uid: u32,
    /// The shell, and the id of its session for the kernel.
    pub pid: i32,
    created_at: DateTime<Utc>,
    pub(super) terminal: AsyncFd<OwnedFd>,
    pub(super) state: Mutex<State>,
    pub(super) typists: Mutex<Typists>,
    /// Wakes the reader of the terminal: a viewer came, went or moved on.
    pub(super) moved: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) scrollback: Scrollback,
    titles: Parser,
    pub(super) title: String,
    size: WindowSize,
    pub(super) seats: Vec<Seat>,
    /// Grows with each seat, and with each sign of activity.
    pub(super) counter: u64,
    pub(super) ended: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Permission {
    Read,
    WaitUntil(Instant),
}

/// What follows what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    More,
    /// Nothing is there yet.
    Later,
    End,
}

impl Session {
    /// Starts the user's shell on a new terminal, and what reads it.
    pub(super) fn start(
        sandbox: &Arc<Sandbox>,
        name: &str,
        user: &User,
        size: WindowSize,
    ) -> Result<Arc<Self>, Refusal> {
        let no_terminal = |error: io::Error| {
            Refusal::new(
                http::StatusCode::SERVICE_UNAVAILABLE,
                "NoTerminal",
                format!("no terminal could be made: {error}"),
            )
        };
        let pty = pty::open(user, size).map_err(no_terminal)?;
        let terminal = pty::watched(pty.ours).map_err(no_terminal)?;
        let copy = || pty.theirs.try_clone().map_err(no_terminal);
        let (stdin, stdout) = (copy()?, copy()?);
        let mut environment = environment::of(user, &sandbox.environment, &std::collections::BTreeMap::new());
        environment.retain(|(name, _)| name != "TERM" && name != "COLORTERM");
        environment.push(("TERM".into(), "xterm-256color".into()));
        environment.push(("COLORTERM".into(), "truecolor".into()));
        // A login shell is one whose own name begins with a dash.
        let mut dashed = std::ffi::OsString::from("-");
        dashed.push(user.shell.file_name().unwrap_or(user.shell.as_os_str()));
        let launch = Launch {
            program: user.shell.as_os_str(),
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
                seats: Vec::new(),
                counter: 0,
                ended: None,
            }),
            typists: Mutex::default(),
            moved: Notify::new(),
        });
        tokio::spawn(Arc::clone(&session).run(Arc::clone(sandbox), exit));
        Ok(session)
    }

    /// Whether the shell has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state.lock().ended.is_some()
    }

    /// What `GET /v1/terminals` says of it.
    #[must_use]
    pub fn describe(&self) -> TerminalSession {
        let state = self.state.lock();
        TerminalSession {
            name: self.name.clone(),
            title: state.title.clone(),
            viewers: state.seats.len() as u32,
            columns: state.size.columns,
            rows: state.size.rows,
            created_at: self.created_at,
        }
    }

    /// Hangs up: the shell and what it started are told, and ended if they do not end.
    pub async fn hang_up(&self, sandbox: &Sandbox) {
        session::end(&sandbox.reaper, self.pid, libc::SIGHUP, session::EXEC_GRACE).await;
    }

    /// Gives a viewer a seat. A `typist` is told what the terminal has of its input, now and after each write.
    ///
    /// # Errors
    /// There is none left, in a sentence.
    pub(super) fn sit(
        self: &Arc<Self>,
        size: Option<WindowSize>,
        typist: Option<Typist>,
    ) -> Result<Chair, String> {
        let taken = typist
            .as_ref()
            .map(|typist| self.typists.lock().arrive(&typist.client, typist.from));
        let wake = Arc::new(Notify::new());
        let mut state = self.state.lock();
        if state.seats.len() >= VIEWERS {
            return Err(format!("this terminal has {VIEWERS} viewers already"));
        }
        state.counter += 1;
        let seat = Seat {
            id: state.counter,
            position: state.scrollback.start(),
            paused: false,
            behind_since: None,
            fresh: true,
            title_due: !state.title.is_empty(),
            taken_due: taken,
            size,
            active: state.counter,
            wake: Arc::clone(&wake),
        };
        let id = seat.id;
        state.seats.push(seat);
        self.fit(&mut state);
        drop(state);
        self.moved.notify_one();
        Ok(Chair {
            session: Arc::clone(self),
            id,
            wake,
            client: typist.map(|typist| typist.client),
        })
    }

    /// Sets the size to that of the viewer that was active last.
    pub(super) fn fit(&self, state: &mut State) {
        let latest = state
            .seats
            .iter()
            .filter(|seat| seat.size.is_some())
            .max_by_key(|seat| seat.active);
        if let Some(size) = latest.and_then(|seat| seat.size)
            && size != state.size
            && pty::resize(&self.terminal, size).is_ok()
        {
            state.size = size;
        }
    }

    async fn run(self: Arc<Self>, sandbox: Arc<Sandbox>, mut exit: oneshot::Receiver<Exit>) {
        let mut buffer = vec![0; CHUNK];
        let exit = loop {
            if let Permission::WaitUntil(deadline) = self.permission(Instant::now()) {
                tokio::select! {
                    () = self.moved.notified() => {}
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
                // Nobody has the other end open. The shell has ended, or closed it and is of no
                // more use; what it left in the background with `nohup` goes on in the first case.
                if let Ok(exit) = timeout(PATIENCE, Child::ended(&mut exit)).await {
                    break exit;
                }
                self.hang_up(&sandbox).await;
                break Child::ended(&mut exit).await;
            }
            self.output(&buffer[..read]);
            sandbox.pulse.poke();
            // Another terminal's turn, and the viewers'.
            tokio::task::yield_now().await;
        };
        let mut left = LAST_WORDS;
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
        sandbox.terminals.forget(&self);
        sandbox.pulse.poke();
    }

    fn permission(&self, now: Instant) -> Permission {
        let mut state = self.state.lock();
        let end = state.scrollback.end();
        let mut patience = None;
        for seat in &mut state.seats {
            if !seat.fresh && end - seat.position < WINDOW {
                return Permission::Read;
            }
            let deadline = *seat.behind_since.get_or_insert(now) + PATIENCE;
            if deadline > now {
                patience = Some(patience.map_or(deadline, |other: Instant| other.min(deadline)));
            }
        }
        // Nobody watches, or only such as have been behind for too long.
        patience.map_or(Permission::Read, Permission::WaitUntil)
    }

    /// Waits for output, and reads as much as is there; 0 when there will be none any more.
    async fn read(&self, buffer: &mut [u8]) -> usize {
        loop {
            let Ok(mut ready) = self.terminal.readable().await else {
                return 0;
            };
            let (length, then) = self.read_now(buffer);
            if then == Then::Later {
                ready.clear_ready();
            }
            if length > 0 || then == Then::End {
                return length;
            }
        }
    }

    /// Reads until the buffer is full, the terminal empty, or [`TURN`] is over: one read gives at
    /// most what the kernel's own small buffer holds (4 KiB), and a read may have to wait for the
    /// kernel to fill it (up to 0.1 ms), while nothing else here runs.
    fn read_now(&self, buffer: &mut [u8]) -> (usize, Then) {
        let (mut length, begun) = (0, Instant::now());
        while length < buffer.len() && (length == 0 || begun.elapsed() < TURN) {
            match nix::unistd::read(self.terminal.get_ref(), &mut buffer[length..]) {
                Ok(0) => return (length, Then::End),
                Ok(more) => length += more,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return (length, Then::Later),
                // EIO, where nobody has the other end open any more.
                Err(_) => return (length, Then::End),
            }
        }
        (length, Then::More)
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
        for seat in &mut state.seats {
            seat.title_due |= renamed.is_some();
            seat.wake.notify_one();
        }
        if let Some(title) = renamed {
            state.title = title;
        }
    }

    fn end(&self, message: String) {
        let mut state = self.state.lock();
        state.ended = Some(message);
        for seat in &state.seats {
            seat.wake.notify_one();
        }
    }
}
