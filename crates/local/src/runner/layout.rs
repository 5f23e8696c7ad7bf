//! Paths of the runner, and the names under which the kernel knows its data folder.
//!
//! All paths are derived here, from validated names and the data folder.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use fsa_model::{ResourceName, VolumeId};
use sha2::{Digest as _, Sha256};

use super::mounts;
use crate::images::DiffId;

/// Folders that every machine has and every user may enter. The first one that the runner does
/// not need is covered by a file system in memory, visible to the runner only.
const SCRATCH: [&str; 5] = ["/mnt", "/media", "/srv", "/opt", "/home"];

/// The folder of the database servers' sockets, in the data folder.
pub const SOCKETS: &str = "sockets";

/// The runner's folder, by part.
#[derive(Clone, Debug)]
pub struct Layout {
    runner: PathBuf,
    sockets: PathBuf,
    scratch: PathBuf,
    /// Distinguishes this data folder from others on the same machine.
    identity: u32,
}

impl Layout {
    /// Creates the folder if it is missing. `data_dir` must exist; `needed` are paths that must
    /// stay visible.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(data_dir: &Path, needed: &[&Path]) -> io::Result<Self> {
        let data_dir = fs::canonicalize(data_dir)?;
        let mounted = fs::read_to_string("/proc/thread-self/mountinfo")?;
        let scratch = SCRATCH
            .iter()
            .map(Path::new)
            .find(|path| {
                let in_use =
                    data_dir.starts_with(path) || needed.iter().any(|needed| needed.starts_with(path));
                path.is_dir() && !in_use && mounts::below(&mounted, path).is_empty()
            })
            .ok_or_else(|| {
                io::Error::other(format!(
                    "no folder of {SCRATCH:?} is free for the runner's own mounts"
                ))
            })?;
        let layout = Self {
            runner: data_dir.join("runner"),
            sockets: data_dir.join(SOCKETS),
            scratch: scratch.to_owned(),
            identity: identity(&data_dir)?,
        };
        for folder in [
            layout.runner.clone(),
            layout.sandboxes(),
            layout.volumes(),
            layout.databases(),
            layout.snapshots(),
            layout.runner.join("layers"),
            layout.base_rootfs(),
            layout.runtime_root(),
            layout.deferred_delete(),
            layout.servers(),
            layout.sockets.clone(),
        ] {
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        check_owner(&data_dir, 0o022)?;
        check_owner(&layout.runner, 0o077)?;
        check_owner(&layout.sockets, 0o067)?;
        Ok(layout)
    }

    /// The sources of all sandboxes' mounts but those of a pool on btrfs; one file system.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.runner
    }

    #[must_use]
    pub fn sandboxes(&self) -> PathBuf {
        self.runner.join("sandboxes")
    }

    #[must_use]
    pub fn sandbox(&self, resource: &ResourceName) -> PathBuf {
        self.sandboxes().join(resource.as_str())
    }

    #[must_use]
    pub fn state(&self, resource: &ResourceName) -> PathBuf {
        self.sandbox(resource).join("state.json")
    }

    #[must_use]
    pub fn bundle(&self, resource: &ResourceName) -> PathBuf {
        self.sandbox(resource).join("bundle")
    }

    #[must_use]
    pub fn volume(&self, volume: VolumeId) -> PathBuf {
        self.volumes().join(volume.to_string())
    }

    /// The volumes of backend `copy`.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.runner.join("volumes")
    }

    /// The database folders of backend `copy`, by volume.
    #[must_use]
    pub fn databases(&self) -> PathBuf {
        self.runner.join("databases")
    }

    /// The snapshots of backend `copy`, by volume.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.runner.join("snapshots")
    }

    /// Running database servers: state and bundle of each.
    #[must_use]
    pub fn servers(&self) -> PathBuf {
        self.runner.join("servers")
    }

    #[must_use]
    pub fn server(&self, volume: VolumeId) -> PathBuf {
        self.servers().join(volume.to_string())
    }

    #[must_use]
    pub fn server_state(&self, volume: VolumeId) -> PathBuf {
        self.server(volume).join("state.json")
    }

    /// The folder of the database servers' sockets, which only `fsa serve` and its group may enter.
    #[must_use]
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// The folder of one server's socket.
    #[must_use]
    pub fn server_sockets(&self, volume: VolumeId) -> PathBuf {
        self.sockets.join(volume.to_string())
    }

    /// The volumes of backend `btrfs`; a mount point, in the runner's mount namespace only.
    #[must_use]
    pub fn pool(&self) -> PathBuf {
        self.runner.join("pool")
    }

    #[must_use]
    pub fn base_rootfs(&self) -> PathBuf {
        self.runner.join("skeletons")
    }

    /// Process ids of pasta by sandbox, in rootless mode.
    #[must_use]
    pub fn networks(&self) -> PathBuf {
        self.runner.join("networks")
    }

    /// The OCI runtime's own state (`--root`).
    #[must_use]
    pub fn runtime_root(&self) -> PathBuf {
        self.runner.join("oci")
    }

    /// Trees to be deleted; emptied when the runner starts.
    #[must_use]
    pub fn deferred_delete(&self) -> PathBuf {
        self.runner.join("trash")
    }

    /// Mount points, in memory and in the runner's mount namespace only. Not in the data folder,
    /// because a container's root must be able to enter, whatever the permissions of the folders
    /// above the data folder.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The path of a layer below [`Self::folder`].
    #[must_use]
    pub fn layer_below(layer: &DiffId) -> PathBuf {
        Path::new("layers").join(layer.hex())
    }

    /// The nftables table.
    #[must_use]
    pub fn table(&self) -> String {
        format!("fsa_{:08x}", self.identity)
    }

    /// The control group that holds those of the sandboxes, from the hierarchy's root.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("fsa-{:08x}", self.identity)
    }

    /// The group of our near interfaces. 0 is the group of every interface that is in none.
    #[must_use]
    pub fn group(&self) -> u32 {
        self.identity
    }
}

/// Checks the owner and mode of a folder: a user who may rename it could replace what is in it.
/// `forbidden` are the permission bits that others must not have.
fn check_owner(folder: &Path, forbidden: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(folder)?;
    if metadata.is_dir()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & forbidden == 0
    {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{} must be a folder that belongs to user {} and that no other user can write to",
            folder.display(),
            rustix::process::geteuid().as_raw()
        ),
    ))
}

/// The folder's path, device and inode: the same as long as the machine runs, and another for a
/// copy of the folder.
fn identity(data_dir: &Path) -> io::Result<u32> {
    let metadata = fs::metadata(data_dir)?;
    let mut hash = Sha256::new();
    hash.update(data_dir.as_os_str().as_bytes());
    hash.update(metadata.dev().to_be_bytes());
    hash.update(metadata.ino().to_be_bytes());
    let hash = hash.finalize();
    // The highest bit stays clear: interface groups are signed in some tools.
    Ok((u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) & 0x7fff_ffff).max(1))
}
