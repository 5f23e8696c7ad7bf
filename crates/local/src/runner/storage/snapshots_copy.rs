//! Snapshots of backend `copy`: copies in `snapshots/<volume>/` of the runner's folder. File systems
//! with reflinks (xfs, btrfs) share the blocks.
//!
//! A copy is made under a temporary name and renamed. A restore first copies the snapshot beside the
//! volume; from the rename of that copy to [`READY`] on, the next use of the volume completes the
//! restore, so a crash leaves no mixture.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use fsa_model::{SandboxRef, SnapshotId, VolumeId};

use super::{
    copy::{CopyPool, DISK_ENTRIES},
    copy_tree::copy_tree,
    import::publish,
    snapshots::adopt_root,
};
use crate::runner::deferred_delete;

/// A copy for a restore that is complete, and whose parts are moved to their places.
const READY: &str = "restore.ready";
/// A copy that is being made; removed when the pool is opened.
const NEW: &str = "new";
/// Suffix of the marker file of a part that the snapshot does not have.
const ABSENT: &str = "absent";

impl CopyPool {
    pub(super) fn snapshots_of(&self, volume: VolumeId) -> PathBuf {
        self.layout.snapshots().join(volume.to_string())
    }

    pub(super) fn create_snapshot(&self, sandbox: &SandboxRef, snapshot: SnapshotId) -> io::Result<()> {
        self.finish_restore(sandbox.volume)?;
        if !self.exists(sandbox.volume) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let folder = self.snapshots_of(sandbox.volume).join(snapshot.to_string());
        if folder.is_dir() {
            return Ok(());
        }
        let new = folder.with_extension(NEW);
        self.remove(&new)?;
        let root = Path::new("root").join(sandbox.resource.as_str());
        fs::create_dir_all(new.join(&root))?;
        for (from, to) in [
            (self.layout.volume(sandbox.volume), new.join("home")),
            (
                self.layout.sandbox(&sandbox.resource).join("upper"),
                new.join(root).join("upper"),
            ),
            (self.database(sandbox.volume), new.join("database")),
        ] {
            if from.is_dir() {
                copy_tree(&from, &to)?;
            }
        }
        settle(&new, &folder)
    }

    pub(super) fn delete_snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> io::Result<()> {
        self.remove(&self.snapshots_of(volume).join(snapshot.to_string()))
    }

    pub(super) fn restore_snapshot(
        &self,
        sandbox: &SandboxRef,
        from: VolumeId,
        snapshot: SnapshotId,
    ) -> io::Result<()> {
        self.finish_restore(sandbox.volume)?;
        self.replace(sandbox, from, snapshot)
    }

    pub(super) fn clone_snapshot(
        &self,
        from: VolumeId,
        snapshot: SnapshotId,
        sandbox: &SandboxRef,
    ) -> io::Result<()> {
        self.finish_restore(sandbox.volume)?;
        if self.exists(sandbox.volume) {
            return Ok(());
        }
        self.replace(sandbox, from, snapshot)
    }

    /// The empty folder in which a volume is made from an archive.
    pub(super) fn import_stage(&self, volume: VolumeId) -> io::Result<PathBuf> {
        let new = self.snapshots_of(volume).join(READY).with_extension(NEW);
        self.remove(&new)?;
        fs::create_dir_all(&new)?;
        Ok(new)
    }

    /// Makes the filled folder of [`Self::import_stage`] the volume.
    pub(super) fn finish_import(&self, volume: VolumeId) -> io::Result<()> {
        let ready = self.snapshots_of(volume).join(READY);
        publish(&ready.with_extension(NEW), &ready)?;
        self.finish_restore(volume)
    }

    /// Replaces the volume of a sandbox, or makes it, with the content of a snapshot of the volume `from`.
    fn replace(&self, sandbox: &SandboxRef, from: VolumeId, snapshot: SnapshotId) -> io::Result<()> {
        let from = self.snapshots_of(from).join(snapshot.to_string());
        if !from.is_dir() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let folder = self.snapshots_of(sandbox.volume);
        fs::create_dir_all(&folder)?;
        let new = folder.join(READY).with_extension(NEW);
        self.remove(&new)?;
        copy_tree(&from, &new)?;
        adopt_root(&new.join("root"), &sandbox.resource)?;
        fs::create_dir_all(new.join("root").join(sandbox.resource.as_str()))?;
        for part in [
            PathBuf::from("home"),
            Path::new("root").join(sandbox.resource.as_str()).join("upper"),
            PathBuf::from("database"),
        ] {
            if !new.join(&part).is_dir() {
                File::create(new.join(part).with_extension(ABSENT))?;
            }
        }
        settle(&new, &folder.join(READY))?;
        self.finish_restore(sandbox.volume)
    }

    /// Moves the parts of a copy for a restore to their places, where an earlier attempt has not.
    pub(super) fn finish_restore(&self, volume: VolumeId) -> io::Result<()> {
        let ready = self.snapshots_of(volume).join(READY);
        if !ready.is_dir() {
            return Ok(());
        }
        self.move_part(&ready.join("home"), &self.layout.volume(volume))?;
        self.move_part(&ready.join("database"), &self.database(volume))?;
        for sandbox in fs::read_dir(ready.join("root"))? {
            let sandbox = sandbox?;
            let target = self.layout.sandboxes().join(sandbox.file_name());
            fs::create_dir_all(&target)?;
            self.move_part(&sandbox.path().join("upper"), &target.join("upper"))?;
            // Overlayfs uses it together with the upper folder only.
            self.remove(&target.join("work"))?;
        }
        rustix::fs::syncfs(File::open(self.layout.folder())?)?;
        self.remove(&ready)
    }

    fn move_part(&self, from: &Path, to: &Path) -> io::Result<()> {
        let absent = from.with_extension(ABSENT);
        if from.is_dir() {
            self.remove(to)?;
            fs::rename(from, to)
        } else if absent.exists() {
            self.remove(to)?;
            fs::remove_file(absent)
        } else {
            Ok(())
        }
    }

    /// Completes or removes what interrupted operations left.
    pub(super) fn recover_snapshots(&self) {
        for volume in fs::read_dir(self.layout.snapshots())
            .into_iter()
            .flatten()
            .flatten()
        {
            let Some(id) = volume.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let result = self.finish_restore(id).and_then(|()| {
                for entry in fs::read_dir(volume.path())? {
                    let path = entry?.path();
                    if path.extension().is_some_and(|extension| extension == NEW) {
                        self.remove(&path)?;
                    }
                }
                Ok(())
            });
            if let Err(error) = result {
                tracing::warn!(volume = %id, %error, "an interrupted snapshot or restore could not be cleaned up");
            }
        }
    }

    pub(super) fn snapshot_bytes(&self, volume: VolumeId, snapshot: SnapshotId) -> Option<u64> {
        let folder = self.snapshots_of(volume).join(snapshot.to_string());
        folder
            .is_dir()
            .then(|| deferred_delete::disk_bytes(&folder, DISK_ENTRIES))
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        match self.deferred_delete.discard(path)? {
            Some(discarded) => deferred_delete::delete(&discarded),
            None => Ok(()),
        }
    }
}

/// Renames a complete copy, so that it is on disk under its name as a whole or not at all.
fn settle(new: &Path, folder: &Path) -> io::Result<()> {
    let file = File::open(new)?;
    rustix::fs::syncfs(&file)?;
    fs::rename(new, folder)?;
    Ok(rustix::fs::syncfs(&file)?)
}
