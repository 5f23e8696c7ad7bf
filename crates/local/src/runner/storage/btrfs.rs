//! Backend `btrfs`: a volume is a subvolume with a quota that the kernel enforces. Needs root.
//!
//! A volume holds `home`, `database`, `root/<resource>` (upper and work folder of each sandbox's overlay, which
//! must be on one subvolume) and `trash`, from which trees are deleted in the background: a rename
//! never leaves its subvolume.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use fsa_model::{SandboxRef, VolumeId};
use rustix::mount::UnmountFlags;
use uuid::Uuid;

use super::{
    POOL_FILE, SandboxFiles, VolumeUsage, database_room, ioctl, make_home,
    mounting::{format, mount, mount_file},
    quota_group::group_of,
    record::{Record, Source},
    status,
};
use crate::runner::{deferred_delete::DeferredDelete, layout::Layout};

/// `BTRFS_SUPER_MAGIC` (statfs(2)).
const MAGIC: i64 = 0x9123_683E;
/// Smallest file of a pool: mkfs.btrfs refuses less than 109 MiB, and nothing would fit.
const FILE_MIN: u64 = 256 << 20;
const MIB: u64 = 1 << 20;
/// Bytes over its use that a volume may grow while a sandbox is started. Mounting an overlay
/// creates a folder, and a volume at its limit must still start, to be cleaned up.
const START_ROOM: u64 = 16 << 20;

/// Why a pool cannot be used, for people.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("mkfs.btrfs is missing: install btrfs-progs (Debian: apt-get install btrfs-progs)")]
    NoProgram,
    #[error("{path} could not be formatted: {message}")]
    Format { path: String, message: String },
    #[error("{path} is missing: the pool's file was removed; put it back, or restore a backup")]
    FileGone { path: String },
    #[error("{path} is missing: connect the pool's disk")]
    DeviceGone { path: String },
    #[error(
        "no loop device can be used ({0}): in a container, pass /dev/loop-control and /dev/loop*; or give \
         --storage a block device"
    )]
    NoLoop(io::Error),
    #[error("this kernel has no btrfs: install its module, or set storage to copy")]
    NoBtrfs,
    #[error("{path} could not be mounted ({error}): the kernel's log (dmesg) has the reason")]
    Mount { path: String, error: io::Error },
    #[error("{path} has the file system {found}, and the pool of this data folder is {expected}")]
    Other {
        path: String,
        found: Uuid,
        expected: Uuid,
    },
    #[error("quotas cannot be enabled on the storage pool ({0})")]
    Quota(io::Error),
    #[error("{0} MiB are too few for a storage pool: give --storage-size-mib at least {minimum}", minimum = FILE_MIN / MIB)]
    TooSmall(u64),
    #[error("its disk has {0} MB free, too few for a pool on btrfs that is made by default")]
    LittleRoom(u64),
    #[error("the storage pool cannot be opened ({0})")]
    Io(#[from] io::Error),
}

pub struct BtrfsPool {
    /// The folder of the subvolumes.
    pub(super) folder: PathBuf,
    pub(super) fsid: Uuid,
    /// `folder` is a mount of ours.
    mounted: bool,
}

impl BtrfsPool {
    /// Makes a new pool and records it. `size` is of its file, in bytes.
    ///
    /// # Errors
    /// What is in the way; a device that holds anything is not formatted.
    pub fn create(layout: &Layout, source: Source, size: Option<u64>) -> Result<Self, PoolError> {
        let fsid = match &source {
            Source::Folder => ioctl::file_system_id(File::open(layout.folder())?)?,
            Source::File => {
                let size = match size {
                    Some(size) => size,
                    None => (status::of_file_system(layout.folder())?.1 / 2).max(FILE_MIN) / MIB * MIB,
                };
                if size < FILE_MIN {
                    return Err(PoolError::TooSmall(size / MIB));
                }
                // There is no record, so a file that is here was never used.
                let path = layout.folder().join(POOL_FILE);
                File::create(&path)?.set_len(size)?;
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
                format(&path)?
            }
            Source::Device(device) => format(device)?,
        };
        Record::Btrfs {
            source: source.clone(),
            fsid,
        }
        .write(layout.folder())?;
        Self::open(layout, &source, fsid, size)
    }

    /// Opens a recorded pool: attaches and mounts it where needed. A pool that was not unmounted
    /// is recovered by the kernel. A file smaller than `size` grows.
    ///
    /// # Errors
    /// What is in the way.
    pub fn open(layout: &Layout, source: &Source, fsid: Uuid, size: Option<u64>) -> Result<Self, PoolError> {
        let pool = Self {
            folder: layout.pool(),
            fsid,
            mounted: *source != Source::Folder,
        };
        match fs::create_dir(&pool.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        match source {
            Source::Folder => {}
            Source::File => mount_file(&layout.folder().join(POOL_FILE), &pool.folder, size)?,
            Source::Device(device) => {
                if !device.exists() {
                    return Err(PoolError::DeviceGone {
                        path: device.display().to_string(),
                    });
                }
                mount(device, &pool.folder)?;
            }
        }
        let path = || pool.folder.display().to_string();
        let folder = File::open(&pool.folder)?;
        let found = ioctl::file_system_id(&folder)?;
        if found != fsid {
            return Err(PoolError::Other {
                path: path(),
                found,
                expected: fsid,
            });
        }
        ioctl::enable_quota(&folder).map_err(PoolError::Quota)?;
        for volume in pool.list()? {
            if let Err(error) = pool.trash(volume).empty() {
                tracing::warn!(%volume, %error, "deferred deletions of an earlier runner failed");
            }
        }
        pool.remove_interrupted_restores();
        Ok(pool)
    }

    /// Unmounts the pool in this namespace. Its file is detached when the last sandbox has ended.
    pub fn close(&self) {
        if self.mounted
            && let Err(error) =
                rustix::mount::unmount(&self.folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        {
            tracing::warn!(%error, "the storage pool could not be unmounted");
        }
    }

    #[must_use]
    pub fn exists(&self, volume: VolumeId) -> bool {
        self.home(volume).is_dir()
    }

    /// # Errors
    /// The file system's.
    pub fn create_volume(&self, volume: VolumeId) -> io::Result<()> {
        let folder = self.volume(volume);
        match ioctl::create_subvolume(File::open(&self.folder)?, &volume.to_string()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for name in ["root", "trash"] {
            fs::create_dir_all(folder.join(name))?;
        }
        make_home(&folder.join("home"))
    }

    /// Limits a volume to `bytes`, or for a moment to a little more than it has.
    ///
    /// # Errors
    /// The file system's.
    pub fn limit(&self, volume: VolumeId, bytes: u64, starting: bool) -> io::Result<()> {
        let folder = File::open(self.volume(volume))?;
        let (used, limit) = self.quota(&folder)?;
        let room = match starting {
            true => used.saturating_add(START_ROOM),
            false => 0,
        };
        self.set_quota(&folder, database_room::kept(used, limit, bytes).max(room))
    }

    pub(super) fn set_quota(&self, volume: &File, bytes: u64) -> io::Result<()> {
        if let Some(group) = group_of(volume)? {
            ioctl::limit_group(volume, group, bytes)?;
        }
        ioctl::limit_group(volume, 0, bytes)
    }

    /// Deletes a volume, and waits until that is on disk: after a power cut it would be back, and
    /// no project would know it.
    ///
    /// # Errors
    /// The file system's.
    pub fn delete(&self, volume: VolumeId) -> io::Result<()> {
        self.delete_snapshots(volume)?;
        let folder = File::open(&self.folder)?;
        match ioctl::delete_subvolume(&folder, &volume.to_string()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Ok(rustix::fs::syncfs(&folder)?),
        }
    }

    /// # Errors
    /// The file system's.
    pub fn list(&self) -> io::Result<Vec<VolumeId>> {
        Ok(fs::read_dir(&self.folder)?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect())
    }

    /// As the kernel counts. Deleted files count until the next commit.
    ///
    /// # Errors
    /// There is no volume.
    pub fn usage(&self, volume: VolumeId) -> io::Result<VolumeUsage> {
        let (bytes, limit_bytes) = self.quota(&File::open(self.volume(volume))?)?;
        Ok(VolumeUsage { bytes, limit_bytes })
    }

    pub(super) fn quota(&self, volume: &File) -> io::Result<(u64, Option<u64>)> {
        let group = match group_of(volume)? {
            Some(group) => group,
            None => ioctl::subvolume_id(volume)?,
        };
        status::quota(self.fsid, group)
            .ok_or_else(|| io::Error::other(format!("the kernel has no quota group {group:#x}")))
    }

    /// The folder of the volume's database; it need not exist.
    #[must_use]
    pub fn database(&self, volume: VolumeId) -> PathBuf {
        self.volume(volume).join("database")
    }

    /// The volume alone is mounted for its sandboxes, at `volume`.
    #[must_use]
    pub fn files(&self, sandbox: &SandboxRef) -> SandboxFiles {
        SandboxFiles {
            root: self.root(sandbox),
            volume: Some(self.volume(sandbox.volume)),
            mounted_root: format!("volume/root/{}", sandbox.resource),
            mounted_home: "volume/home".into(),
        }
    }

    /// Moves the root file system's changes of a sandbox aside.
    ///
    /// # Errors
    /// The file system's.
    pub fn discard_root(&self, sandbox: &SandboxRef) -> io::Result<Option<PathBuf>> {
        self.trash(sandbox.volume).discard(&self.root(sandbox))
    }

    /// Moves a volume's database aside.
    ///
    /// # Errors
    /// The file system's.
    pub fn discard_database(&self, volume: VolumeId) -> io::Result<Option<PathBuf>> {
        match self.trash(volume).discard(&self.database(volume)) {
            // The volume has no folder for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result,
        }
    }

    /// Every volume that has a folder for a database.
    ///
    /// # Errors
    /// The file system's.
    pub fn list_databases(&self) -> io::Result<Vec<VolumeId>> {
        let mut volumes = self.list()?;
        volumes.retain(|volume| self.database(*volume).is_dir());
        Ok(volumes)
    }

    /// The folder of templates of databases: in the pool, so that copies share their blocks.
    #[must_use]
    pub fn templates(&self) -> PathBuf {
        self.folder.join("templates")
    }

    pub(super) fn volume(&self, volume: VolumeId) -> PathBuf {
        self.folder.join(volume.to_string())
    }

    fn home(&self, volume: VolumeId) -> PathBuf {
        self.volume(volume).join("home")
    }

    fn root(&self, sandbox: &SandboxRef) -> PathBuf {
        self.volume(sandbox.volume)
            .join("root")
            .join(sandbox.resource.as_str())
    }

    fn trash(&self, volume: VolumeId) -> DeferredDelete {
        trash_of(&self.volume(volume))
    }
}

pub(super) fn trash_of(subvolume: &Path) -> DeferredDelete {
    DeferredDelete::new(subvolume.join("trash"))
}

/// Whether a folder is on btrfs.
#[must_use]
pub fn is_btrfs(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|stat| stat.f_type == MAGIC)
}
