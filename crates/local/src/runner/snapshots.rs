//! Snapshot requests of the runner: freezes what uses a volume, and has the storage pool do the rest.

use std::{io, os::fd::OwnedFd, time::Instant};

use fsa_model::{
    Failure, FailureKind, SandboxRef, SnapshotId, VolumeId, percent,
    snapshot::{FileChanges, SnapshotContent},
};

use super::{
    Runner, database,
    keyed_mutex::KeyedMutexGuard,
    storage::{self, diff, snapshot_file},
};
use crate::protocol::machine;

impl Runner {
    /// Takes a snapshot of the sandbox's volume, and says what is in it. One that exists is kept.
    ///
    /// # Errors
    /// There is no volume; the pool is full; a process cannot be frozen.
    pub fn create_snapshot(
        &self,
        sandbox: &SandboxRef,
        snapshot: SnapshotId,
    ) -> Result<SnapshotContent, Failure> {
        let _lock = self.volume_locks.take(sandbox.volume);
        if !self.storage.exists(sandbox.volume) {
            return Err(Failure::new(
                FailureKind::Input,
                "there is nothing to take a snapshot of: the project was never started; start it first",
            ));
        }
        storage::check_room(&self.layout)?;
        let failed = |error: io::Error| failure("the snapshot could not be taken", &error);
        // Most of what is in memory is written while the processes run.
        self.storage.sync(sandbox.volume).map_err(failed)?;
        let begun = Instant::now();
        // A copy of what changes meanwhile could also be led astray: the paths are the sandbox's.
        let frozen = self
            .cgroups
            .freeze(&self.groups_of(sandbox.volume)?)
            .map_err(|error| match error.kind() {
                io::ErrorKind::Unsupported => Failure::new(
                    FailureKind::Input,
                    "the processes of a running project cannot be paused on this machine (it has no control \
                     groups, or fsa serve runs rootless): stop the project, take the snapshot, and start it again",
                ),
                _ => failed(error),
            })?;
        let taken = self.storage.create_snapshot(sandbox, snapshot);
        drop(frozen);
        taken.map_err(failed)?;
        tracing::info!(volume = %sandbox.volume, %snapshot, frozen = ?begun.elapsed(), "took a snapshot");
        Ok(self.storage.snapshot_content(sandbox.volume, snapshot))
    }

    /// # Errors
    /// The file system's.
    pub fn delete_snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<(), Failure> {
        let _lock = self.volume_locks.take(volume);
        self.storage
            .delete_snapshot(volume, snapshot)
            .map_err(|error| failure("the snapshot could not be deleted", &error))
    }

    /// Replaces the content of a volume with a snapshot of the volume `from`. The caller holds the sandbox's mutex.
    ///
    /// # Errors
    /// Something uses the volume; there is no such snapshot; the pool is full.
    pub fn restore_snapshot(
        &self,
        sandbox: &SandboxRef,
        from: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<(), Failure> {
        let _locks = self.lock_both(from, sandbox.volume);
        if !self.groups_of(sandbox.volume)?.is_empty() {
            return Err(Failure::new(
                FailureKind::Transient,
                "a sandbox or a database still uses the files that a restore would replace; it is retried",
            ));
        }
        storage::check_room(&self.layout)?;
        self.storage
            .restore_snapshot(sandbox, from, snapshot)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => no_such_snapshot(),
                _ => failure("the snapshot could not be restored", &error),
            })?;
        tracing::info!(volume = %sandbox.volume, %snapshot, "restored a snapshot");
        Ok(())
    }

    /// Makes the volume of a sandbox as a copy of a snapshot of another volume. One that exists is kept. The caller
    /// holds the sandbox's mutex.
    ///
    /// # Errors
    /// There is no such snapshot; the pool is full.
    pub fn clone_snapshot(
        &self,
        from: VolumeId,
        snapshot: SnapshotId,
        sandbox: &SandboxRef,
    ) -> Result<(), Failure> {
        let _locks = self.lock_both(from, sandbox.volume);
        storage::check_room(&self.layout)?;
        self.storage
            .clone_snapshot(from, snapshot, sandbox)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => no_such_snapshot(),
                _ => failure("the snapshot could not be copied", &error),
            })?;
        tracing::info!(%from, %snapshot, volume = %sandbox.volume, "made a volume from a snapshot");
        Ok(())
    }

    /// # Errors
    /// The file system's.
    pub fn snapshots(&self, volume: VolumeId) -> Result<Vec<SnapshotId>, Failure> {
        self.storage
            .snapshots(volume)
            .map_err(|error| failure("the snapshots could not be listed", &error))
    }

    /// Whether a volume has changed since a snapshot of it.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub fn changed_since(&self, sandbox: &SandboxRef, snapshot: SnapshotId) -> Result<bool, Failure> {
        self.storage
            .changed_since(sandbox, snapshot)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => no_such_snapshot(),
                _ => failure("the snapshot could not be compared", &error),
            })
    }

    /// Opens a file of a snapshot, or of the present files; and whether there is anything of that name.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub fn snapshot_file(
        &self,
        sandbox: &SandboxRef,
        snapshot: Option<SnapshotId>,
        path: &str,
    ) -> Result<(bool, Option<OwnedFd>), Failure> {
        let parts = self
            .storage
            .snapshot_parts(sandbox, snapshot)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => no_such_snapshot(),
                _ => failure("the snapshot could not be read", &error),
            })?;
        snapshot_file::open_file(&parts, &percent::decode(path))
            .map_err(|error| failure("a file could not be read", &error))
    }

    /// The differences between a snapshot and a later one, or the present files.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub fn diff_snapshot(
        &self,
        sandbox: &SandboxRef,
        from: SnapshotId,
        to: Option<SnapshotId>,
    ) -> Result<FileChanges, Failure> {
        let tree = |snapshot| {
            let found = self.storage.snapshot_parts(sandbox, snapshot);
            found.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => no_such_snapshot(),
                _ => failure("the snapshot could not be read", &error),
            })
        };
        let before = tree(Some(from))?;
        let after = tree(to)?;
        diff::compare(&before, &after).map_err(|error| failure("the snapshots could not be compared", &error))
    }

    /// Locks the volume of a snapshot and the one that is made from it, always in the same order: no two of these wait
    /// for each other.
    fn lock_both(&self, one: VolumeId, other: VolumeId) -> [Option<KeyedMutexGuard<VolumeId>>; 2] {
        let (first, second) = (one.min(other), one.max(other));
        [Some(first), (first != second).then_some(second)]
            .map(|volume| volume.map(|id| self.volume_locks.take(id)))
    }

    /// Control groups of the processes that use a volume: those of its running sandboxes, and of its
    /// database's server, where one runs.
    fn groups_of(&self, volume: VolumeId) -> Result<Vec<String>, Failure> {
        let server = self
            .databases
            .running(volume)
            .map(|_| database::container_name(volume));
        Ok(self
            .inventory()?
            .into_iter()
            .filter(|sandbox| sandbox.volume == volume)
            .filter(|sandbox| {
                self.sandboxes
                    .get(&sandbox.resource)
                    .is_some_and(|entry| entry.live.lock().running.is_some())
            })
            .map(|sandbox| sandbox.resource.to_string())
            .chain(server)
            .collect())
    }
}

fn no_such_snapshot() -> Failure {
    Failure::new(
        FailureKind::Input,
        "the snapshot is not in the storage pool: it was deleted, or never completed",
    )
}

fn failure(what: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => machine(format!(
            "{what}: the storage pool is full. Delete snapshots or files, or enlarge the pool"
        )),
        io::ErrorKind::TimedOut => Failure::new(FailureKind::Transient, format!("{what}: {error}")),
        _ => machine(format!("{what} ({error})")),
    }
}
