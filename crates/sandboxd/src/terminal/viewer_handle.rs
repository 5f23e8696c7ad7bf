//! Viewer handle: connects one viewer to a terminal session: its next output, its input, its window size. The
//! session keeps a [`ViewerState`] for each viewer; the viewer's connection holds the [`ViewerHandle`].

use std::{io, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use fsa_model::tty::{OUTPUT, WindowSize};
use tokio::{sync::Notify, time::Instant};

use super::session::{CHUNK, Session, WINDOW};

/// The session's state of one viewer.
#[derive(Debug)]
pub(super) struct ViewerState {
    pub(super) id: u64,
    /// The viewer was sent the output before this byte.
    pub(super) position: u64,
    pub(super) paused: bool,
    pub(super) behind_since: Option<Instant>,
    /// The viewer needs a replay of the whole scrollback.
    pub(super) fresh: bool,
    pub(super) title_due: bool,
    /// Acknowledgment that was not sent yet: the viewer's input before this byte was written.
    pub(super) ack_due: Option<u64>,
    pub(super) size: Option<WindowSize>,
    pub(super) active: u64,
    pub(super) wake: Arc<Notify>,
}

/// What to send to a viewer next.
#[derive(Debug)]
pub(super) enum Next {
    /// A whole message of output.
    Output(Bytes),
    /// The whole scrollback, for a fresh terminal, or for one in an unknown state (`again`).
    Replay {
        bytes: Vec<u8>,
        again: bool,
    },
    Title(String),
    /// Acknowledgment: the terminal has the viewer's input before this byte.
    InputAck(u64),
    Nothing,
    /// The session has ended; a sentence for the person.
    Ended(String),
}

/// Registration of a viewer in a session. Dropped, the viewer is removed.
#[derive(Debug)]
pub(super) struct ViewerHandle {
    pub(super) session: Arc<Session>,
    pub(super) id: u64,
    pub(super) wake: Arc<Notify>,
    /// The viewer's name, if it numbers its input.
    pub(super) client: Option<String>,
}

impl ViewerHandle {
    /// What to send next. Wait with [`Self::woken`] when that is [`Next::Nothing`].
    pub fn next(&self, buffer: &mut BytesMut) -> Next {
        let mut guard = self.session.state.lock();
        let state = &mut *guard;
        let end = state.scrollback.end();
        let Some(viewer) = state.viewers.iter_mut().find(|viewer| viewer.id == self.id) else {
            return Next::Nothing;
        };
        // Before all output, and also while output is paused.
        if let Some(count) = viewer.ack_due.take() {
            return Next::InputAck(count);
        }
        if viewer.paused {
            return Next::Nothing;
        }
        if std::mem::take(&mut viewer.title_due) {
            return Next::Title(state.title.clone());
        }
        if viewer.fresh || viewer.position < state.scrollback.start() {
            let again = !std::mem::take(&mut viewer.fresh);
            viewer.move_to(end, end);
            let bytes = state.scrollback.replay();
            drop(guard);
            self.session.viewers_changed.notify_one();
            return Next::Replay { bytes, again };
        }
        let waiting = usize::try_from(end - viewer.position).unwrap_or(CHUNK).min(CHUNK);
        if waiting == 0 {
            return state.ended.clone().map_or(Next::Nothing, Next::Ended);
        }
        buffer.reserve(1 + waiting);
        buffer.put_u8(OUTPUT);
        let length = state
            .scrollback
            .read(viewer.position, waiting, buffer)
            .unwrap_or(0);
        let was_behind = end - viewer.position >= WINDOW;
        viewer.move_to(viewer.position + length as u64, end);
        drop(guard);
        if was_behind {
            self.session.viewers_changed.notify_one();
        }
        Next::Output(buffer.split().freeze())
    }

    /// Waits until there may be something to send.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Writes as much input as the terminal accepts now; `at` is the sequence number of the first byte in the
    /// viewer's input. Returns how many bytes are done.
    ///
    /// # Errors
    /// No process has the other end open any more.
    pub async fn write_input(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        let terminal = &self.session.terminal;
        loop {
            let mut ready = terminal.writable().await?;
            let done = ready.try_io(|terminal| {
                let write =
                    |bytes: &[u8]| nix::unistd::write(terminal.get_ref(), bytes).map_err(io::Error::from);
                match &self.client {
                    None => write(bytes),
                    Some(client) => self.session.input_dedup.lock().write(client, at, bytes, write),
                }
            });
            let Ok(done) = done else { continue };
            if let (Some(_), Ok(length)) = (&self.client, &done) {
                let written = at + *length as u64;
                self.update(|viewer| viewer.ack_due = Some(written));
                self.wake.notify_one();
            }
            return done;
        }
    }

    /// Pauses or resumes the viewer's output.
    pub fn pause(&self, paused: bool) {
        self.update(|viewer| viewer.paused = paused);
        self.wake.notify_one();
    }

    /// Makes this the active viewer: the terminal gets the size of its window.
    pub fn activate(&self, size: Option<WindowSize>) {
        let mut state = self.session.state.lock();
        state.counter += 1;
        let counter = state.counter;
        if let Some(viewer) = state.viewers.iter_mut().find(|viewer| viewer.id == self.id) {
            viewer.active = counter;
            viewer.size = size.or(viewer.size);
        }
        self.session.apply_active_size(&mut state);
    }

    fn update(&self, update: impl FnOnce(&mut ViewerState)) {
        if let Some(viewer) = self
            .session
            .state
            .lock()
            .viewers
            .iter_mut()
            .find(|viewer| viewer.id == self.id)
        {
            update(viewer);
        }
    }
}

impl ViewerState {
    fn move_to(&mut self, position: u64, end: u64) {
        self.position = position;
        if end - position < WINDOW {
            self.behind_since = None;
        }
    }
}

impl Drop for ViewerHandle {
    fn drop(&mut self) {
        let mut state = self.session.state.lock();
        state.viewers.retain(|viewer| viewer.id != self.id);
        self.session.apply_active_size(&mut state);
        drop(state);
        self.session.viewers_changed.notify_one();
    }
}
