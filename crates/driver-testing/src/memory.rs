//! In-memory driver, for tests of the layers above a driver.
//!
//! Tests can remove its containers, networks, volumes and databases, make calls fail, hang or wait ([`Script`]), and read
//! the log of calls ([`Log`]).

mod backup;
mod databases;
mod sandboxd;
mod script;
mod snapshots;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;
use fsa_model::{
    ContainerState, Failure, FailureKind, Image, ResourceName, SandboxRef, SandboxSpec, SnapshotId, VolumeId,
    api::ImageInfo,
    condition::ImageProgress,
    sandboxd::{ListeningPort, LogLine, RepositoryState, StartCommand, Status, TERMINAL_PORT, Usage},
    snapshot::{FileChanges, SnapshotContent},
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::{
    net::TcpStream,
    sync::{broadcast, watch},
};
use tokio_stream::wrappers::BroadcastStream;

pub use databases::MemoryDatabases;
use sandboxd::Process;
pub use script::{Call, CallRecord, Fault, Gate, Log, Outcome, Script};
use snapshots::Snapshot;

use fsa_driver::{
    BoxConnection, BoxStream, Capabilities, Driver, DriverError, Endpoint, ExternalEndpoint, Observed,
    Requeue, Result, SnapshotFile, Warning, backup::VolumeFiles,
};

/// A start command `echo-on PORT` makes the fake sandboxd listen on the port and echo.
pub const ECHO: &str = "echo-on";
/// The image that does not exist.
pub const MISSING_IMAGE: &str = "example.invalid/missing:latest";

type Files = Arc<Mutex<BTreeMap<String, Bytes>>>;
/// The result of a repository's clone, by its URL; the default is success.
type Clones = Arc<Mutex<BTreeMap<String, RepositoryState>>>;

struct Sandbox {
    reference: SandboxRef,
    network: bool,
    container: ContainerState,
    digest: Option<String>,
    root: Files,
    process: Option<Arc<Process>>,
    failure: Option<Failure>,
}

#[derive(Default)]
struct World {
    sandboxes: BTreeMap<ResourceName, Sandbox>,
    volumes: BTreeMap<VolumeId, Files>,
    snapshots: BTreeMap<(VolumeId, SnapshotId), Snapshot>,
}

/// In-memory data plane.
pub struct MemoryDriver {
    world: Mutex<World>,
    clones: Clones,
    requeues: broadcast::Sender<Requeue>,
    warnings: broadcast::Sender<Warning>,
    pub script: Script,
    pub log: Log,
    /// Bytes on disk that each sandbox reports.
    pub disk_bytes: AtomicU64,
    /// Addresses of applications, by the port of the sandboxes on which they listen.
    applications: Mutex<BTreeMap<u16, SocketAddr>>,
    /// Imported images, by name. Sandboxes start without one.
    images: Mutex<BTreeMap<String, ImageInfo>>,
    image_progress: Mutex<Option<ImageProgress>>,
}

impl Default for MemoryDriver {
    fn default() -> Self {
        Self {
            world: Mutex::default(),
            clones: Clones::default(),
            requeues: broadcast::Sender::new(1024),
            warnings: broadcast::Sender::new(1024),
            script: Script::default(),
            log: Log::default(),
            disk_bytes: AtomicU64::new(4096),
            applications: Mutex::default(),
            images: Mutex::default(),
            image_progress: Mutex::default(),
        }
    }
}

impl Sandbox {
    fn end(&mut self) {
        if let Some(process) = self.process.take() {
            process.ended.send_replace(true);
        }
        if self.container != ContainerState::Absent {
            self.container = ContainerState::Stopped;
        }
    }
}

/// Actions and checks of tests that bypass the [`Driver`] trait.
impl MemoryDriver {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Kills the container's processes, with a requeue.
    pub fn kill(&self, resource: &ResourceName) {
        let mut world = self.world.lock();
        if let Some(sandbox) = world.sandboxes.get_mut(resource) {
            sandbox.end();
            sandbox.failure = Some(Failure::new(FailureKind::Machine, "it was killed"));
            let _ = self.requeues.send(Requeue::Sandbox(sandbox.reference.clone()));
        }
    }

    /// Removes everything of the sandbox, without a requeue.
    pub fn remove_silently(&self, resource: &ResourceName) {
        if let Some(mut sandbox) = self.world.lock().sandboxes.remove(resource) {
            sandbox.end();
        }
    }

    /// Simulates a reboot of the machine: ends processes and networks, and keeps the files.
    pub fn reboot(&self) {
        for sandbox in self.world.lock().sandboxes.values_mut() {
            sandbox.end();
            sandbox.network = false;
        }
    }

    /// Removes the sandbox's network, without a requeue.
    pub fn lose_network(&self, resource: &ResourceName) {
        if let Some(sandbox) = self.world.lock().sandboxes.get_mut(resource) {
            sandbox.network = false;
        }
    }

    /// Removes the home volume, without a requeue.
    pub fn lose_volume(&self, volume: VolumeId) {
        self.world.lock().volumes.remove(&volume);
    }

    /// Changes the digest of the container.
    pub fn set_drift(&self, resource: &ResourceName) {
        if let Some(sandbox) = self.world.lock().sandboxes.get_mut(resource) {
            sandbox.digest = Some("another".into());
        }
    }

    /// Adds a sandbox without a row.
    pub fn add_orphan(&self, reference: SandboxRef) {
        self.world.lock().sandbox(&reference).network = true;
    }

    /// Sets the result of later clones of `url`.
    pub fn set_clone_result(&self, url: &str, state: RepositoryState) {
        self.clones.lock().insert(url.to_owned(), state);
    }

    /// Changes the status of the fake sandboxd. False if the sandbox does not run.
    pub fn set_status(&self, resource: &ResourceName, change: impl FnOnce(&mut Status)) -> bool {
        let process = self.process(resource);
        process.is_some_and(|process| {
            process.status.send_modify(change);
            true
        })
    }

    /// Reports this progress of every image.
    pub fn set_image_progress(&self, progress: Option<ImageProgress>) {
        *self.image_progress.lock() = progress;
    }

    /// Redirects later connections to this port of any sandbox to `application`.
    pub fn serve(&self, port: u16, application: SocketAddr) {
        self.applications.lock().insert(port, application);
    }

    /// Adds lines to the log of the fake sandboxd.
    pub fn write_log(&self, resource: &ResourceName, lines: Vec<LogLine>) {
        if let Some(process) = self.process(resource) {
            process.logs.lock().extend(lines);
        }
    }

    /// The environment of the sandbox's programs. `None` if the sandbox does not run.
    #[must_use]
    pub fn environment(&self, resource: &ResourceName) -> Option<BTreeMap<String, SecretString>> {
        self.process(resource).map(|process| process.environment.clone())
    }

    /// Number of connections that watch the sandbox's status.
    #[must_use]
    pub fn watchers(&self, resource: &ResourceName) -> usize {
        self.process(resource)
            .map_or(0, |process| process.status.receiver_count())
    }

    /// The state of the sandbox's container.
    #[must_use]
    pub fn container(&self, resource: &ResourceName) -> ContainerState {
        self.world
            .lock()
            .sandboxes
            .get(resource)
            .map_or(ContainerState::Absent, |sandbox| sandbox.container)
    }

    /// The resource names of all sandboxes.
    #[must_use]
    pub fn resources(&self) -> Vec<ResourceName> {
        self.world.lock().sandboxes.keys().cloned().collect()
    }

    /// All volumes.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeId> {
        self.world.lock().volumes.keys().copied().collect()
    }

    /// The snapshots of all volumes.
    #[must_use]
    pub fn all_snapshots(&self) -> Vec<SnapshotId> {
        let world = self.world.lock();
        world.snapshots.keys().map(|(_, snapshot)| *snapshot).collect()
    }

    /// Removes a snapshot, so that it cannot be restored.
    pub fn lose_snapshot(&self, snapshot: SnapshotId) {
        self.world.lock().snapshots.retain(|(_, id), _| *id != snapshot);
    }

    /// Sends a requeue to the subscribers of [`Driver::changes`].
    pub fn requeue(&self, requeue: Requeue) {
        let _ = self.requeues.send(requeue);
    }

    /// Sends a warning to the subscribers of [`Driver::warnings`].
    pub fn warning(&self, warning: Warning) {
        let _ = self.warnings.send(warning);
    }

    fn process(&self, resource: &ResourceName) -> Option<Arc<Process>> {
        self.world
            .lock()
            .sandboxes
            .get(resource)
            .and_then(|sandbox| sandbox.process.clone())
    }
}

impl World {
    fn sandbox(&mut self, reference: &SandboxRef) -> &mut Sandbox {
        self.sandboxes
            .entry(reference.resource.clone())
            .or_insert_with(|| Sandbox {
                reference: reference.clone(),
                network: false,
                container: ContainerState::Absent,
                digest: None,
                root: Files::default(),
                process: None,
                failure: None,
            })
    }

    /// The first half of a container's start: its files.
    fn unpack(&mut self, spec: &SandboxSpec) -> Result<()> {
        if spec.image == Image::Reference(MISSING_IMAGE.into()) {
            return Err(missing_image());
        }
        self.volumes.entry(spec.sandbox.volume).or_default();
        let digest = spec.digest();
        let sandbox = self.sandbox(&spec.sandbox);
        if !sandbox.network {
            return Err(DriverError::new(
                FailureKind::Internal,
                "ensure_container was called before ensure_network",
            ));
        }
        if sandbox.digest.as_ref() != Some(&digest) {
            sandbox.end();
        }
        if sandbox.container == ContainerState::Absent {
            sandbox.container = ContainerState::Stopped;
        }
        Ok(())
    }

    /// The second half of a container's start: its processes.
    fn start(&mut self, spec: &SandboxSpec, clones: &Clones) {
        let volume = Arc::clone(self.volumes.entry(spec.sandbox.volume).or_default());
        let sandbox = self.sandbox(&spec.sandbox);
        if sandbox.process.is_some() {
            return;
        }
        let port = spec
            .start_command
            .as_deref()
            .and_then(|command| command.strip_prefix(ECHO)?.trim().parse().ok());
        let status = Status {
            version: "in memory".into(),
            ready: true,
            ports: port
                .map(|port| ListeningPort {
                    port,
                    process: Some(ECHO.into()),
                })
                .into_iter()
                .collect(),
            start_command: match &spec.start_command {
                None => StartCommand::None,
                Some(_) => StartCommand::Running {
                    pid: 2,
                    since: chrono::Utc::now(),
                    restarts: 0,
                },
            },
            repository: RepositoryState::None,
            clone_warning: None,
            callback_requested: false,
        };
        let process = Process {
            token: spec.control_token.clone(),
            environment: spec.environment.clone(),
            status: watch::Sender::new(status),
            ended: watch::Sender::new(false),
            volume,
            root: Arc::clone(&sandbox.root),
            logs: Mutex::default(),
            repository: spec.repository.as_ref().map(|repository| repository.url.clone()),
            clones: Arc::clone(clones),
        };
        process.clone_repository();
        sandbox.process = Some(Arc::new(process));
        sandbox.digest = Some(spec.digest());
        sandbox.container = ContainerState::Running;
        sandbox.failure = None;
    }
}

fn missing_image() -> DriverError {
    DriverError::new(
        FailureKind::Input,
        format!("the image {MISSING_IMAGE:?} does not exist; check its name, or import it first"),
    )
}

#[async_trait]
impl Driver for MemoryDriver {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            driver: "memory",
            enforces_memory: false,
            enforces_cpu: false,
            enforces_pids: false,
            isolates_network: false,
            imports_images: true,
            keeps_root_files: true,
            restarts_by_itself: false,
            listens_at_start: true,
            snapshots: true,
            shares_snapshots: true,
            is_remote: false,
        }
    }

    fn external_endpoint(&self, sandbox: &SandboxRef, port: u16) -> Option<ExternalEndpoint> {
        let resource = sandbox.resource.as_str();
        let host = match port {
            3000 => format!("{resource}.outside.test"),
            TERMINAL_PORT => format!("t-{resource}.outside.test"),
            _ => return None,
        };
        Some(ExternalEndpoint { host, secure: false })
    }

    async fn terminal_token(&self, sandbox: &SandboxRef) -> Result<SecretString> {
        Ok(format!("terminal-of-{}", sandbox.resource).into())
    }

    async fn observe(&self, sandbox: &SandboxRef) -> Result<Observed> {
        let call = self.log.begin(Call::Observe, &sandbox.resource);
        let work = async {
            self.script.begin_faults(Call::Observe).await?.apply().await?;
            let world = self.world.lock();
            let volume = world.volumes.contains_key(&sandbox.volume);
            Ok(match world.sandboxes.get(&sandbox.resource) {
                None => Observed {
                    volume,
                    ..Observed::default()
                },
                Some(found) => Observed {
                    container: found.container,
                    digest: found.digest.clone(),
                    network: found.network,
                    failure: found.failure.clone(),
                    volume,
                },
            })
        };
        call.end(work.await)
    }

    async fn ensure_network(&self, spec: &SandboxSpec) -> Result<()> {
        let call = self.log.begin(Call::EnsureNetwork, &spec.sandbox.resource);
        let work = async {
            let halfway = self.script.begin_faults(Call::EnsureNetwork).await?;
            self.world.lock().sandbox(&spec.sandbox);
            halfway.apply().await?;
            self.world.lock().sandbox(&spec.sandbox).network = true;
            Ok(())
        };
        call.end(work.await)
    }

    fn image_progress(&self, _: &Image) -> Option<ImageProgress> {
        *self.image_progress.lock()
    }

    async fn ensure_container(&self, spec: &SandboxSpec) -> Result<()> {
        let call = self.log.begin(Call::EnsureContainer, &spec.sandbox.resource);
        let work = async {
            let halfway = self.script.begin_faults(Call::EnsureContainer).await?;
            self.world.lock().unpack(spec)?;
            halfway.apply().await?;
            self.world.lock().start(spec, &self.clones);
            Ok(())
        };
        call.end(work.await)
    }

    async fn await_serving(&self, sandbox: &SandboxRef) -> Result<()> {
        let call = self.log.begin(Call::AwaitServing, &sandbox.resource);
        let work = async { self.script.begin_faults(Call::AwaitServing).await?.apply().await };
        call.end(work.await)
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<()> {
        let call = self.log.begin(Call::Stop, &sandbox.resource);
        let work = async {
            let halfway = self.script.begin_faults(Call::Stop).await?;
            if let Some(found) = self.world.lock().sandboxes.get_mut(&sandbox.resource) {
                found.end();
            }
            halfway.apply().await
        };
        call.end(work.await)
    }

    async fn destroy(&self, sandbox: &SandboxRef) -> Result<()> {
        let call = self.log.begin(Call::Destroy, &sandbox.resource);
        let work = async {
            let halfway = self.script.begin_faults(Call::Destroy).await?;
            if let Some(found) = self.world.lock().sandboxes.get_mut(&sandbox.resource) {
                found.end();
            }
            halfway.apply().await?;
            self.world.lock().sandboxes.remove(&sandbox.resource);
            Ok(())
        };
        call.end(work.await)
    }

    async fn remove_volume(&self, volume: VolumeId) -> Result<()> {
        let call = self.log.begin(Call::RemoveVolume, volume);
        let work = async {
            let halfway = self.script.begin_faults(Call::RemoveVolume).await?;
            halfway.apply().await?;
            let mut world = self.world.lock();
            world.volumes.remove(&volume);
            world.snapshots.retain(|(of, _), _| *of != volume);
            Ok(())
        };
        call.end(work.await)
    }

    async fn create_snapshot(&self, sandbox: &SandboxRef, snapshot: SnapshotId) -> Result<SnapshotContent> {
        let call = self.log.begin(Call::CreateSnapshot, snapshot);
        let work = async {
            let halfway = self.script.begin_faults(Call::CreateSnapshot).await?;
            halfway.apply().await?;
            self.world.lock().create_snapshot(sandbox, snapshot)
        };
        call.end(work.await)
    }

    async fn delete_snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
        let call = self.log.begin(Call::DeleteSnapshot, snapshot);
        let work = async {
            let halfway = self.script.begin_faults(Call::DeleteSnapshot).await?;
            halfway.apply().await?;
            self.world.lock().snapshots.remove(&(volume, snapshot));
            Ok(())
        };
        call.end(work.await)
    }

    async fn restore_snapshot(
        &self,
        sandbox: &SandboxRef,
        from: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<()> {
        let call = self.log.begin(Call::RestoreSnapshot, &sandbox.resource);
        let work = async {
            let halfway = self.script.begin_faults(Call::RestoreSnapshot).await?;
            self.world.lock().restore_snapshot(sandbox, from, snapshot)?;
            halfway.apply().await
        };
        call.end(work.await)
    }

    async fn clone_snapshot(&self, from: VolumeId, snapshot: SnapshotId, sandbox: &SandboxRef) -> Result<()> {
        let call = self.log.begin(Call::CloneSnapshot, &sandbox.resource);
        let work = async {
            let halfway = self.script.begin_faults(Call::CloneSnapshot).await?;
            self.world.lock().clone_snapshot(from, snapshot, sandbox)?;
            halfway.apply().await
        };
        call.end(work.await)
    }

    async fn snapshots(&self, volume: VolumeId) -> Result<Vec<SnapshotId>> {
        let world = self.world.lock();
        let all = world.snapshots.keys().filter(|(of, _)| *of == volume);
        Ok(all.map(|(_, snapshot)| *snapshot).collect())
    }

    async fn snapshot_bytes(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<Option<u64>> {
        let world = self.world.lock();
        Ok(world.snapshots.get(&(volume, snapshot)).map(Snapshot::bytes))
    }

    async fn changed_since(&self, sandbox: &SandboxRef, snapshot: SnapshotId) -> Result<bool> {
        let changes = self.world.lock().diff_snapshot(sandbox, snapshot, None)?;
        Ok(!changes.changes.is_empty())
    }

    async fn snapshot_file(
        &self,
        sandbox: &SandboxRef,
        snapshot: Option<SnapshotId>,
        path: &[u8],
        bytes_max: u64,
    ) -> Result<SnapshotFile> {
        let path = String::from_utf8_lossy(path);
        self.world
            .lock()
            .snapshot_file(sandbox, snapshot, &path, bytes_max)
    }

    async fn diff_snapshot(
        &self,
        sandbox: &SandboxRef,
        from: SnapshotId,
        to: Option<SnapshotId>,
    ) -> Result<FileChanges> {
        self.world.lock().diff_snapshot(sandbox, from, to)
    }

    fn volume_files(&self) -> Option<&dyn VolumeFiles> {
        Some(self)
    }

    async fn connect(&self, sandbox: &SandboxRef, endpoint: Endpoint) -> Result<BoxConnection> {
        let call = self.log.begin(Call::Connect, &sandbox.resource);
        let work = async {
            self.script.begin_faults(Call::Connect).await?.apply().await?;
            let process = self.process(&sandbox.resource).ok_or_else(not_running)?;
            match endpoint {
                Endpoint::Control => Ok(Box::new(sandboxd::control(&process)) as BoxConnection),
                Endpoint::Port(port) if self.applications.lock().contains_key(&port) => {
                    let application = self.applications.lock()[&port];
                    let stream = TcpStream::connect(application).await;
                    stream
                        .map(|stream| Box::new(stream) as BoxConnection)
                        .map_err(|error| DriverError::new(FailureKind::Transient, error.to_string()))
                }
                Endpoint::Port(port) => sandboxd::port(&process, port)
                    .map(|stream| Box::new(stream) as BoxConnection)
                    .ok_or_else(|| {
                        DriverError::new(
                            FailureKind::Transient,
                            format!("nothing listens on port {port} of the sandbox"),
                        )
                    }),
            }
        };
        call.end(work.await)
    }

    fn changes(&self) -> BoxStream<Requeue> {
        // A subscriber that lost requeues must observe everything.
        Box::pin(
            BroadcastStream::new(self.requeues.subscribe())
                .map(|requeue| requeue.unwrap_or(Requeue::Everything)),
        )
    }

    fn warnings(&self) -> BoxStream<Warning> {
        Box::pin(BroadcastStream::new(self.warnings.subscribe()).filter_map(|warning| async { warning.ok() }))
    }

    async fn usage(&self, sandbox: &SandboxRef) -> Result<Usage> {
        self.process(&sandbox.resource).ok_or_else(not_running)?;
        Ok(Usage {
            cpu_microseconds: 1000,
            memory_bytes: 1024 * 1024,
            memory_limit_bytes: 256 * 1024 * 1024,
            pids: 2,
            disk_bytes: self.disk_bytes.load(Ordering::Relaxed),
            disk_limit_bytes: 0,
        })
    }

    async fn disk(&self, _: &SandboxRef) -> Result<Option<u64>> {
        Ok(Some(self.disk_bytes.load(Ordering::Relaxed)))
    }

    async fn inventory(&self) -> Result<Vec<SandboxRef>> {
        let call = self.log.begin(Call::Inventory, "everything");
        call.end(self.script.begin_faults(Call::Inventory).await.map(|_| {
            let world = self.world.lock();
            world
                .sandboxes
                .values()
                .map(|found| found.reference.clone())
                .collect()
        }))
    }

    async fn images(&self) -> Result<Vec<ImageInfo>> {
        Ok(self.images.lock().values().cloned().collect())
    }

    async fn import_image(
        &self,
        name: &str,
        archive: BoxStream<std::io::Result<Bytes>>,
    ) -> Result<ImageInfo> {
        let bytes: Vec<Bytes> = archive
            .try_collect()
            .await
            .map_err(|error| DriverError::new(FailureKind::Input, error.to_string()))?;
        let image = ImageInfo {
            name: name.to_owned(),
            digest: "sha256:0".into(),
            size: bytes.iter().map(|part| part.len() as u64).sum(),
            layers: 1,
            imported_at: Utc::now(),
        };
        self.images.lock().insert(name.to_owned(), image.clone());
        Ok(image)
    }

    async fn stored_image(&self, image: &Image) -> Result<Option<String>> {
        let (Image::Template(name) | Image::Reference(name)) = image;
        Ok(self.images.lock().contains_key(name).then(|| name.clone()))
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        match self.images.lock().remove(name) {
            Some(_) => Ok(()),
            None => Err(missing_image()),
        }
    }

    async fn check_image(&self, spec: &SandboxSpec) -> Result<()> {
        let call = self.log.begin(Call::CheckImage, &spec.sandbox.resource);
        call.end(self.script.begin_faults(Call::CheckImage).await.and_then(|_| {
            if spec.image == Image::Reference(MISSING_IMAGE.into()) {
                Err(missing_image())
            } else {
                Ok(())
            }
        }))
    }
}

fn not_running() -> DriverError {
    DriverError::new(
        FailureKind::Transient,
        "the sandbox is not running; start it first",
    )
}
