//! Fixtures of the tests of the storage pool.
#![allow(dead_code)]

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use fsa_local::{
    protocol::StorageBackend,
    runner::{
        RunnerConfig, Storage,
        layout::Layout,
        mounts,
        privilege_mode::PrivilegeMode,
        storage::{StoragePool, status},
    },
};
use fsa_model::{Failure, ProjectId, ProjectName, ResourceName, SandboxId, SandboxRef, VolumeId};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;
/// A pool in which a few files fit.
pub const SMALL_MIB: u64 = 512;

/// Data folder without a pool.
pub struct Data {
    pub folder: TempDir,
    pub config: RunnerConfig,
}

impl Data {
    pub fn new(storage: Option<Storage>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("fsa-storage-")
            .tempdir_in("/tmp")
            .unwrap();
        let config = RunnerConfig {
            storage,
            storage_size_mib: Some(SMALL_MIB),
            ..RunnerConfig::new(folder.path(), "/nowhere")
        };
        Self { folder, config }
    }

    pub fn layout(&self) -> Layout {
        Layout::open(self.folder.path(), &[]).unwrap()
    }

    pub fn open(&self) -> Result<StoragePool, Failure> {
        StoragePool::open(&self.config, &self.layout(), PrivilegeMode::Root)
    }

    pub fn pool_file(&self) -> PathBuf {
        self.folder.path().join("runner/pool.btrfs")
    }

    pub fn status(&self) -> fsa_local::protocol::StorageStatus {
        status::of_folder(self.layout().folder()).unwrap()
    }

    /// Loop devices that the pool's file is attached to.
    pub fn loop_devices(&self) -> usize {
        fs::read_dir("/sys/block")
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok())
            .filter(|file| Path::new(file.trim()) == self.pool_file())
            .count()
    }
}

/// Runs a part of a test in a mount namespace that ends with it.
pub fn in_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        mounts::private_namespace().expect("root");
        work()
    };
    thread::scope(|scope| {
        scope
            .spawn(inside)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The kernel frees space and detaches devices in the background.
#[allow(clippy::disallowed_methods, reason = "the kernel has no event for it")]
pub fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

pub fn sandbox() -> SandboxRef {
    let project = ProjectId::generate();
    SandboxRef {
        id: SandboxId::generate(),
        project,
        volume: VolumeId::of_main(project),
        resource: ResourceName::generate(&ProjectName::parse("stored").unwrap()),
    }
}

/// The home folder of a sandbox, as the runner sees it.
pub fn home(data: &Data, sandbox: &SandboxRef) -> PathBuf {
    let volume = sandbox.volume.to_string();
    match data.status().backend {
        StorageBackend::Copy => data.layout().volumes().join(volume),
        StorageBackend::Btrfs => data.layout().pool().join(volume).join("home"),
    }
}

pub fn write(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let block = [7; 64 * 1024];
    for _ in 0..bytes / 65_536 {
        file.write_all(&block)?;
    }
    file.sync_all()
}
