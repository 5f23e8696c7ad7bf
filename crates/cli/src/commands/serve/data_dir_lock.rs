//! Lock of a data folder: whether another server uses it. The kernel releases a file lock (flock) when its process ends.

use std::{fs::File, os::fd::AsFd, path::Path};

use rustix::fs::{FlockOperation, flock};

use crate::failure::Failure;

/// A shared lock, held as long as the server lives.
pub struct DataDirLock {
    _file: File,
    /// No other server used this data folder when the lock was acquired.
    pub alone: bool,
}

impl DataDirLock {
    /// Acquires the lock: tries an exclusive lock first, and then holds a shared one.
    pub fn acquire(data_dir: &Path) -> Result<Self, Failure> {
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
        Ok(Self { _file: file, alone })
    }
}
