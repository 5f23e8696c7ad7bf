//! One file of a state of a volume, opened by its path in the sandbox. Its content may be a sandbox's that runs: no link
//! is followed, and nothing but a regular file is opened.

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
};

use fsa_model::sandboxd::{FileKind, HOME};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::diff::{Parts, is_whiteout, kind, open};

/// Opens a regular file of a state by its absolute path in the sandbox; and whether there is anything of that name. No
/// link is followed.
///
/// # Errors
/// The file system's.
pub fn open_file(parts: &Parts, path: &[u8]) -> io::Result<(bool, Option<OwnedFd>)> {
    let path = Path::new(OsStr::from_bytes(path));
    let (folder, relative) = match path.strip_prefix(HOME) {
        Ok(relative) => (&parts.home, relative),
        Err(_) => (&parts.upper, path.strip_prefix("/").unwrap_or(path)),
    };
    let top = match open(CWD, folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((false, None)),
        folder => folder?,
    };
    // A pipe without a writer does not block, and a device is not used.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let named = rustix::fs::openat2(
        &top,
        relative,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    );
    let named = match named {
        Ok(named) => named,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok((false, None)),
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::XDEV) => return Ok((true, None)),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&named)?;
    if is_whiteout(&stat) {
        return Ok((false, None));
    }
    if kind(&stat) != FileKind::File {
        return Ok((true, None));
    }
    let file = rustix::fs::openat2(&top, relative, flags, Mode::empty(), resolve)?;
    // It may have been replaced in between.
    let is_same = rustix::fs::fstat(&file).is_ok_and(|found| kind(&found) == FileKind::File);
    Ok((true, is_same.then_some(file)))
}
