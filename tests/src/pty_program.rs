//! Program on a pseudo-terminal, operated by keyboard and screen.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

use nix::pty::{Winsize, openpty};

use crate::terminal::find;

const TIMEOUT: Duration = Duration::from_secs(240);
/// Pieces of output that are buffered before they are read.
const PIECES: usize = 1024;

/// Keyboard and screen of a program.
pub struct PtyProgram {
    keys: File,
    screen: Receiver<Vec<u8>>,
    /// Output since the last match of [`Self::until`].
    shown: Vec<u8>,
    program: Child,
}

impl PtyProgram {
    /// Starts a program whose standard streams are the terminal.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let size = Winsize {
            ws_row: 30,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).expect("a terminal");
        let theirs = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let program = command
            .stdin(theirs())
            .stdout(theirs())
            .stderr(theirs())
            .spawn()
            .expect("the program starts");
        let keys = File::from(pty.master);
        let mut shown = keys.try_clone().expect("a descriptor");
        let (sender, screen) = sync_channel(PIECES);
        // The thread ends with the program, which closes the last descriptor of its side.
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = shown.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            keys,
            screen,
            shown: Vec::new(),
            program,
        }
    }

    pub fn type_in(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).expect("keys are taken");
    }

    /// Waits until `text` has been shown since the last call.
    pub fn until(&mut self, text: &str) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(at) = find(&self.shown, text.as_bytes()) {
                self.shown.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(more) => self.shown.extend(more),
                Err(why) => panic!("{text:?} was not shown ({why}): {}", self.text()),
            }
        }
    }

    /// Waits for the program's end. Returns its exit code and its last output.
    #[must_use]
    pub fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(more) => self.shown.extend(more),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the program does not end: {}", self.text()),
            }
        }
        let status = self.program.wait().expect("the program's end");
        (status.code(), self.text())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }
}

impl Drop for PtyProgram {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
