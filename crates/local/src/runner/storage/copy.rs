//! Backend `copy`: a volume is a plain folder on the data folder's file system, with root or
//! rootless. No quota; usage is measured by walking the files.

use std::{fs, io, path::PathBuf};

use fsa_model::{SandboxRef, VolumeId};

use super::{SandboxFiles, VolumeUsage, make_home};
use crate::runner::{
    deferred_delete::{self, DeferredDelete},
    layout::Layout,
};

/// Entries that are counted for the disk usage of a sandbox.
pub(super) const DISK_ENTRIES: u32 = 200_000;

pub struct CopyPool {
    pub(super) layout: Layout,
    pub(super) deferred_delete: DeferredDelete,
    /// Set where btrfs was tried first.
    pub(super) why_not_btrfs: Option<String>,
}

impl CopyPool {
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self {
            deferred_delete: DeferredDelete::new(layout.deferred_delete()),
            layout,
            why_not_btrfs: None,
        }
    }

    #[must_use]
    pub fn exists(&self, volume: VolumeId) -> bool {
        self.layout.volume(volume).is_dir()
    }

    /// # Errors
    /// The file system's.
    pub fn create(&self, volume: VolumeId) -> io::Result<()> {
        self.finish_restore(volume)?;
        make_home(&self.layout.volume(volume))
    }

    /// # Errors
    /// The file system's.
    pub fn delete(&self, volume: VolumeId) -> io::Result<()> {
        // The snapshots first: one of them may be about to become the volume.
        self.remove(&self.snapshots_of(volume))?;
        self.remove(&self.layout.volume(volume))?;
        self.remove(&self.database(volume))
    }

    /// # Errors
    /// The file system's.
    pub fn discard_database(&self, volume: VolumeId) -> io::Result<Option<PathBuf>> {
        self.deferred_delete.discard(&self.database(volume))
    }

    /// Every volume that has a folder for a database.
    ///
    /// # Errors
    /// The file system's.
    pub fn list_databases(&self) -> io::Result<Vec<VolumeId>> {
        Ok(fs::read_dir(self.layout.databases())?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect())
    }

    /// The folder of templates of databases.
    #[must_use]
    pub fn templates(&self) -> PathBuf {
        self.layout.folder().join("templates")
    }

    /// # Errors
    /// The file system's.
    pub fn list(&self) -> io::Result<Vec<VolumeId>> {
        Ok(fs::read_dir(self.layout.volumes())?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect())
    }

    #[must_use]
    pub fn usage(&self, sandbox: &SandboxRef) -> VolumeUsage {
        let disk = |path: PathBuf| deferred_delete::disk_bytes(&path, DISK_ENTRIES);
        VolumeUsage {
            bytes: disk(self.layout.sandbox(&sandbox.resource))
                + disk(self.layout.volume(sandbox.volume))
                + disk(self.database(sandbox.volume))
                + disk(self.snapshots_of(sandbox.volume)),
            limit_bytes: None,
        }
    }

    /// The folder of the volume's database; it need not exist.
    #[must_use]
    pub fn database(&self, volume: VolumeId) -> PathBuf {
        self.layout.databases().join(volume.to_string())
    }

    /// Both are below the runner's folder, which every start mounts at `all`.
    #[must_use]
    pub fn files(&self, sandbox: &SandboxRef) -> SandboxFiles {
        SandboxFiles {
            root: self.layout.sandbox(&sandbox.resource),
            volume: None,
            mounted_root: format!("all/sandboxes/{}", sandbox.resource),
            mounted_home: format!("all/volumes/{}", sandbox.volume),
        }
    }
}
