//! Storage pool of the local driver: one volume per branch of a project, on one of two backends.
//!
//! `copy`: plain folders on any file system, without quota. `btrfs`: subvolumes with a quota that
//! the kernel enforces. [`record`] has the choice between them.

pub mod btrfs;
pub mod copy;
mod copy_tree;
mod database_room;
pub mod diff;
mod exclusive;
pub mod export;
pub mod import;
mod ioctl;
mod loop_device;
mod mounting;
mod moving;
mod quota_group;
pub mod record;
mod same_tree;
pub mod snapshot_file;
pub mod snapshots;
mod snapshots_btrfs;
mod snapshots_copy;
pub mod status;
mod transactions;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use btrfs::{BtrfsPool, PoolError};
use copy::CopyPool;
use fsa_model::{Failure, FailureKind, SandboxRef, VolumeId, sandboxd::USER_ID};
use moving::PlainVolumes;
use record::{Facts, Plan, Record, Source};
use rustix::fs::{FlockOperation, flock};

use super::{RunnerConfig, layout::Layout, privilege_mode::PrivilegeMode};
use crate::protocol::machine;

/// The sparse file of a pool, in the runner's folder.
const POOL_FILE: &str = "pool.btrfs";
/// Below this nothing is started: btrfs needs room for metadata, even to delete files.
const FREE_MIN: u64 = 512 << 20;
/// The same for a small pool: a part of its size.
const FREE_MIN_PART: u64 = 20;
/// Free bytes of a disk on which a pool is made without being asked for: half of it is the pool's.
const AUTO_FREE_MIN: u64 = 8 << 30;

/// The volumes of all branches.
pub enum StoragePool {
    Copy(CopyPool),
    Btrfs(BtrfsPool),
}

/// Where a sandbox has its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxFiles {
    /// The folder of `upper` and `work` of its overlay.
    pub root: PathBuf,
    /// To be mounted with the sandbox's ids at `volume` in the folder of its mounts.
    pub volume: Option<PathBuf>,
    /// `root` and the home folder below the folder of the sandbox's mounts.
    pub mounted_root: String,
    pub mounted_home: String,
}

/// Disk use of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeUsage {
    pub bytes: u64,
    /// `None` where the kernel enforces none.
    pub limit_bytes: Option<u64>,
}

impl StoragePool {
    /// Opens the pool of a data folder; makes it at the first start.
    ///
    /// # Errors
    /// What is in the way, and what to do.
    pub fn open(
        config: &RunnerConfig,
        layout: &Layout,
        privilege_mode: PrivilegeMode,
    ) -> Result<Self, Failure> {
        let failed =
            |error: io::Error| machine(format!("the storage pool's record cannot be read ({error})"));
        // Several servers may start on one data folder at once.
        let lock = File::create(layout.folder().join("storage.lock")).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let mut plain = CopyPool::new(layout.clone());
        let volumes = PlainVolumes::find(layout).map_err(failed)?;
        let facts = Facts {
            rootless: privilege_mode == PrivilegeMode::Rootless,
            has_folders: !volumes.is_empty(),
            on_btrfs: btrfs::is_btrfs(layout.folder()),
        };
        let record = Record::read(layout.folder()).map_err(failed)?;
        let size = config.storage_size_mib.map(|mebibytes| mebibytes << 20);
        let plan = record::plan(record, config.storage.as_ref(), facts).map_err(machine)?;
        if plan != Plan::Copy && !volumes.is_empty() {
            moving::check_nothing_runs(layout).map_err(machine)?;
        }
        let (source, pool) = match plan {
            Plan::Copy => {
                plain.recover_snapshots();
                return Ok(Self::Copy(plain));
            }
            Plan::Create(source) => (source.clone(), BtrfsPool::create(layout, source, size)),
            Plan::TryCreate(source) => match try_create(layout, source.clone(), size) {
                Ok(pool) => (source, Ok(pool)),
                Err(error) => {
                    plain.why_not_btrfs = Some(error.to_string());
                    mounting::remove_unused(layout).map_err(failed)?;
                    return Ok(Self::Copy(plain));
                }
            },
            Plan::Open { source, fsid } => (source.clone(), BtrfsPool::open(layout, &source, fsid, size)),
        };
        let pool = pool.map_err(|error: PoolError| machine(error.to_string()))?;
        if !volumes.is_empty() {
            let moved = Self::move_volumes(layout, &plain, &pool, &source, &volumes);
            if let Err(failure) = moved {
                pool.close();
                return Err(failure);
            }
        }
        Ok(Self::Btrfs(pool))
    }

    fn move_volumes(
        layout: &Layout,
        plain: &CopyPool,
        pool: &BtrfsPool,
        source: &Source,
        volumes: &PlainVolumes,
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| {
            machine(format!(
                "the projects' files could not be moved to the storage pool ({error}); nothing is lost, and the next \
                 start goes on"
            ))
        };
        // On the data folder's own file system the copies share the blocks.
        if *source != Source::Folder {
            let free = status::of_folder(layout.folder()).map_err(failed)?.free_bytes;
            let below = match source {
                Source::File => Some(status::of_file_system(layout.folder()).map_err(failed)?.1),
                Source::Folder | Source::Device(_) => None,
            };
            moving::check_room(volumes, plain, free, below).map_err(machine)?;
        }
        plain.recover_snapshots();
        moving::move_all(plain, pool, volumes).map_err(failed)
    }

    /// Why a new data folder has plain folders, and not btrfs, which is the default.
    #[must_use]
    pub fn why_not_btrfs(&self) -> Option<String> {
        match self {
            Self::Copy(pool) => pool.why_not_btrfs.as_ref().map(|reason| {
                format!(
                    "projects' files are in plain folders, without disk limits and fast snapshots: {reason}"
                )
            }),
            Self::Btrfs(_) => None,
        }
    }

    /// Ends the use of the pool by this process.
    pub fn close(&self) {
        match self {
            Self::Copy(_) => {}
            Self::Btrfs(pool) => pool.close(),
        }
    }

    #[must_use]
    pub fn exists(&self, volume: VolumeId) -> bool {
        match self {
            Self::Copy(pool) => pool.exists(volume),
            Self::Btrfs(pool) => pool.exists(volume),
        }
    }

    /// Creates a volume with an empty home folder, or the part of it that is missing.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(&self, volume: VolumeId) -> io::Result<()> {
        match self {
            Self::Copy(pool) => pool.create(volume),
            Self::Btrfs(pool) => pool.create_volume(volume),
        }
    }

    /// Limits the bytes of a volume, where the kernel can; `starting` adds what the start of a
    /// sandbox in a full volume needs.
    ///
    /// # Errors
    /// The file system's.
    pub fn set_limit(&self, volume: VolumeId, bytes: u64, starting: bool) -> io::Result<()> {
        match self {
            Self::Copy(_) => Ok(()),
            Self::Btrfs(pool) => pool.limit(volume, bytes, starting),
        }
    }

    /// Deletes a volume with everything in it.
    ///
    /// # Errors
    /// The file system's.
    pub fn delete(&self, volume: VolumeId) -> io::Result<()> {
        match self {
            Self::Copy(pool) => pool.delete(volume),
            Self::Btrfs(pool) => pool.delete(volume),
        }
    }

    /// Disk use of a sandbox and its volume; 0 where there is none.
    #[must_use]
    pub fn usage(&self, sandbox: &SandboxRef) -> VolumeUsage {
        match self {
            Self::Copy(pool) => pool.usage(sandbox),
            Self::Btrfs(pool) => pool.usage(sandbox.volume).unwrap_or_default(),
        }
    }

    /// The folder of a volume's database, which the database's server creates: part of the volume, so it counts
    /// against its limit, is in its snapshots and is deleted with it.
    #[must_use]
    pub fn database(&self, volume: VolumeId) -> PathBuf {
        match self {
            Self::Copy(pool) => pool.database(volume),
            Self::Btrfs(pool) => pool.database(volume),
        }
    }

    /// Makes what the folder of a volume's database is in.
    ///
    /// # Errors
    /// The file system's.
    pub fn prepare_database(&self, volume: VolumeId) -> io::Result<()> {
        match self {
            Self::Copy(_) => Ok(()),
            Self::Btrfs(pool) => pool.create_volume(volume),
        }
    }

    /// Moves a volume's database aside; returns the argument of
    /// [`deferred_delete::delete`](super::deferred_delete::delete).
    ///
    /// # Errors
    /// The file system's.
    pub fn discard_database(&self, volume: VolumeId) -> io::Result<Option<PathBuf>> {
        match self {
            Self::Copy(pool) => pool.discard_database(volume),
            Self::Btrfs(pool) => pool.discard_database(volume),
        }
    }

    /// Every volume that has a folder for a database.
    ///
    /// # Errors
    /// The file system's.
    pub fn list_databases(&self) -> io::Result<Vec<VolumeId>> {
        match self {
            Self::Copy(pool) => pool.list_databases(),
            Self::Btrfs(pool) => pool.list_databases(),
        }
    }

    /// The folder of templates of databases, on the file system of the volumes.
    #[must_use]
    pub fn templates(&self) -> PathBuf {
        match self {
            Self::Copy(pool) => pool.templates(),
            Self::Btrfs(pool) => pool.templates(),
        }
    }

    #[must_use]
    pub fn files(&self, sandbox: &SandboxRef) -> SandboxFiles {
        match self {
            Self::Copy(pool) => pool.files(sandbox),
            Self::Btrfs(pool) => pool.files(sandbox),
        }
    }

    /// Moves aside what a sandbox has in its volume beside the home folder; returns the
    /// argument of [`deferred_delete::delete`](super::deferred_delete::delete).
    ///
    /// # Errors
    /// The file system's.
    pub fn discard_root(&self, sandbox: &SandboxRef) -> io::Result<Option<PathBuf>> {
        match self {
            // It is in the sandbox's folder.
            Self::Copy(_) => Ok(None),
            Self::Btrfs(pool) => pool.discard_root(sandbox),
        }
    }
}

/// Makes a pool that nobody asked for, where its disk has room for it.
fn try_create(layout: &Layout, source: Source, size: Option<u64>) -> Result<BtrfsPool, PoolError> {
    let free = status::of_file_system(layout.folder())?.1;
    if size.is_none() && free < AUTO_FREE_MIN {
        return Err(PoolError::LittleRoom(free / 1_000_000));
    }
    BtrfsPool::create(layout, source, size)
}

/// Refuses new work in a full pool, with the figures.
///
/// # Errors
/// The pool is full, or cannot be inspected.
pub fn check_room(layout: &Layout) -> Result<(), Failure> {
    let status = status::of_folder(layout.folder())
        .map_err(|error| machine(format!("the storage pool cannot be inspected ({error})")))?;
    if !status.full {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Machine,
        format!(
            "the storage pool is full: {} of {} MB are free, and {} MB are kept free. Delete projects or files, or \
             enlarge it (--storage-size-mib)",
            status.free_bytes / 1_000_000,
            status.size_bytes / 1_000_000,
            status::required(status.size_bytes) / 1_000_000
        ),
    ))
}

/// Makes a home folder, complete or not at all.
fn make_home(home: &Path) -> io::Result<()> {
    if home.is_dir() {
        return Ok(());
    }
    let new = home.with_extension("new");
    let make = || {
        match fs::create_dir(&new) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        chown(&new, Some(USER_ID), Some(USER_ID))?;
        fs::rename(&new, home)
    };
    match make() {
        // Another sandbox of the branch was started at the same time.
        Err(_) if home.is_dir() => Ok(()),
        result => result,
    }
}
