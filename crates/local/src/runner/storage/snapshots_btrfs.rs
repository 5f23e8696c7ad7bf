//! Snapshots of backend `btrfs`: read-only subvolumes in `snapshots/<volume>/` of the pool.
//!
//! A restore makes a writable snapshot of the snapshot, exchanges it with the living volume in one
//! rename, and deletes what was exchanged. A crash leaves either beside the volume, under a name that
//! is deleted when the pool is opened.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
};

use fsa_model::{SandboxRef, SnapshotId, VolumeId};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{
    btrfs::{BtrfsPool, trash_of},
    exclusive::exclusive_bytes,
    import::publish,
    ioctl,
    quota_group::{forget_quota_group, inherit_quota_group, join_quota_group},
    snapshots::adopt_root,
    transactions,
};

/// The subvolume that is about to become the volume, or that just was it.
const RESTORING: &str = "restore.new";

impl BtrfsPool {
    pub(super) fn snapshots_of(&self, volume: VolumeId) -> PathBuf {
        self.folder.join("snapshots").join(volume.to_string())
    }

    pub(super) fn sync(&self, volume: VolumeId) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(self.volume(volume))?)?)
    }

    pub(super) fn create_snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> io::Result<()> {
        let living = File::open(self.volume(volume))?;
        self.ensure_quota_group(&living)?;
        let folder = self.snapshots_of(volume);
        fs::create_dir_all(&folder)?;
        match ioctl::snapshot_subvolume(living, File::open(folder)?, &snapshot.to_string(), true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    pub(super) fn delete_snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> io::Result<()> {
        self.delete_beside(volume, &snapshot.to_string())
    }

    pub(super) fn restore_snapshot(
        &self,
        sandbox: &SandboxRef,
        from: VolumeId,
        snapshot: SnapshotId,
    ) -> io::Result<()> {
        self.replace(sandbox, from, snapshot)
    }

    pub(super) fn clone_snapshot(
        &self,
        from: VolumeId,
        snapshot: SnapshotId,
        sandbox: &SandboxRef,
    ) -> io::Result<()> {
        if self.exists(sandbox.volume) {
            return Ok(());
        }
        self.replace(sandbox, from, snapshot)
    }

    /// The empty subvolume in which a volume is made from an archive.
    pub(super) fn import_stage(&self, volume: VolumeId) -> io::Result<PathBuf> {
        let folder = self.snapshots_of(volume);
        fs::create_dir_all(&folder)?;
        self.delete_beside(volume, RESTORING)?;
        ioctl::create_subvolume(File::open(&folder)?, RESTORING)?;
        Ok(folder.join(RESTORING))
    }

    /// Makes the filled subvolume of [`Self::import_stage`] the volume.
    pub(super) fn finish_import(&self, volume: VolumeId) -> io::Result<()> {
        publish(&self.snapshots_of(volume).join(RESTORING), &self.volume(volume))
    }

    /// Replaces the volume of a sandbox, or makes it, with the content of a snapshot of the volume `from`.
    fn replace(&self, sandbox: &SandboxRef, from: VolumeId, snapshot: SnapshotId) -> io::Result<()> {
        let volume = sandbox.volume;
        let source = File::open(self.snapshots_of(from).join(snapshot.to_string()))?;
        let folder = self.snapshots_of(volume);
        fs::create_dir_all(&folder)?;
        self.delete_beside(volume, RESTORING)?;
        ioctl::snapshot_subvolume(source, File::open(&folder)?, RESTORING, false)?;
        let (restored, living) = (folder.join(RESTORING), self.volume(volume));
        adopt_root(&restored.join("root"), &sandbox.resource)?;
        // A snapshot that was moved from plain folders has none.
        fs::create_dir_all(restored.join("trash"))?;
        trash_of(&restored).empty()?;
        let exists = living.exists();
        if exists && let Some(bytes) = self.quota(&File::open(&living)?)?.1 {
            ioctl::limit_group(File::open(&restored)?, 0, bytes)?;
        }
        if from == volume {
            join_quota_group(&File::open(&restored)?)?;
        } else {
            // The group that the snapshot names is that of the other volume.
            forget_quota_group(&File::open(&restored)?)?;
            if exists {
                inherit_quota_group(&File::open(&living)?, &File::open(&restored)?)?;
            }
        }
        rustix::fs::syncfs(File::open(&restored)?)?;
        let flags = if exists {
            RenameFlags::EXCHANGE
        } else {
            RenameFlags::NOREPLACE
        };
        renameat_with(CWD, &restored, CWD, &living, flags)?;
        // What was exchanged must not come back after a power cut, when the volume has new files.
        rustix::fs::syncfs(File::open(&self.folder)?)?;
        self.delete_beside(volume, RESTORING)
    }

    /// Whether the volume's last transaction is later than the one that made the snapshot. Taking a snapshot is a
    /// transaction of its own, after everything that the snapshot has and before everything that it has not.
    pub(super) fn changed_since(&self, volume: VolumeId, snapshot: SnapshotId) -> io::Result<bool> {
        let taken =
            transactions::of_subvolume(File::open(self.snapshots_of(volume).join(snapshot.to_string()))?)?;
        let living = File::open(self.volume(volume))?;
        // What is still in memory has no transaction yet.
        rustix::fs::syncfs(&living)?;
        Ok(transactions::of_subvolume(living)?.last > taken.created)
    }

    /// Deletes all snapshots of a volume.
    pub(super) fn delete_snapshots(&self, volume: VolumeId) -> io::Result<()> {
        let folder = self.snapshots_of(volume);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let parent = File::open(&folder)?;
        for entry in entries {
            if let Some(name) = entry?.file_name().to_str() {
                ioctl::delete_subvolume(&parent, name)?;
            }
        }
        fs::remove_dir(folder)
    }

    /// Deletes what restores left that were interrupted.
    pub(super) fn remove_interrupted_restores(&self) {
        let volumes = fs::read_dir(self.folder.join("snapshots")).into_iter().flatten();
        for volume in volumes.flatten() {
            let Some(volume) = volume.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if let Err(error) = self.delete_beside(volume, RESTORING) {
                tracing::warn!(%volume, %error, "the rest of an interrupted restore could not be deleted");
            }
        }
    }

    pub(super) fn snapshot_bytes(&self, volume: VolumeId, snapshot: SnapshotId) -> io::Result<Option<u64>> {
        exclusive_bytes(&self.snapshots_of(volume).join(snapshot.to_string()))
    }

    /// Deletes a subvolume beside the volume's snapshots, and waits until that is on disk.
    fn delete_beside(&self, volume: VolumeId, name: &str) -> io::Result<()> {
        let folder = match File::open(self.snapshots_of(volume)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            folder => folder?,
        };
        match ioctl::delete_subvolume(&folder, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Ok(rustix::fs::syncfs(&folder)?),
        }
    }
}
