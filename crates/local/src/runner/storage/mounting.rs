//! The file system of a pool on btrfs: made, mounted, enlarged, removed where it was made in vain.

use std::{
    fs::{self, File},
    io,
    path::Path,
    process::{Command, Stdio},
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
    process::geteuid,
};
use uuid::Uuid;

use super::{POOL_FILE, btrfs::PoolError, ioctl, loop_device, record::Record};
use crate::runner::{config::PATH, layout::Layout};

/// Removes what a pool's creation left that failed, so that the data folder is as it was.
///
/// # Errors
/// The file system's.
pub fn remove_unused(layout: &Layout) -> io::Result<()> {
    // It may have been mounted before a later step failed.
    let _ = rustix::mount::unmount(layout.pool(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    Record::remove(layout.folder())?;
    match fs::remove_file(layout.folder().join(POOL_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a file system, whose id is returned. mkfs.btrfs refuses a device that holds one already.
pub(super) fn format(path: &Path) -> Result<Uuid, PoolError> {
    let fsid = Uuid::new_v4();
    let output = Command::new("mkfs.btrfs")
        .args(["--quiet", "--label", "fsa", "--uuid", &fsid.to_string()])
        .arg(path)
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PoolError::NoProgram,
            _ => PoolError::Io(error),
        })?;
    if output.status.success() {
        return Ok(fsid);
    }
    Err(PoolError::Format {
        path: path.display().to_string(),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

pub(super) fn mount_file(path: &Path, target: &Path, size: Option<u64>) -> Result<(), PoolError> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PoolError::FileGone {
                path: path.display().to_string(),
            },
            _ => PoolError::Io(error),
        })?;
    let grows = size.filter(|&size| file.metadata().is_ok_and(|metadata| metadata.len() < size));
    if let Some(size) = grows {
        file.set_len(size)?;
    }
    // Open until the file system is mounted, so that the device stays attached.
    let attached = loop_device::attach(&file).map_err(PoolError::NoLoop)?;
    if grows.is_some() {
        ioctl::grow_loop(&attached.device)?;
    }
    mount(&attached.path, target)?;
    if grows.is_some() {
        ioctl::grow_file_system(File::open(target)?)?;
    }
    Ok(())
}

pub(super) fn mount(device: &Path, target: &Path) -> Result<(), PoolError> {
    debug_assert!(geteuid().is_root(), "a pool is mounted by root alone");
    let flags = MountFlags::NOATIME | MountFlags::NODEV;
    // Freed blocks are given back to the file system below. A commit every 5 s, as ext4's, bounds
    // what a power cut loses, and how long deleted files count.
    rustix::mount::mount(device, target, "btrfs", flags, c"discard=async,commit=5").map_err(|error| {
        match error {
            rustix::io::Errno::NODEV => PoolError::NoBtrfs,
            error => PoolError::Mount {
                path: device.display().to_string(),
                error: error.into(),
            },
        }
    })?;
    // A sandbox that starts meanwhile gets no copy of it.
    rustix::mount::mount_change(target, MountPropagationFlags::PRIVATE).map_err(io::Error::from)?;
    Ok(())
}
