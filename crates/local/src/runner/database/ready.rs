//! Readiness of a server that starts: the status that PostgreSQL writes into `postmaster.pid`.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{CWD, Mode, OFlags, inotify};

/// A line of a process id, a path, numbers: PostgreSQL writes less.
const LENGTH_MAX: u64 = 8192;
/// The line of the status (PostgreSQL's miscadmin.h, `LOCK_FILE_LINE_PM_STATUS`), from 0.
const STATUS_LINE: usize = 7;

/// Result of the wait for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    Ended,
    /// It still starts, for example recovers from a crash.
    Starting,
}

/// Notifies of changes in a data folder. Made before the server starts, so that none is missed.
pub struct DataWatch(OwnedFd);

impl DataWatch {
    /// # Errors
    /// The kernel's.
    pub fn new(data: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let events = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, data, events | inotify::WatchFlags::ONLYDIR)?;
        Ok(Self(fd))
    }

    /// Waits until the server with this pidfd accepts connections or has ended, `timeout` at most.
    #[must_use]
    pub fn ready(&self, data: &Path, pidfd: &OwnedFd, timeout: Duration) -> Readiness {
        let deadline = Instant::now() + timeout;
        loop {
            if is_ready(data) {
                return Readiness::Ready;
            }
            if crate::runner::pidfd::ended(pidfd) {
                return Readiness::Ended;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Readiness::Starting;
            }
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let mut events = [
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            ];
            let _ = poll(&mut events, timeout);
            let mut buffer = [0_u8; 4096];
            while rustix::io::read(&self.0, &mut buffer[..]).is_ok_and(|read| read > 0) {}
        }
    }
}

/// Whether the server that runs in `data` accepts connections. The file is the project's: no link
/// is followed.
#[must_use]
pub fn is_ready(data: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(CWD, data.join("postmaster.pid"), flags, Mode::empty()) else {
        return false;
    };
    let mut text = Vec::new();
    let read = File::from(file).take(LENGTH_MAX).read_to_end(&mut text);
    read.is_ok() && says_ready(&String::from_utf8_lossy(&text))
}

fn says_ready(text: &str) -> bool {
    text.lines()
        .nth(STATUS_LINE)
        .is_some_and(|status| matches!(status.trim(), "ready" | "standby"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_says_so_is_ready() {
        let text =
            |status: &str| format!("1\n/database\n1700000000\n5432\n/run/p\n\n  5432001 3\n{status}\n");
        assert!(says_ready(&text("ready   ")));
        assert!(!says_ready(&text("starting")));
        assert!(!says_ready(&text("stopping")));
        assert!(!says_ready("1\n/database\n"));
    }

    #[test]
    fn a_link_in_the_place_of_the_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, "1\n2\n3\n4\n5\n6\n7\nready\n").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("postmaster.pid")).unwrap();
        assert!(!is_ready(folder.path()));
    }
}
