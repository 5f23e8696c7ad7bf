//! A viewer's place in a session: what it is to be sent next, what it types, and the size of its window. The session
//! knows it as a [`Seat`], and its connection holds it as a [`Chair`].

use std::{io, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use fsa_model::tty::{OUTPUT, WindowSize};
use tokio::{sync::Notify, time::Instant};

use super::session::{CHUNK, Session, WINDOW};

/// What the session knows of a viewer.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) id: u64,
    /// Up to where it was given the output.
    pub(super) position: u64,
    pub(super) paused: bool,
    pub(super) behind_since: Option<Instant>,
    /// It is to be given everything from the beginning.
    pub(super) fresh: bool,
    pub(super) title_due: bool,
    /// Its input before this byte was written, and it was not told yet.
    pub(super) taken_due: Option<u64>,
    pub(super) size: Option<WindowSize>,
    pub(super) active: u64,
    pub(super) wake: Arc<Notify>,
}

/// What a viewer is to be sent next.
#[derive(Debug)]
pub(super) enum Next {
    /// A whole message of output.
    Output(Bytes),
    /// Everything that is kept, for a terminal in whatever state (`again`), or for a fresh one.
    Replay {
        bytes: Vec<u8>,
        again: bool,
    },
    Title(String),
    /// The terminal has the viewer's input before this byte.
    Taken(u64),
    Nothing,
    /// The session is over; a sentence.
    Ended(String),
}

/// A viewer's place in a session, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Chair {
    pub(super) session: Arc<Session>,
    pub(super) id: u64,
    pub(super) wake: Arc<Notify>,
    /// The viewer's name, where it counts its input.
    pub(super) client: Option<String>,
}

impl Chair {
    /// What is to be sent next; [`Self::woken`] where that is nothing.
    pub fn next(&self, buffer: &mut BytesMut) -> Next {
        let mut guard = self.session.state.lock();
        let state = &mut *guard;
        let end = state.scrollback.end();
        let Some(seat) = state.seats.iter_mut().find(|seat| seat.id == self.id) else {
            return Next::Nothing;
        };
        // Before all output, and also to a viewer that wants none.
        if let Some(count) = seat.taken_due.take() {
            return Next::Taken(count);
        }
        if seat.paused {
            return Next::Nothing;
        }
        if std::mem::take(&mut seat.title_due) {
            return Next::Title(state.title.clone());
        }
        if seat.fresh || seat.position < state.scrollback.start() {
            let again = !std::mem::take(&mut seat.fresh);
            seat.move_to(end, end);
            let bytes = state.scrollback.replay();
            drop(guard);
            self.session.moved.notify_one();
            return Next::Replay { bytes, again };
        }
        let waiting = usize::try_from(end - seat.position).unwrap_or(CHUNK).min(CHUNK);
        if waiting == 0 {
            return state.ended.clone().map_or(Next::Nothing, Next::Ended);
        }
        buffer.reserve(1 + waiting);
        buffer.put_u8(OUTPUT);
        let length = state.scrollback.read(seat.position, waiting, buffer).unwrap_or(0);
        let was_behind = end - seat.position >= WINDOW;
        seat.move_to(seat.position + length as u64, end);
        drop(guard);
        if was_behind {
            self.session.moved.notify_one();
        }
        Next::Output(buffer.split().freeze())
    }

    /// Waits until there may be something to send.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Writes what the viewer typed, as far as the terminal takes it now; `at` is the number of the first byte
    /// among all of the viewer's input. How many are done with.
    ///
    /// # Errors
    /// Nobody has the other end open any more.
    pub async fn type_some(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        let terminal = &self.session.terminal;
        loop {
            let mut ready = terminal.writable().await?;
            let done = ready.try_io(|terminal| {
                let write =
                    |bytes: &[u8]| nix::unistd::write(terminal.get_ref(), bytes).map_err(io::Error::from);
                match &self.client {
                    None => write(bytes),
                    Some(client) => self.session.typists.lock().pass(client, at, bytes, write),
                }
            });
            let Ok(done) = done else { continue };
            if let (Some(_), Ok(length)) = (&self.client, &done) {
                let taken = at + *length as u64;
                self.change(|seat| seat.taken_due = Some(taken));
                self.wake.notify_one();
            }
            return done;
        }
    }

    /// The viewer wants no output, or wants it again.
    pub fn pause(&self, paused: bool) {
        self.change(|seat| seat.paused = paused);
        self.wake.notify_one();
    }

    /// The viewer did something; its window counts from now on.
    pub fn act(&self, size: Option<WindowSize>) {
        let mut state = self.session.state.lock();
        state.counter += 1;
        let counter = state.counter;
        if let Some(seat) = state.seats.iter_mut().find(|seat| seat.id == self.id) {
            seat.active = counter;
            seat.size = size.or(seat.size);
        }
        self.session.fit(&mut state);
    }

    fn change(&self, change: impl FnOnce(&mut Seat)) {
        if let Some(seat) = self
            .session
            .state
            .lock()
            .seats
            .iter_mut()
            .find(|seat| seat.id == self.id)
        {
            change(seat);
        }
    }
}

impl Seat {
    fn move_to(&mut self, position: u64, end: u64) {
        self.position = position;
        if end - position < WINDOW {
            self.behind_since = None;
        }
    }
}

impl Drop for Chair {
    fn drop(&mut self) {
        let mut state = self.session.state.lock();
        state.seats.retain(|seat| seat.id != self.id);
        self.session.fit(&mut state);
        drop(state);
        self.session.moved.notify_one();
    }
}
