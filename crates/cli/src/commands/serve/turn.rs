//! Who else serves this data folder. A file lock tells: it goes with its process, however that
//! ends.

use std::{fs::File, os::fd::AsFd, path::Path};

use rustix::fs::{FlockOperation, flock};

use crate::failure::Failure;

/// Held as long as the server lives.
pub struct Turn {
    _file: File,
    /// Nobody else served this data folder when this server began.
    pub alone: bool,
}

/// Takes the lock: for a moment alone, where that can be had, and then together with others.
pub fn take(data_dir: &Path) -> Result<Turn, Failure> {
    let path = data_dir.join("run/serve.lock");
    let failed =
        |error: std::io::Error| Failure::failed(format!("{} cannot be locked: {error}", path.display()));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    let lock = |operation| flock(file.as_fd(), operation);
    let alone = lock(FlockOperation::NonBlockingLockExclusive).is_ok();
    lock(FlockOperation::LockShared).map_err(|error| failed(error.into()))?;
    Ok(Turn { _file: file, alone })
}
