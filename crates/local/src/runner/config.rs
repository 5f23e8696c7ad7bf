//! Configuration of the runner, which `fsa serve` passes while it is still privileged.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The first of the machine's ids that sandboxes may have. Lower ones are the machine's own users,
/// the ranges that `useradd` assigns and those of systemd's `DynamicUser`.
const UID_BASE: u32 = 0x1000_0000;

/// Search path of programs. The runner does not trust its environment for it.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Storage backend of volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Storage {
    /// As [`Self::Btrfs`] with a file in a new data folder, if this machine can; else plain folders.
    Auto,
    /// Plain folders in the data folder.
    Copy,
    /// Subvolumes: of the data folder's file system where that is btrfs, else of a file in it.
    Btrfs,
    /// Subvolumes on a block device.
    Device(PathBuf),
}

/// The runner's settings; there is no secret among them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerConfig {
    pub data_dir: PathBuf,
    /// The OCI runtime: a name that is looked up in PATH, or a path. runc, crun, runsc or youki.
    pub runtime: PathBuf,
    /// The static binary that becomes process 1 of every sandbox.
    pub sandboxd: PathBuf,
    /// Networks that sandboxes may reach although they are private: `10.1.0.0/16`, `192.168.1.7`,
    /// or `host` for the machine itself.
    pub allowed_networks: Vec<String>,
    /// DNS resolvers of sandboxes; empty for the machine's own.
    pub resolvers: Vec<Ipv4Addr>,
    /// The first address for sandboxes; each gets one.
    pub address_base: Ipv4Addr,
    pub uid_base: u32,
    /// `None`: as recorded at the first start, else [`Storage::Copy`].
    pub storage: Option<Storage>,
    /// Size of the pool's file; `None` for half of the space that is free at its creation.
    pub storage_size_mib: Option<u64>,
    /// The folder of PostgreSQL's programs; `None` for the machine's packages.
    pub postgres_bin: Option<PathBuf>,
    /// The user of `fsa serve` after it has dropped its privileges.
    pub serve_uid: u32,
    pub serve_gid: u32,
}

impl RunnerConfig {
    /// The defaults for a data folder.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, sandboxd: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            runtime: "runc".into(),
            sandboxd: sandboxd.into(),
            allowed_networks: Vec::new(),
            resolvers: Vec::new(),
            // 100.64.0.0/10 is for networks of a provider (RFC 6598): neither public, nor one of
            // those that people use at home and in offices.
            address_base: Ipv4Addr::new(100, 64, 0, 0),
            uid_base: UID_BASE,
            storage: None,
            storage_size_mib: None,
            postgres_bin: None,
            serve_uid: rustix::process::getuid().as_raw(),
            serve_gid: rustix::process::getgid().as_raw(),
        }
    }

    /// The runner's folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.data_dir.join("runner")
    }
}

/// The file name of a program.
#[must_use]
pub fn file_name(program: &Path) -> &str {
    program.file_name().and_then(|name| name.to_str()).unwrap_or("")
}
