//! Confined open: opens a path below a folder, and refuses one that leads out through links.
//!
//! The kernel resolves the whole path and refuses to leave the folder (openat2(2), RESOLVE_BENEATH), so there is no
//! race between a check and the open. An absolute link counts as leading out, even if it leads back.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use http::StatusCode;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
};

use crate::http::ApiError;

/// The kernel returns EAGAIN while another process renames folders on the path.
const MAX_ATTEMPTS: usize = 32;

/// Opens `path`, which is absolute, with the thread's file system ids.
///
/// # Errors
/// The path leads out of `folder`, or the file system's error.
pub(super) fn open(folder: &Path, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let relative = path.strip_prefix(folder).map_err(|_| outside(path))?;
    let relative = match relative.as_os_str().is_empty() {
        true => Path::new("."),
        false => relative,
    };
    let root = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(folder, root, Mode::empty())?;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut opened = Err(Errno::EAGAIN);
    for _ in 0..MAX_ATTEMPTS {
        opened = openat2(&root, relative, how);
        if !matches!(opened, Err(Errno::EAGAIN | Errno::EINTR)) {
            break;
        }
    }
    opened.map_err(|error| match error {
        Errno::EXDEV => outside(path),
        Errno::ENOSYS => io::Error::other(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "NoOpenat2",
            "this sandbox's kernel or runtime has no openat2(2), which read-only file access needs",
        )),
        error => error.into(),
    })
}

fn outside(path: &Path) -> io::Error {
    io::Error::other(ApiError::new(
        StatusCode::FORBIDDEN,
        "LeadsOut",
        format!("{} leads out of the project's folder", path.display()),
    ))
}

/// Path of an open file, for functions that take a path. It is valid while the handle is open.
pub(super) fn path_of(handle: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", handle.as_raw_fd()).into()
}
