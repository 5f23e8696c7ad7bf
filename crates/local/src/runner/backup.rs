//! Backup requests of the runner: lists and opens a snapshot's files, and makes a volume from an archive.

use std::{fs::File, io, os::fd::OwnedFd, path::PathBuf};

use fsa_model::{
    Failure, FailureKind, SandboxRef,
    snapshot_files::{SnapshotFolder, SnapshotPath, VolumePart},
};
use rustix::fs::FileType;

use super::{
    Runner,
    storage::{self, export, import::ImportError},
    unpack::{Limits, unpack_volume},
};
use crate::protocol::machine;

impl Runner {
    /// A page of a folder of a snapshot: the entries after the name `after`.
    ///
    /// # Errors
    /// There is no such snapshot or folder.
    pub fn list_snapshot(&self, path: &SnapshotPath, after: &[u8]) -> Result<SnapshotFolder, Failure> {
        export::list(&self.part(path)?, &path.path.0, after).map_err(|error| unreadable(path, &error))
    }

    /// Opens a regular file of a snapshot for reading.
    ///
    /// # Errors
    /// There is no such file.
    pub fn open_snapshot_file(&self, path: &SnapshotPath) -> Result<OwnedFd, Failure> {
        export::open(&self.part(path)?, &path.path.0).map_err(|error| unreadable(path, &error))
    }

    fn part(&self, path: &SnapshotPath) -> Result<PathBuf, Failure> {
        let parts = self
            .storage
            .snapshot_parts(&path.sandbox, Some(path.snapshot))
            .map_err(|error| unreadable(path, &error))?;
        Ok(match path.part {
            VolumePart::Home => parts.home,
            VolumePart::Root => parts.upper,
        })
    }

    /// Makes the volume of a sandbox from the tar stream that a pipe has. One that exists is kept. The caller holds
    /// the sandbox's mutex.
    ///
    /// # Errors
    /// The archive has what no volume may have; the pool is full.
    pub fn import_volume(&self, sandbox: &SandboxRef, archive: OwnedFd) -> Result<(), Failure> {
        let _lock = self.volume_locks.take(sandbox.volume);
        let is_pipe = rustix::fs::fstat(&archive)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        if !is_pipe {
            return Err(Failure::new(
                FailureKind::Internal,
                "a volume was to be made from a descriptor of a wrong kind",
            ));
        }
        storage::check_room(&self.layout)?;
        let unpack = |root: &OwnedFd| {
            let whiteouts = format!("{}/", VolumePart::Root.folder());
            unpack_volume(
                File::from(archive),
                root,
                self.privilege_mode.rules(),
                Limits::default(),
                &whiteouts,
            )
        };
        let imported = self.storage.import(sandbox, |root| unpack(root).map(|_| ()));
        imported.map_err(|error| match error {
            ImportError::Archive(error) => {
                let kind = error.kind();
                Failure::new(kind, format!("the files of the backup could not be written: {error}"))
            }
            ImportError::Storage(error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => machine(
                    "the files of the backup could not be written: the storage pool is full. Delete projects or \
                     snapshots, or enlarge the pool",
                ),
                _ => machine(format!("the files of the backup could not be written ({error})")),
            },
        })?;
        tracing::info!(volume = %sandbox.volume, "made a volume from an archive");
        Ok(())
    }
}

fn unreadable(path: &SnapshotPath, error: &io::Error) -> Failure {
    let shown = String::from_utf8_lossy(&path.path.0);
    let part = path.part.folder();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            FailureKind::Input,
            format!("the snapshot {} has no {part}/{shown}", path.snapshot),
        ),
        io::ErrorKind::InvalidFilename => Failure::new(
            FailureKind::Input,
            format!("the folders of {part} are too deep to be read: a path has more than 4096 bytes"),
        ),
        _ => machine(format!("{part}/{shown} of the snapshot cannot be read ({error})")),
    }
}
