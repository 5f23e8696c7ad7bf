//! Opens what is below a folder and nothing else, wherever links lead.
//!
//! The kernel resolves the whole path and refuses to leave the folder (openat2(2), RESOLVE_BENEATH), so nobody
//! can put a link in between a look and the opening. A link that is absolute counts as one that leads out, even
//! where it comes back.

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

use super::say;
use crate::http::Refusal;

/// The kernel gives up while somebody else moves folders about, and asks to be asked again.
const ATTEMPTS: usize = 32;

/// Opens `path`, which is absolute, with the rights of the thread.
///
/// # Errors
/// It is not below `folder`, or what the file system says.
pub(super) fn open(folder: &Path, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let relative = path.strip_prefix(folder).map_err(|_| leads_out(path))?;
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
    for _ in 0..ATTEMPTS {
        opened = openat2(&root, relative, how);
        if !matches!(opened, Err(Errno::EAGAIN | Errno::EINTR)) {
            break;
        }
    }
    opened.map_err(|error| match error {
        Errno::EXDEV => leads_out(path),
        Errno::ENOSYS => say(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            "NoOpenat2",
            "what runs this sandbox has no openat2(2), without which files are not shown to a viewer",
        )),
        error => error.into(),
    })
}

fn leads_out(path: &Path) -> io::Error {
    say(Refusal::new(
        StatusCode::FORBIDDEN,
        "LeadsOut",
        format!("{} leads out of the project's folder", path.display()),
    ))
}

/// A path to what is open, for functions that take one. It is a path for as long as the handle is open.
pub(super) fn path_of(handle: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", handle.as_raw_fd()).into()
}
