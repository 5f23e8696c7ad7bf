//! Start, stop and destruction of a sandbox: root file system, OCI bundle, runtime. A failed start
//! is undone.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use fsa_model::{Failure, FailureKind, ResourceName, SandboxRef};
use rustix::mount::UnmountFlags;

use super::{
    Runner,
    bundle::{self, Bundle},
    container_spec::Limits,
    deferred_delete,
    layout::Layout,
    link_layer::{self, LinkLayerPaths},
    mounts,
    network::SandboxNetwork,
    oci::Inherited,
    pidfd,
    sandboxes::{Entry, Running},
    state::{BOOT, Process, Run, State},
    storage,
    userns::IdRange,
};
use crate::protocol::{ExitCause, Root, StartSandbox, machine};

/// For SIGKILL to take effect: a process may be waiting for a disk.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

impl Runner {
    /// Starts a sandbox that does not run.
    ///
    /// # Errors
    /// What failed; the attempt leaves nothing behind.
    pub fn start(
        &self,
        entry: &Entry,
        start: &StartSandbox,
        listener: &OwnedFd,
        boot: &OwnedFd,
    ) -> Result<(), Failure> {
        crate::protocol::check(start)?;
        let name = &start.sandbox.resource;
        if entry.live.lock().running.is_some() {
            return Err(Failure::new(
                FailureKind::Internal,
                "the sandbox was to be started, and runs already",
            ));
        }
        storage::check_room(&self.layout)?;
        let new = !self.layout.sandbox(name).exists();
        let begun = Instant::now();
        let result = self.try_start(entry, start, listener, boot);
        unmount(&self.layout.scratch().join(name.as_str()));
        match &result {
            Ok(()) => tracing::info!(sandbox = %name, took = ?begun.elapsed(), "started a sandbox"),
            Err(failure) => {
                tracing::warn!(sandbox = %name, %failure, "a sandbox could not be started");
                self.record_exit(entry, name, ExitCause::Stopped);
                if new {
                    self.delete_files(&start.sandbox)
                        .map_err(|e| removal_failed(&e))?;
                }
            }
        }
        result
    }

    fn try_start(
        &self,
        entry: &Entry,
        start: &StartSandbox,
        listener: &OwnedFd,
        boot: &OwnedFd,
    ) -> Result<(), Failure> {
        let name = &start.sandbox.resource;
        if self.runtime.knows(name.as_str()) {
            self.kill_orphans(name, true);
        }
        let network = self.ensure_network(entry, &start.sandbox)?;
        let bundle = self.layout.bundle(name);
        self.make_folders(start)
            .map_err(|e| creation_failed("the sandbox's folders", &e))?;
        let base_rootfs = match start.root {
            Root::Host => &self.base_rootfs.host,
            Root::Layers(_) => &self.base_rootfs.base,
        };
        let mut state = State {
            sandbox: start.sandbox.clone(),
            digest: start.digest.clone(),
            base_rootfs: base_rootfs.clone(),
            layers: match &start.root {
                Root::Host => Vec::new(),
                Root::Layers(layers) => layers.clone(),
            },
            database_proxy: start.database_proxy,
            memory_limit_mib: start.resources.memory_limit_mib,
            run: Some(Run {
                boot: BOOT.clone(),
                slot: network.slot,
                process: None,
            }),
            ended: None,
        };
        let state_path = self.layout.state(name);
        // Before anything runs, so that the runner after a crash finds it.
        state
            .write(&state_path)
            .map_err(|e| creation_failed("the sandbox's state", &e))?;
        let user_namespace = self
            .privilege_mode
            .user_namespace(self.ids(network.slot), name.as_str())
            .map_err(|e| creation_failed("the sandbox's user namespace", &e))?;
        let made = self.root_file_system(start, &network, &user_namespace, base_rootfs);
        self.limit_disk(start, false)
            .map_err(|e| creation_failed("the limit of the sandbox's disk", &e))?;
        made?;
        self.write_bundle(start, &network, &user_namespace, &bundle)
            .map_err(|e| creation_failed("the sandbox's bundle", &e))?;

        let joins = self.runtime.joins_user_namespace();
        let pid = self.runtime.start(
            name.as_str(),
            &bundle,
            &Inherited {
                control: Some((listener.as_fd(), boot.as_fd())),
                network: joins.then(|| network.namespace.as_fd()),
                open_files: joins.then_some(self.open_files),
                output: None,
            },
        )?;
        let running = self.verify(pid, start, &network, &bundle)?;
        if let Some(run) = &mut state.run {
            run.process = Some(running.process);
        }
        if let Err(error) = state.write(&state_path) {
            pidfd::kill(running.pidfd.as_fd());
            let _ = super::pidfd::readable(running.pidfd.as_fd(), KILL_TIMEOUT);
            return Err(creation_failed("the sandbox's state", &error));
        }
        let running = Arc::new(running);
        entry.live.lock().running = Some(Arc::clone(&running));
        self.watch_process(name, &running);
        Ok(())
    }

    fn make_folders(&self, start: &StartSandbox) -> io::Result<()> {
        fs::create_dir_all(self.layout.bundle(&start.sandbox.resource))?;
        self.storage.create(start.sandbox.volume)?;
        self.limit_disk(start, true)?;
        let root = self.storage.files(&start.sandbox).root;
        for folder in ["upper", "work"] {
            fs::create_dir_all(root.join(folder))?;
        }
        // The root folder's own mode is the upper one's.
        fs::set_permissions(root.join("upper"), fs::Permissions::from_mode(0o755))
    }

    fn limit_disk(&self, start: &StartSandbox, starting: bool) -> io::Result<()> {
        let bytes = u64::from(start.resources.disk_limit_mib) << 20;
        self.storage.set_limit(start.sandbox.volume, bytes, starting)
    }

    /// Mounts the container's file systems below `<scratch>/<resource>/`: `all`, the runner's
    /// folder with the sandbox's ids; `volume`, the sandbox's volume where that is on another file
    /// system; `root`, the overlay; `machine/…` for template `host`.
    fn root_file_system(
        &self,
        start: &StartSandbox,
        network: &SandboxNetwork,
        user_namespace: &OwnedFd,
        base_rootfs: &str,
    ) -> Result<(), Failure> {
        let name = &start.sandbox.resource;
        let here = self.layout.scratch().join(name.as_str());
        let mapped = |e: io::Error| {
            let advice = if e.raw_os_error() == Some(libc::EINVAL) {
                "; the file system of the data folder, or the kernel (5.19 or later is needed), cannot map ids: \
                 put the data folder on ext4, xfs or btrfs"
            } else {
                ""
            };
            machine(format!(
                "the sandbox's files could not be mapped to its ids ({e}){advice}"
            ))
        };
        let failed = |e: io::Error| creation_failed("the sandbox's root file system", &e);
        fs::create_dir_all(here.join("root")).map_err(failed)?;
        let view = self
            .privilege_mode
            .view(user_namespace)
            .map_err(|e| creation_failed("the sandbox's user namespace", &e))?;
        let all = mounts::copy(self.layout.folder(), &view, false).map_err(mapped)?;
        mounts::attach(&all, &here.join("all")).map_err(failed)?;
        let files = self.storage.files(&start.sandbox);
        if let Some(volume) = &files.volume {
            let volume = mounts::copy(volume, &view, false).map_err(mapped)?;
            mounts::attach(&volume, &here.join("volume")).map_err(failed)?;
        }

        // Links with short names: mount(2) reads one page of options.
        let mut lower = vec![PathBuf::from("skeletons").join(base_rootfs)];
        if let Root::Layers(layers) = &start.root {
            for (number, layer) in layers.iter().enumerate() {
                let below = Layout::layer_below(layer);
                if !self.layout.folder().join(&below).is_dir() {
                    return Err(Failure::new(
                        FailureKind::Transient,
                        "a layer of the sandbox's image is missing; the next attempt fetches it again",
                    ));
                }
                let links = self.layers.links(layer);
                if !links.is_empty() {
                    let paths = LinkLayerPaths {
                        runner: self.layout.folder(),
                        sandbox: &Path::new("sandboxes").join(name.as_str()),
                        scratch: &self.layout.scratch().join(format!("{name}.links")),
                        options: self.privilege_mode.overlay_options(),
                    };
                    let made = link_layer::ensure(&paths, &layers[..=number], &lower, &links)
                        .map_err(|error| error.failure_of(layer))?;
                    lower.push(made);
                }
                lower.push(below);
            }
        }
        let mut names = Vec::with_capacity(lower.len());
        for (number, below) in lower.iter().enumerate() {
            names.push(number.to_string());
            symlink(Path::new("all").join(below), here.join(number.to_string())).map_err(failed)?;
        }
        names.reverse();
        mounts::overlay(
            &here,
            &names,
            &format!("{}/upper", files.mounted_root),
            &format!("{}/work", files.mounted_root),
            "root",
            self.ids(network.slot).first,
            self.privilege_mode.overlay_options(),
        )
        .map_err(failed)?;
        if start.root == Root::Host {
            for folder in &self.base_rootfs.machine {
                let target = here
                    .join("machine")
                    .join(folder.strip_prefix("/").unwrap_or(folder));
                mounts::copy(folder, &self.privilege_mode.machine_view(), true)
                    .and_then(|tree| mounts::attach(&tree, &target))
                    .map_err(failed)?;
            }
        }
        Ok(())
    }

    fn write_bundle(
        &self,
        start: &StartSandbox,
        network: &SandboxNetwork,
        user_namespace: &OwnedFd,
        bundle: &Path,
    ) -> io::Result<()> {
        let name = &start.sandbox.resource;
        let here = self.layout.scratch().join(name.as_str());
        let read_only: Vec<(PathBuf, PathBuf)> = match start.root {
            Root::Host => self
                .base_rootfs
                .machine
                .iter()
                .map(|folder| {
                    (
                        here.join("machine")
                            .join(folder.strip_prefix("/").unwrap_or(folder)),
                        folder.clone(),
                    )
                })
                .collect(),
            Root::Layers(_) => Vec::new(),
        };
        let cgroup = self.cgroups.any().then(|| self.cgroups.path(name.as_str()));
        // The runtime is a child in this very namespace of processes.
        let path = |namespace: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        let (user_namespace, network_namespace) = (path(user_namespace), path(&network.namespace));
        let config = bundle::config(&Bundle {
            root: &here.join("root"),
            hostname: &start.hostname,
            user_namespace: self
                .runtime
                .joins_user_namespace()
                .then(|| Path::new(&user_namespace)),
            network_namespace: Path::new(&network_namespace),
            open_files: self.open_files,
            ids: &self.privilege_mode.parts(self.ids(network.slot)),
            home: &here.join(self.storage.files(&start.sandbox).mounted_home),
            sandboxd: &self.sandboxd,
            read_only: &read_only,
            cgroup: cgroup.as_deref(),
            limits: Limits::of(&start.resources, &self.cgroups),
            sys: &self.sys,
        })
        .map_err(io::Error::other)?;
        fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)
    }

    fn ids(&self, slot: u32) -> IdRange {
        self.privilege_mode.ids(self.config.uid_base, slot)
    }

    /// Makes sure that the id the runtime gave is of a process in this sandbox's network.
    fn verify(
        &self,
        pid: i32,
        start: &StartSandbox,
        network: &SandboxNetwork,
        bundle: &Path,
    ) -> Result<Running, Failure> {
        let running = (|| {
            let pidfd = pidfd::open(pid)?;
            let process = Process::now(pid)?;
            let theirs = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
            let ours = rustix::fs::fstat(&network.namespace).ok()?;
            (theirs.ino() == ours.st_ino && !pidfd::ended(&pidfd)).then(|| Running {
                process,
                pidfd,
                sandbox: start.sandbox.clone(),
                memory_limit_mib: start.resources.memory_limit_mib,
            })
        })();
        running.ok_or_else(|| {
            let output_text = fs::read_to_string(bundle.join("console.log")).unwrap_or_default();
            let output_text: String = output_text.trim().chars().take(300).collect();
            let output_text = if output_text.is_empty() {
                "it had no output".to_owned()
            } else {
                output_text
            };
            Failure::new(
                FailureKind::Internal,
                format!("the sandbox ended as soon as it was started: {output_text}"),
            )
        })
    }

    /// Ends a sandbox's processes: SIGTERM, and SIGKILL after `grace`. Its files stay.
    ///
    /// # Errors
    /// Where even SIGKILL does not end them.
    pub fn stop(&self, entry: &Entry, name: &ResourceName, grace: Duration) -> Result<(), Failure> {
        let running = entry.live.lock().running.clone();
        let Some(running) = running else {
            // A network without a sandbox, or what a killed runner left.
            self.drop_network(entry);
            if self.runtime.knows(name.as_str()) {
                self.kill_orphans(name, true);
                self.cgroups.remove(name.as_str());
            }
            return Ok(());
        };
        pidfd::terminate(running.pidfd.as_fd());
        if !super::pidfd::readable(running.pidfd.as_fd(), grace) {
            pidfd::kill(running.pidfd.as_fd());
            if !super::pidfd::readable(running.pidfd.as_fd(), KILL_TIMEOUT) {
                return Err(machine(
                    "the sandbox's processes do not end, even when they are killed; one may be waiting for a disk",
                ));
            }
        }
        self.record_exit(entry, name, ExitCause::Stopped);
        Ok(())
    }

    /// Removes everything of a sandbox but its project's home folder. Its files are only moved aside;
    /// returns the arguments of [`deferred_delete::delete`].
    ///
    /// # Errors
    /// As [`Self::stop`], and the file system's.
    pub fn destroy(&self, entry: &Entry, sandbox: &SandboxRef) -> Result<Vec<PathBuf>, Failure> {
        let name = &sandbox.resource;
        self.stop(entry, name, Duration::ZERO)?;
        self.cgroups.remove(name.as_str());
        let discarded = [
            self.storage.discard_root(sandbox),
            self.deferred_delete.discard(&self.layout.sandbox(name)),
        ];
        let mut moved = Vec::new();
        for discarded in discarded {
            moved.extend(discarded.map_err(|e| removal_failed(&e))?);
        }
        Ok(moved)
    }

    /// Deletes the files of a sandbox that could not be started for the first time.
    fn delete_files(&self, sandbox: &SandboxRef) -> io::Result<()> {
        let moved = [
            self.storage.discard_root(sandbox)?,
            self.deferred_delete
                .discard(&self.layout.sandbox(&sandbox.resource))?,
        ];
        moved
            .iter()
            .flatten()
            .try_for_each(|moved| deferred_delete::delete(moved))
    }
}

use std::os::fd::AsFd as _;

/// Unmounts what a start mounted for the container, which has its own copies by then.
fn unmount(here: &Path) {
    let detach = |path: &Path| {
        let _ = rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    };
    detach(&here.join("root"));
    if let Ok(entries) = fs::read_dir(here.join("machine")) {
        for entry in entries.flatten() {
            detach(&entry.path());
        }
    }
    detach(&here.join("volume"));
    detach(&here.join("all"));
    // Links and empty folders in memory. Not remove_dir_all: it would delete the content of
    // anything that is still mounted.
    for name in ["root", "volume", "all"] {
        let _ = fs::remove_dir(here.join(name));
    }
    if let Ok(entries) = fs::read_dir(here.join("machine")) {
        for entry in entries.flatten() {
            let _ = fs::remove_dir(entry.path());
        }
    }
    let _ = fs::remove_dir(here.join("machine"));
    if let Ok(entries) = fs::read_dir(here) {
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(here);
}

fn creation_failed(what: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            machine("the disk is full: remove projects or images, or make the disk larger")
        }
        io::ErrorKind::PermissionDenied => machine(format!(
            "{what} could not be made: the runner lacks a permission ({error})"
        )),
        _ => machine(format!("{what} could not be made ({error})")),
    }
}

fn removal_failed(error: &io::Error) -> Failure {
    machine(format!("the sandbox's files could not be removed ({error})"))
}
