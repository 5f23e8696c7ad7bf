//! Snapshots of volumes: the same operations on both backends.
//!
//! A snapshot has the parts of its volume: `home`, `root/<resource>/upper` (what its sandbox changed
//! in the root file system) and `database`. It belongs to its volume and is deleted with it. It exists
//! as a whole or not at all, also after a crash; what an interrupted operation left is removed or
//! completed when the pool is opened.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fsa_model::{
    ResourceName, SandboxRef, SnapshotId, VolumeId,
    snapshot::{SnapshotContent, SnapshotDatabase},
};

use super::{
    StoragePool,
    diff::{self, Parts},
};
use crate::runner::deferred_delete;

/// Entries that are counted for the size of a database.
const DATABASE_ENTRIES: u32 = 200_000;

impl StoragePool {
    /// Writes what is in memory to the disk, so that a snapshot right after it takes less time.
    ///
    /// # Errors
    /// The file system's.
    pub fn sync(&self, volume: VolumeId) -> io::Result<()> {
        match self {
            Self::Copy(_) => Ok(()),
            Self::Btrfs(pool) => pool.sync(volume),
        }
    }

    /// Takes a snapshot of the volume of a sandbox, whose processes are frozen. One that exists is kept.
    ///
    /// # Errors
    /// `NotFound` where there is no volume; the file system's.
    pub fn create_snapshot(&self, sandbox: &SandboxRef, snapshot: SnapshotId) -> io::Result<()> {
        match self {
            Self::Copy(pool) => pool.create_snapshot(sandbox, snapshot),
            Self::Btrfs(pool) => pool.create_snapshot(sandbox.volume, snapshot),
        }
    }

    /// # Errors
    /// The file system's.
    pub fn delete_snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> io::Result<()> {
        match self {
            Self::Copy(pool) => pool.delete_snapshot(volume, snapshot),
            Self::Btrfs(pool) => pool.delete_snapshot(volume, snapshot),
        }
    }

    /// Replaces the content of a volume that nothing uses with a snapshot of the volume `from`.
    ///
    /// # Errors
    /// `NotFound` where there is no such snapshot; the file system's. After an error the volume has
    /// the old content, or gets the new one with the next operation on it.
    pub fn restore_snapshot(
        &self,
        sandbox: &SandboxRef,
        from: VolumeId,
        snapshot: SnapshotId,
    ) -> io::Result<()> {
        match self {
            Self::Copy(pool) => pool.restore_snapshot(sandbox, from, snapshot),
            Self::Btrfs(pool) => pool.restore_snapshot(sandbox, from, snapshot),
        }
    }

    /// Makes the volume of a sandbox from a snapshot of the volume `from`. One that exists is kept.
    ///
    /// # Errors
    /// `NotFound` where there is no such snapshot; the file system's.
    pub fn clone_snapshot(
        &self,
        from: VolumeId,
        snapshot: SnapshotId,
        sandbox: &SandboxRef,
    ) -> io::Result<()> {
        match self {
            Self::Copy(pool) => pool.clone_snapshot(from, snapshot, sandbox),
            Self::Btrfs(pool) => pool.clone_snapshot(from, snapshot, sandbox),
        }
    }

    /// # Errors
    /// The file system's.
    pub fn snapshots(&self, volume: VolumeId) -> io::Result<Vec<SnapshotId>> {
        let folder = match self {
            Self::Copy(pool) => pool.snapshots_of(volume),
            Self::Btrfs(pool) => pool.snapshots_of(volume),
        };
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found: Vec<_> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The folder of a snapshot's parts.
    #[must_use]
    pub fn snapshot_folder(&self, volume: VolumeId, snapshot: SnapshotId) -> PathBuf {
        match self {
            Self::Copy(pool) => pool.snapshots_of(volume),
            Self::Btrfs(pool) => pool.snapshots_of(volume),
        }
        .join(snapshot.to_string())
    }

    /// Bytes on disk that only this snapshot has. `None` where they cannot be counted, or there is no
    /// such snapshot.
    #[must_use]
    pub fn snapshot_bytes(&self, volume: VolumeId, snapshot: SnapshotId) -> Option<u64> {
        match self {
            Self::Copy(pool) => pool.snapshot_bytes(volume, snapshot),
            Self::Btrfs(pool) => pool
                .snapshot_bytes(volume, snapshot)
                .inspect_err(
                    |error| tracing::debug!(%volume, %snapshot, %error, "a snapshot was not measured"),
                )
                .ok()
                .flatten(),
        }
    }

    /// The folders of a snapshot, or of the volume as it is now, for a comparison.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn snapshot_parts(&self, sandbox: &SandboxRef, snapshot: Option<SnapshotId>) -> io::Result<Parts> {
        let keeps_change_time = matches!(self, Self::Btrfs(_));
        let Some(snapshot) = snapshot else {
            return Ok(Parts {
                home: self.home(sandbox.volume),
                upper: self.files(sandbox).root.join("upper"),
                keeps_change_time,
            });
        };
        let folder = self.snapshot_folder(sandbox.volume, snapshot);
        if !folder.is_dir() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let root = fs::read_dir(folder.join("root"))
            .into_iter()
            .flatten()
            .flatten()
            .next();
        Ok(Parts {
            home: folder.join("home"),
            upper: root.map_or(folder.join("root/absent"), |root| root.path().join("upper")),
            keeps_change_time,
        })
    }

    /// Whether a volume has changed since a snapshot of it, by what the file system records: on btrfs the number of the
    /// last change, of plain folders the times and sizes of files.
    ///
    /// # Errors
    /// `NotFound`; the file system's.
    pub fn changed_since(&self, sandbox: &SandboxRef, snapshot: SnapshotId) -> io::Result<bool> {
        match self {
            Self::Copy(_) => {
                let before = self.snapshot_parts(sandbox, Some(snapshot))?;
                let after = self.snapshot_parts(sandbox, None)?;
                let folder = self.snapshot_folder(sandbox.volume, snapshot);
                diff::differ(
                    &before,
                    &after,
                    &folder.join("database"),
                    &self.database(sandbox.volume),
                )
            }
            Self::Btrfs(pool) => pool.changed_since(sandbox.volume, snapshot),
        }
    }

    fn home(&self, volume: VolumeId) -> PathBuf {
        match self {
            Self::Copy(pool) => pool.layout.volume(volume),
            Self::Btrfs(pool) => pool.volume(volume).join("home"),
        }
    }

    /// What is in a snapshot that was just taken. On btrfs its bytes are counted later: each of its extents has to be
    /// looked up.
    #[must_use]
    pub fn snapshot_content(&self, volume: VolumeId, snapshot: SnapshotId) -> SnapshotContent {
        SnapshotContent {
            bytes: match self {
                Self::Copy(pool) => pool.snapshot_bytes(volume, snapshot),
                Self::Btrfs(_) => None,
            },
            database: database(&self.snapshot_folder(volume, snapshot).join("database")),
        }
    }
}

/// The database in a folder; its data may be one folder deeper.
fn database(folder: &Path) -> Option<SnapshotDatabase> {
    let deeper = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && !path.is_symlink());
    let version = std::iter::once(folder.to_owned())
        .chain(deeper)
        .find_map(|data| version(&data.join("PG_VERSION")))?;
    Some(SnapshotDatabase {
        version,
        bytes: deferred_delete::disk_bytes(folder, DATABASE_ENTRIES),
    })
}

/// The file belongs to the database's superuser, a program of the project: it may be a link, or long.
fn version(file: &Path) -> Option<String> {
    let metadata = fs::symlink_metadata(file).ok()?;
    if !metadata.is_file() || metadata.len() > 16 {
        return None;
    }
    let version = fs::read_to_string(file).ok()?.trim().to_owned();
    (!version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
        .then_some(version)
}

/// Names the only folder below `root` after the sandbox that is to use it; removes any others. A
/// snapshot may be of an earlier sandbox of the volume.
pub(super) fn adopt_root(root: &Path, resource: &ResourceName) -> io::Result<()> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let own = root.join(resource.as_str());
    let mut others: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| *path != own)
        .collect();
    others.sort();
    if !own.exists()
        && let Some(first) = (!others.is_empty()).then(|| others.remove(0))
    {
        fs::rename(first, own)?;
    }
    others.iter().try_for_each(|other| deferred_delete::delete(other))
}

#[cfg(test)]
mod tests {
    use fsa_model::ProjectName;

    use super::*;

    #[test]
    fn the_changes_of_an_earlier_sandbox_become_those_of_the_present_one() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let name = ProjectName::parse("todo").unwrap();
        let (earlier, present) = (ResourceName::generate(&name), ResourceName::generate(&name));
        fs::create_dir_all(root.join(earlier.as_str()).join("upper/etc")).unwrap();

        adopt_root(&root, &present).unwrap();
        adopt_root(&root, &present).unwrap();

        assert!(root.join(present.as_str()).join("upper/etc").is_dir());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
        adopt_root(&folder.path().join("absent"), &present).unwrap();
    }

    #[test]
    fn the_version_of_a_database_is_read_and_a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(database(folder.path()), None);
        fs::create_dir(folder.path().join("data")).unwrap();
        let file = folder.path().join("data/PG_VERSION");
        std::os::unix::fs::symlink("/etc/hostname", &file).unwrap();
        assert_eq!(database(folder.path()), None);
        fs::remove_file(&file).unwrap();
        fs::write(&file, "17\n").unwrap();
        let found = database(folder.path()).unwrap();
        assert_eq!(found.version, "17");
        assert!(found.bytes > 0);
    }
}
