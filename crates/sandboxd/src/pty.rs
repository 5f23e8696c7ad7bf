//! Pseudo-terminal: opens both ends, sets its owner and its size.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use fsa_model::tty::WindowSize;
use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, unlockpt},
    sys::{
        stat::{Mode, fchmod},
        termios::{InputFlags, SetArg, tcgetattr, tcsetattr},
    },
    unistd::{Uid, fchown},
};

use tokio::io::unix::AsyncFd;

use crate::user::User;

/// Both ends: ours, which is non-blocking, and the program's.
#[derive(Debug)]
pub struct Pty {
    pub ours: OwnedFd,
    pub theirs: OwnedFd,
}

/// Opens a pseudo-terminal of that size for `user`.
///
/// # Errors
/// The sandbox has no `/dev/ptmx`, or no pseudo-terminal is left.
pub fn open(user: &User, size: WindowSize) -> io::Result<Pty> {
    let ours = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs = peer(&ours)?;
    // Programs such as `script` and `tmux` open /dev/pts/N again. The terminal also works where
    // this is not permitted.
    let _ = fchown(&theirs, Some(Uid::from_raw(user.uid)), None);
    let _ = fchmod(&theirs, Mode::from_bits_truncate(0o620));
    let mut settings = tcgetattr(&theirs)?;
    // Makes the kernel's line editor erase characters, not bytes.
    settings.input_flags |= InputFlags::IUTF8;
    tcsetattr(&theirs, SetArg::TCSANOW, &settings)?;
    let ours = OwnedFd::from(ours);
    resize(&ours, size)?;
    Ok(Pty { ours, theirs })
}

/// Opens the other end, whatever is mounted at `/dev/pts`.
#[allow(unsafe_code)]
fn peer(ours: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: the request takes flags and returns a new descriptor, which nothing else owns.
    unsafe {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let peer = libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags);
        if peer < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(peer))
        }
    }
}

/// Sets the size; when it changes, the kernel sends SIGWINCH to the program in the foreground.
///
/// # Errors
/// It is not a terminal any more.
#[allow(unsafe_code)]
pub fn resize(terminal: &impl AsFd, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request reads one winsize, which lives until the call is over.
    let done = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Registers our end with the runtime.
///
/// # Errors
/// The runtime can watch no more descriptors.
#[allow(unsafe_code)]
pub fn register(ours: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open, and stays the same, until it is dropped.
    unsafe { AsyncFd::register(ours) }.map_err(Into::into)
}
