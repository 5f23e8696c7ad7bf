//! Loop device of the pool's file.
//!
//! A file must never be attached twice: the kernel takes each device for another disk, and
//! two mounts of the same blocks would destroy the file system. So a device that has the file is
//! looked for first, and the caller holds a lock meanwhile.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::ioctl;

/// A free device may be attached by another program before it is by us.
const ATTEMPTS: u32 = 16;

/// A loop device. It stays attached as long as this is open or its file system is mounted.
pub struct LoopDevice {
    pub path: PathBuf,
    pub device: File,
}

/// The loop device of `file`; attached where there is none.
///
/// # Errors
/// The kernel's; `NotFound` without loop devices.
pub fn attach(file: &File) -> io::Result<LoopDevice> {
    if let Some(found) = find(file)? {
        return Ok(found);
    }
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    let mut attempt = 1;
    loop {
        let path = PathBuf::from(format!("/dev/loop{}", ioctl::free_loop_device(&control)?));
        let device = File::options().read(true).write(true).open(&path)?;
        match ioctl::attach_loop(&device, file) {
            Ok(()) => return Ok(LoopDevice { path, device }),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

fn find(file: &File) -> io::Result<Option<LoopDevice>> {
    let expected = file.metadata()?;
    for entry in fs::read_dir("/sys/block")?.flatten() {
        if !entry.path().join("loop").is_dir() {
            continue;
        }
        let path = Path::new("/dev").join(entry.file_name());
        let Ok(device) = File::options().read(true).write(true).open(&path) else {
            continue;
        };
        // An error: it was detached meanwhile.
        if ioctl::loop_status(&device).is_ok_and(|status| {
            (status.device, status.inode, status.offset) == (expected.dev(), expected.ino(), 0)
        }) {
            return Ok(Some(LoopDevice { path, device }));
        }
    }
    Ok(None)
}
