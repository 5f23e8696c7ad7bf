//! Path resolution of layer entries: normalization, and opening folders so that nothing leads out
//! of the layer (openat2(2)).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};

/// Folders below folders: removing a tree holds a descriptor for each level.
const DEPTH_MAX: usize = 256;
/// Linux's NAME_MAX.
pub(super) const NAME_MAX: usize = 255;

/// Normalizes a path: no empty and `.` parts; the root is empty. An absolute path is relative to the
/// layer's root, as in all OCI layers.
pub(super) fn normal(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut normal = Vec::with_capacity(path.len());
    let mut depth = 0;
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err("leads out of its folder (..)"),
            _ if part.len() > NAME_MAX => return Err("has a name of more than 255 bytes"),
            _ if part.contains(&0) => return Err("has a zero byte in its name"),
            _ => {}
        }
        depth += 1;
        if depth > DEPTH_MAX {
            return Err("is below more than 256 folders");
        }
        if !normal.is_empty() {
            normal.push(b'/');
        }
        normal.extend_from_slice(part);
    }
    Ok(normal)
}

/// Folder and name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Opens a folder below `root`, to create entries in it.
pub(super) fn open_below(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let open = |resolve| {
        rustix::io::retry_on_intr(|| {
            openat2(
                root,
                path,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            )
        })
    };
    let always = ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    match open(always | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
        Err(Errno::LOOP) => {
            let fd = open(always | ResolveFlags::IN_ROOT)?;
            // Through links, folders could be nested deeper than any name is long.
            let depth = |fd: BorrowedFd<'_>| -> Result<usize, Errno> {
                let path = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
                Ok(path.as_bytes().iter().filter(|byte| **byte == b'/').count())
            };
            if depth(fd.as_fd())? > depth(root)? + DEPTH_MAX {
                Err(Errno::LOOP)
            } else {
                Ok(fd)
            }
        }
        other => other,
    }
}

/// Opens a folder itself, to set its metadata.
pub(super) fn open_folder(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
