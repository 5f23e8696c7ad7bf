//! Privileged runner (`fsa runner`): mounts, networks, firewall and OCI runtime of the local driver.
//!
//! Its only input is [`crate::protocol`] on one socket. [`supervisor`] keeps it alive; [`serve`]
//! reads requests; the other modules carry them out. It ends when `fsa serve` does; the sandboxes
//! continue without it.

pub mod backup;
pub mod base_rootfs;
pub mod bundle;
pub mod cgroup;
pub mod config;
pub mod container_spec;
pub mod database;
pub mod deferred_delete;
pub mod firewall;
pub mod freezer;
pub mod host_probe;
pub mod keyed_mutex;
pub mod layout;
pub mod link_layer;
pub mod mounts;
pub mod netlink;
pub mod netns;
pub mod network;
pub mod oci;
pub mod pasta;
pub mod pidfd;
pub mod privilege_mode;
pub mod process_watch;
pub mod resolvers;
pub mod rootless;
pub mod sandboxes;
pub mod serve;
pub mod snapshots;
pub mod start;
pub mod state;
pub mod storage;
pub mod supervisor;
pub mod unpack;
pub mod userns;

use std::{
    collections::BTreeSet,
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

pub use config::{RunnerConfig, Storage};
use fsa_model::{Failure, VolumeId};
use parking_lot::Mutex;
use privilege_mode::PrivilegeMode;
pub use supervisor::{entry, main, spawn};

use crate::protocol::{Hello, Message, Push, machine as failure};

/// Bytes of stack of a thread that serves one request. No code here recurses deeply.
pub(crate) const STACK: usize = 512 * 1024;

/// Interval of notifications that the runner is still being opened.
const BUSY_INTERVAL: Duration = Duration::from_secs(5);

/// Does work that may take long (recovery of a file system, a move of all volumes), and notifies `fsa serve`, which
/// waits for its first answer, that it goes on.
fn while_reporting<T>(socket: &OwnedFd, work: impl FnOnce() -> T) -> T {
    let (done, ended) = mpsc::sync_channel::<()>(0);
    thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(BUSY_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let _ = crate::protocol::send(socket, &Message::Push(Push::Busy), &[]);
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// The state of the runner.
pub struct Runner {
    pub config: RunnerConfig,
    pub privilege_mode: PrivilegeMode,
    pub layout: layout::Layout,
    pub networks: network::Networks,
    pub runtime: oci::Runtime,
    pub cgroups: cgroup::Cgroups,
    pub base_rootfs: base_rootfs::BaseRootfs,
    pub sandboxes: sandboxes::Sandboxes,
    pub databases: database::DatabaseServers,
    pub installations: database::installation::Installations,
    pub layers: unpack::Layers,
    pub deferred_delete: deferred_delete::DeferredDelete,
    pub storage: storage::StoragePool,
    /// Held while a volume's snapshots change, or it is replaced or deleted.
    pub volume_locks: keyed_mutex::KeyedMutex<VolumeId>,
    pub process_watch: process_watch::ProcessWatch,
    pub hello: Hello,
    /// The highest number of open files that a sandbox may be given.
    pub open_files: u64,
    /// The parts of /sys that sandboxes see.
    pub sys: Vec<PathBuf>,
    /// Where containers get sandboxd from.
    pub sandboxd: PathBuf,
    firewall: Mutex<Firewall>,
    socket: OwnedFd,
}

/// Input of the firewall that is loaded.
#[derive(Default)]
struct Firewall {
    loaded: Option<firewall::Policy>,
}

impl Runner {
    /// Probes the machine, loads the firewall and adopts running sandboxes. Problems that prevent every
    /// start are reported in [`Hello::blockers`].
    ///
    /// # Errors
    /// The data folder cannot be used at all.
    pub fn open(
        config: RunnerConfig,
        privilege_mode: PrivilegeMode,
        socket: OwnedFd,
    ) -> Result<Arc<Self>, Failure> {
        let failed = |what: &str, error: std::io::Error| failure(format!("{what} ({error})"));
        let layout =
            layout::Layout::open(&config.data_dir, &[&config.sandboxd, &config.runtime]).map_err(|e| {
                failed(
                    &format!("the data folder {} cannot be used", config.data_dir.display()),
                    e,
                )
            })?;
        mounts::scratch(layout.scratch()).map_err(|e| failed("the runner cannot mount", e))?;
        // A missing file is reported in `Hello`.
        let sandboxd = layout.scratch().join("sandboxd");
        if let Err(error) = mounts::bind_file(&config.sandboxd, &sandboxd) {
            tracing::error!(path = %config.sandboxd.display(), %error, "sandboxd is missing");
        }
        let deferred_delete = deferred_delete::DeferredDelete::new(layout.deferred_delete());
        if let Err(error) = deferred_delete.empty() {
            tracing::warn!(%error, "deferred deletions of an earlier runner failed");
        }
        let storage = while_reporting(&socket, || {
            storage::StoragePool::open(&config, &layout, privilege_mode)
        })?;
        let cgroups = privilege_mode.cgroups(&layout);
        cgroups.thaw_all();
        let runtime = oci::Runtime::new(config.runtime.clone(), layout.runtime_root(), !cgroups.any());
        let used: BTreeSet<String> = fs::read_dir(layout.sandboxes())
            .map_err(|e| failed("the folder of sandboxes cannot be read", e))?
            .flatten()
            .filter_map(|entry| state::State::read(&entry.path().join("state.json")))
            .filter(|state| state.run.is_some())
            .map(|state| state.base_rootfs)
            .chain(database::state::base_rootfs_in_use(&layout))
            .collect();
        database::share_sockets(&layout, &config, privilege_mode)
            .map_err(|e| failed("the folder of the databases' sockets cannot be used", e))?;
        let base_rootfs = base_rootfs::BaseRootfs::make(&layout.base_rootfs(), &used)
            .map_err(|e| failed("the files that every sandbox needs could not be created", e))?;
        let layers = unpack::Layers::open(
            &config.data_dir,
            privilege_mode.rules(),
            unpack::Limits::default(),
        )
        .map_err(|e| failure(e.to_string()))?;
        let (networks, no_egress) = network::Networks::open(privilege_mode, &layout, &config);
        let mut hello = host_probe::probe(privilege_mode, &config, &layout, &runtime, &cgroups);
        hello.warnings.extend(no_egress);
        hello.warnings.extend(storage.why_not_btrfs());
        let runner = Arc::new(Self {
            privilege_mode,
            networks,
            runtime,
            cgroups,
            base_rootfs,
            sandboxes: sandboxes::Sandboxes::default(),
            databases: database::DatabaseServers::default(),
            installations: database::installation::Installations::default(),
            layers,
            deferred_delete,
            storage,
            volume_locks: keyed_mutex::KeyedMutex::default(),
            process_watch: process_watch::ProcessWatch::new()
                .map_err(|e| failed("the runner cannot watch processes", e))?,
            hello,
            open_files: host_probe::open_files(),
            sys: bundle::sys(),
            sandboxd,
            firewall: Mutex::default(),
            socket,
            layout,
            config,
        });
        if let Err(error) = runner.ensure_firewall() {
            tracing::error!(%error, "the firewall could not be loaded");
        }
        runner.adopt_running()?;
        runner.adopt_databases()?;
        Ok(runner)
    }

    /// Loads the firewall, unless the same rules are loaded already. The machine's resolvers may
    /// have changed (a laptop in another network).
    ///
    /// # Errors
    /// As [`firewall::load`]; without it no sandbox is started.
    pub fn ensure_firewall(&self) -> Result<(), Failure> {
        if self.privilege_mode == PrivilegeMode::Rootless {
            // Each sandbox has its own firewall, loaded with its network.
            return Ok(());
        }
        let policy = firewall::Policy {
            table: self.layout.table(),
            group: self.layout.group(),
            allowed: self.config.allowed_networks.clone(),
            resolvers: resolvers::find(&self.config.resolvers).addresses,
        };
        let mut firewall = self.firewall.lock();
        if firewall.loaded.as_ref() != Some(&policy) {
            firewall::check_allowed(&policy.allowed).map_err(failure)?;
            firewall::load(&policy)?;
            firewall.loaded = Some(policy);
        }
        Ok(())
    }

    /// Sends `fsa serve` a notification.
    pub fn push(&self, push: &Push) {
        // A failure means that `fsa serve` has ended, and the runner is about to.
        let _ = crate::protocol::send(&self.socket, &Message::Push(push.clone()), &[]);
    }

    /// Leftovers of this data folder's sandboxes on the machine.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        host_probe::leftovers(self.privilege_mode, &self.layout, &self.cgroups)
    }

    /// Unmounts the storage pool when the runner ends. Removes firewall and control group where no
    /// sandbox runs.
    pub fn clean_up(&self) {
        self.storage.close();
        if self.privilege_mode == PrivilegeMode::Root && self.sandboxes.running() == 0 {
            firewall::unload(&self.layout.table());
            self.cgroups.remove_parent();
        }
    }
}
