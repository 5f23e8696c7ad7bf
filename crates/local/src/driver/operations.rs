//! [`fsa_driver::Driver`] for one machine: each operation is a few requests to the runner.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fsa_driver::{
    BoxConnection, BoxStream, Capabilities, Driver, DriverError, Endpoint, Observed, Requeue, Result,
    SnapshotFile, StoragePoolStatus, backup::VolumeFiles, keyed_mutex::KeyedMutexGuard,
};
use fsa_model::{
    ContainerState, Failure, FailureKind, Image, SandboxRef, SandboxSpec, SnapshotId, VolumeId,
    api::ImageInfo,
    condition::ImageProgress,
    sandboxd::Usage,
    snapshot::{FileChanges, SnapshotContent},
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::net::TcpSocket;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use super::{LocalDriver, boot, client::unexpected};
use crate::{
    images::ResolvedImage,
    protocol::{ExitCause, ObservedSandbox, Push, Request, Response, Root, StartSandbox},
};

/// Timeout of a request that the runner answers from memory.
const QUICK: Duration = Duration::from_secs(30);
/// Timeout of a start; half of it is for the OCI runtime.
const START: Duration = Duration::from_secs(60);
/// Timeout of the removal of a tree with millions of files.
const REMOVAL: Duration = Duration::from_secs(600);
/// Timeout of a connect to a program on a sandbox's loopback, which accepts immediately or not at all.
const CONNECT: Duration = Duration::from_secs(5);

#[async_trait]
impl Driver for LocalDriver {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            driver: "local",
            enforces_memory: self.hello.enforces_memory,
            enforces_cpu: self.hello.enforces_cpu,
            enforces_pids: self.hello.enforces_pids,
            isolates_network: self.hello.isolates_network,
            imports_images: true,
            keeps_root_files: true,
            restarts_by_itself: false,
            listens_at_start: true,
            snapshots: true,
            shares_snapshots: self.shares_snapshots,
            is_remote: false,
        }
    }

    async fn observe(&self, sandbox: &SandboxRef) -> Result<Observed> {
        let found = self.observe_sandbox(sandbox).await?;
        let needs_proxy = found.database_proxy && found.running;
        let database_proxy_bound = !needs_proxy || self.is_bound(sandbox).await?;
        Ok(Observed {
            container: match (found.exists, found.running) {
                (_, true) => ContainerState::Running,
                (true, false) => ContainerState::Stopped,
                (false, false) => ContainerState::Absent,
            },
            network: found.network && database_proxy_bound,
            failure: found.ended.and_then(|ended| failure_of_exit(ended.how)),
            volume: found.volume,
            digest: found.digest,
        })
    }

    async fn ensure_network(&self, spec: &SandboxSpec) -> Result<()> {
        let lock = self.sandbox_locks.lock(&spec.sandbox.resource).await;
        let found = self.observe_sandbox(&spec.sandbox).await?;
        if found.network && (spec.database_role.is_none() || self.is_bound(&spec.sandbox).await?) {
            return Ok(());
        }
        self.make_network(lock, spec).await.map(drop)
    }

    fn image_progress(&self, image: &Image) -> Option<ImageProgress> {
        self.images.progress(image)
    }

    async fn ensure_container(&self, spec: &SandboxSpec) -> Result<()> {
        let digest = spec.digest();
        let lock = self.sandbox_locks.lock(&spec.sandbox.resource).await;
        let mut found = self.observe_sandbox(&spec.sandbox).await?;
        if found.running {
            let right = found.digest.as_deref() == Some(&digest);
            if right && self.sockets.settle(&spec.sandbox.resource).await {
                return Ok(());
            }
            self.stop_locked(&spec.sandbox).await?;
            // It ended with the processes.
            found.network = false;
        }
        // Before the network, because a pull may take minutes.
        let image = self
            .images
            .resolve(&spec.image)
            .await
            .map_err(DriverError::from)?;
        let (root, environment, lease) = match image {
            ResolvedImage::Host => (Root::Host, Vec::new(), None),
            ResolvedImage::Layers(image) => (
                Root::Layers(image.layers),
                image.config.environment,
                Some(image.lease),
            ),
        };
        let lock = match found.network {
            true => lock,
            false => self.make_network(lock, spec).await?,
        };
        let unmade = |error: io::Error| {
            let message = format!("the sandbox's control socket could not be made ({error})");
            DriverError::new(FailureKind::Machine, message)
        };
        let boot = boot::file(&boot::message(spec, &environment, &self.nameservers)).map_err(unmade)?;
        let socket = self.sockets.make(&spec.sandbox.resource).map_err(unmade)?;
        let start = StartSandbox {
            sandbox: spec.sandbox.clone(),
            root,
            resources: spec.resources,
            digest,
            hostname: boot::hostname(spec),
            database_proxy: self.database_proxy.is_some() && spec.database_role.is_some(),
        };
        // The runner completes a request even if this future is dropped, so this task completes too, until the owner of
        // the socket is known.
        let client = Arc::clone(&self.client);
        let started = tokio::spawn(async move {
            let descriptors = [socket.listener.as_fd(), boot.as_fd()];
            let started = client
                .done(Request::StartContainer(start), &descriptors, START)
                .await;
            drop((boot, lease));
            let kept = started.and_then(|()| socket.keep().map_err(unmade));
            drop(lock);
            kept
        });
        started.await.unwrap_or_else(|error| {
            let failure = DriverError::new(FailureKind::Internal, "the task that starts a sandbox failed");
            Err(failure.because(error))
        })
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<()> {
        let _lock = self.sandbox_locks.lock(&sandbox.resource).await;
        self.stop_locked(sandbox).await
    }

    async fn destroy(&self, sandbox: &SandboxRef) -> Result<()> {
        let _lock = self.sandbox_locks.lock(&sandbox.resource).await;
        let destroyed = self
            .client
            .done(
                Request::Destroy {
                    sandbox: sandbox.clone(),
                },
                &[],
                REMOVAL,
            )
            .await;
        self.unbind(sandbox).await?;
        destroyed?;
        self.sockets.remove(&sandbox.resource);
        Ok(())
    }

    async fn remove_volume(&self, volume: VolumeId) -> Result<()> {
        self.client
            .done(Request::RemoveVolume { volume }, &[], REMOVAL)
            .await
    }

    async fn create_snapshot(&self, sandbox: &SandboxRef, snapshot: SnapshotId) -> Result<SnapshotContent> {
        self.take_snapshot(sandbox, snapshot).await
    }

    async fn delete_snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<()> {
        let request = Request::DeleteSnapshot { volume, snapshot };
        self.client.done(request, &[], REMOVAL).await
    }

    async fn restore_snapshot(
        &self,
        sandbox: &SandboxRef,
        from: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<()> {
        self.replace_volume(sandbox, from, snapshot).await
    }

    async fn clone_snapshot(&self, from: VolumeId, snapshot: SnapshotId, sandbox: &SandboxRef) -> Result<()> {
        self.copy_volume(from, snapshot, sandbox).await
    }

    async fn snapshots(&self, volume: VolumeId) -> Result<Vec<SnapshotId>> {
        match self
            .client
            .call(Request::Snapshots { volume }, &[], QUICK)
            .await?
        {
            (Response::Snapshots { snapshots }, _) => Ok(snapshots),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn snapshot_bytes(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<Option<u64>> {
        let request = Request::SnapshotBytes { volume, snapshot };
        match self.client.call(request, &[], REMOVAL).await? {
            (Response::SnapshotBytes { bytes }, _) => Ok(bytes),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn changed_since(&self, sandbox: &SandboxRef, snapshot: SnapshotId) -> Result<bool> {
        let request = Request::ChangedSince {
            sandbox: sandbox.clone(),
            snapshot,
        };
        match self.client.call(request, &[], REMOVAL).await? {
            (Response::Changed { changed }, _) => Ok(changed),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn snapshot_file(
        &self,
        sandbox: &SandboxRef,
        snapshot: Option<SnapshotId>,
        path: &[u8],
        bytes_max: u64,
    ) -> Result<SnapshotFile> {
        self.read_snapshot_file(sandbox, snapshot, path, bytes_max).await
    }

    async fn diff_snapshot(
        &self,
        sandbox: &SandboxRef,
        from: SnapshotId,
        to: Option<SnapshotId>,
    ) -> Result<FileChanges> {
        let request = Request::DiffSnapshot {
            sandbox: sandbox.clone(),
            from,
            to,
        };
        match self.client.call(request, &[], REMOVAL).await? {
            (Response::SnapshotDiff(changes), _) => Ok(changes),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn volume_files(&self) -> Option<&dyn VolumeFiles> {
        Some(self)
    }

    async fn connect(&self, sandbox: &SandboxRef, endpoint: Endpoint) -> Result<BoxConnection> {
        match endpoint {
            Endpoint::Control => match self.sockets.connect(&sandbox.resource).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(not_running().because(error)),
            },
            Endpoint::Port(port) => self.dial(sandbox, port).await,
        }
    }

    fn changes(&self) -> BoxStream<Requeue> {
        let pushes = BroadcastStream::new(self.client.pushes());
        Box::pin(pushes.filter_map(async |push| match push {
            Ok(Push::Exited { sandbox, .. }) => Some(Requeue::Sandbox(sandbox)),
            // The next connection starts it again.
            Ok(Push::DatabaseExited(_) | Push::Busy) => None,
            Ok(Push::WorkerStarted | Push::Failed(_)) | Err(BroadcastStreamRecvError::Lagged(_)) => {
                Some(Requeue::Everything)
            }
        }))
    }

    async fn usage(&self, sandbox: &SandboxRef) -> Result<Usage> {
        match self
            .client
            .call(
                Request::Usage {
                    sandbox: sandbox.clone(),
                },
                &[],
                QUICK,
            )
            .await?
        {
            (Response::Usage(usage), _) => Ok(usage),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn storage_pool(&self) -> Option<StoragePoolStatus> {
        *self.storage_pool.lock()
    }

    async fn disk(&self, sandbox: &SandboxRef) -> Result<Option<u64>> {
        Ok(Some(self.usage(sandbox).await?.disk_bytes))
    }

    async fn inventory(&self) -> Result<Vec<SandboxRef>> {
        match self.client.call(Request::Inventory, &[], QUICK).await? {
            (Response::Inventory { sandboxes }, _) => Ok(sandboxes),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn images(&self) -> Result<Vec<ImageInfo>> {
        self.images.list().map_err(DriverError::from)
    }

    async fn stored_image(&self, image: &Image) -> Result<Option<String>> {
        Ok(self.images.stored_name(image))
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        self.images.remove(name).map_err(DriverError::from)
    }

    async fn import_image(&self, name: &str, archive: BoxStream<io::Result<Bytes>>) -> Result<ImageInfo> {
        self.images
            .import(name, archive.into_stream())
            .await
            .map_err(DriverError::from)
    }

    async fn check_image(&self, spec: &SandboxSpec) -> Result<()> {
        self.images.check(&spec.image).await.map_err(DriverError::from)
    }
}

impl LocalDriver {
    async fn stop_locked(&self, sandbox: &SandboxRef) -> Result<()> {
        let grace_millis = u64::try_from(self.stop_grace.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Stop {
            sandbox: sandbox.clone(),
            grace_millis,
        };
        let stopped = self.client.done(request, &[], self.stop_grace + QUICK).await;
        self.unbind(sandbox).await?;
        stopped
    }

    async fn observe_sandbox(&self, sandbox: &SandboxRef) -> Result<ObservedSandbox> {
        match self
            .client
            .call(
                Request::Observe {
                    sandbox: sandbox.clone(),
                },
                &[],
                QUICK,
            )
            .await?
        {
            (Response::Observed(observed), _) => Ok(*observed),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Whether the database proxy listens in the sandbox; true if there is no proxy.
    async fn is_bound(&self, sandbox: &SandboxRef) -> Result<bool> {
        match &self.database_proxy {
            Some(proxy) => proxy.is_bound(&sandbox.resource).await.map_err(DriverError::from),
            None => Ok(true),
        }
    }

    /// Creates the network and binds the database proxy in it. The runner completes requests even if this future is
    /// dropped, and runs them in parallel, so the lock is held until its response, before a destroy.
    async fn make_network(&self, lock: KeyedMutexGuard, spec: &SandboxSpec) -> Result<KeyedMutexGuard> {
        let request = Request::EnsureNetwork {
            sandbox: spec.sandbox.clone(),
        };
        let client = Arc::clone(&self.client);
        let made = tokio::spawn(async move { (client.call(request, &[], QUICK).await, lock) });
        let (made, lock) = made.await.map_err(|error| {
            DriverError::new(FailureKind::Internal, "the task that makes a network failed").because(error)
        })?;
        match made? {
            (Response::Network { .. }, _) => {}
            (other, _) => return Err(unexpected(&other)),
        }
        let (Some(database_proxy), Some(role)) = (&self.database_proxy, &spec.database_role) else {
            return Ok(lock);
        };
        let resource = &spec.sandbox.resource;
        let request = Request::BindDatabaseProxy {
            sandbox: spec.sandbox.clone(),
        };
        let (answer, mut descriptors) = match self.client.call(request, &[], QUICK).await {
            Ok(answered) => answered,
            // The database proxy keeps running after a runner, and may listen already.
            Err(error) if error.failure.kind == FailureKind::Input => {
                let bound = database_proxy
                    .is_bound(resource)
                    .await
                    .map_err(DriverError::from)?;
                return if bound { Ok(lock) } else { Err(error) };
            }
            Err(error) => return Err(error),
        };
        match (answer, descriptors.pop()) {
            (Response::DatabaseProxy, Some(listener)) => database_proxy
                .bind(resource, spec.sandbox.volume, role, listener)
                .await
                .map(|()| lock)
                .map_err(DriverError::from),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn unbind(&self, sandbox: &SandboxRef) -> Result<()> {
        match &self.database_proxy {
            Some(database_proxy) => database_proxy
                .unbind(&sandbox.resource)
                .await
                .map_err(DriverError::from),
            None => Ok(()),
        }
    }

    /// Tries the sandbox's loopback, IPv4 and IPv6, and then its address on the veth pair.
    async fn dial(&self, sandbox: &SandboxRef, port: u16) -> Result<BoxConnection> {
        let request = Request::Dial {
            sandbox: sandbox.clone(),
        };
        let (address, sockets) = match self.client.call(request, &[], QUICK).await? {
            (Response::Sockets { address }, sockets) => (address, sockets),
            (other, _) => return Err(unexpected(&other)),
        };
        let mut sockets = sockets.into_iter();
        let (first, second, third) = (sockets.next(), sockets.next(), sockets.next());
        let attempts: [(Option<OwnedFd>, SocketAddr); 3] = [
            (first, (Ipv4Addr::LOCALHOST, port).into()),
            (third, (std::net::Ipv6Addr::LOCALHOST, port).into()),
            (
                second.filter(|_| address.is_some()),
                (address.unwrap_or(Ipv4Addr::LOCALHOST), port).into(),
            ),
        ];
        let mut refused = None;
        for (socket, to) in attempts {
            let Some(socket) = socket else {
                continue;
            };
            let socket = TcpSocket::from_std_stream(TcpStream::from(socket));
            match tokio::time::timeout(CONNECT, socket.connect(to)).await {
                Ok(Ok(stream)) => return Ok(Box::new(stream)),
                Ok(Err(error)) => refused = Some(error),
                Err(_) => refused = Some(io::ErrorKind::TimedOut.into()),
            }
        }
        let error = DriverError::new(
            FailureKind::Transient,
            format!(
                "nothing in the sandbox listens on port {port}; start the application, or give it more time"
            ),
        );
        Err(match refused {
            Some(cause) => error.because(cause),
            None => error,
        })
    }
}

/// The failure of a sandbox that ended without a stop.
fn failure_of_exit(how: ExitCause) -> Option<Failure> {
    match how {
        ExitCause::Stopped | ExitCause::Unseen => None,
        ExitCause::OutOfMemory(limit) => Some(Failure::new(
            FailureKind::Input,
            format!(
                "the sandbox used more than its {limit} MiB of memory and was ended by the kernel; choose a larger \
                 size or a smaller program"
            ),
        )),
        ExitCause::Exited(code) => Some(Failure::new(
            FailureKind::Transient,
            format!("the sandbox's first process exited (code {code}); the sandbox is restarted"),
        )),
        ExitCause::Signaled(signal) => Some(Failure::new(
            FailureKind::Transient,
            format!("the sandbox's first process was killed by signal {signal}; the sandbox is restarted"),
        )),
    }
}

fn not_running() -> DriverError {
    DriverError::new(FailureKind::Transient, "the sandbox does not run; start it first")
}
