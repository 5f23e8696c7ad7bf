//! Traits of a data plane, [`Driver`] and [`Databases`]: the same for one machine and for a cluster.
//!
//! A *region* is a named, configured [`Driver`] with its [`Databases`]. A driver's operations are idempotent, and safe
//! to repeat after a crash. The crate `fsa-driver-testing` has an in-memory driver for tests, and the conformance suite
//! that every driver must pass.

#![forbid(unsafe_code)]

pub mod backup;
pub mod keyed_mutex;
pub mod own_addresses;
pub mod region;
pub mod scram;

use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use fsa_model::{
    ContainerState, DatabaseSpec, Failure, FailureKind, Image, ProjectId, ResourceName, SandboxRef,
    SandboxSpec, SnapshotId, VolumeId,
    api::ImageInfo,
    condition::ImageProgress,
    database_diff::DatabaseChanges,
    sandboxd::Usage,
    snapshot::{FileChanges, SnapshotContent},
    spec::Credentials,
};
use futures_util::Stream;
pub use region::{Region, Regions};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection into a sandbox.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A [`Connection`] of any kind.
pub type BoxConnection = Box<dyn Connection>;

/// A boxed stream without borrows.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// The target of a connection into a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// sandboxd's control interface.
    Control,
    /// The program that listens on this port, on the sandbox's loopback or another of its addresses.
    Port(u16),
}

/// Why an operation of a driver failed.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct DriverError {
    /// For people: what failed, why, what to do.
    pub failure: Failure,
    /// For the log: the chain of causes.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of a driver's operation.
pub type Result<T> = std::result::Result<T, DriverError>;

impl DriverError {
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            failure: Failure::new(kind, message),
            cause: None,
        }
    }

    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}

impl From<Failure> for DriverError {
    fn from(failure: Failure) -> Self {
        Self { failure, cause: None }
    }
}

/// The observed state of a sandbox. If a part cannot be observed, `observe` fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub container: ContainerState,
    /// [`SandboxSpec::digest`] of the spec that the container was started with.
    pub digest: Option<String>,
    /// The network of the spec exists (interface, routes, the database proxy).
    pub network: bool,
    /// A failure that the data plane reports (killed for memory, image cannot be pulled, no node has room).
    pub failure: Option<Failure>,
    /// Whether the project's home volume exists.
    pub volume: bool,
}

/// The observed state of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ObservedDatabase {
    #[default]
    Absent,
    /// A part of it exists, or it does not accept connections yet.
    Partial,
    Ready,
}

/// Features of a driver, and the limits that it enforces in this environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `local`, `kubernetes` or `memory`.
    pub driver: &'static str,
    pub enforces_memory: bool,
    pub enforces_cpu: bool,
    pub enforces_pids: bool,
    pub isolates_network: bool,
    /// Images can be imported from an archive ([`Driver::import_image`]).
    pub imports_images: bool,
    /// Files outside the home survive a stop and a new spec.
    pub keeps_root_files: bool,
    /// The data plane itself restarts a sandbox whose process 1 ends.
    pub restarts_by_itself: bool,
    /// sandboxd accepts connections as soon as its container runs: a refused one means that it has ended.
    pub listens_at_start: bool,
    /// Snapshots of volumes can be taken and restored ([`Driver::create_snapshot`]).
    pub snapshots: bool,
    /// A snapshot shares with its volume what does not change: it takes no time, and no space of its own.
    pub shares_snapshots: bool,
    /// Other machines do the work, so that a step that waits for it uses almost no resources here.
    pub is_remote: bool,
}

/// A request to observe again, because something may have changed. A lost one delays the observation and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requeue {
    Sandbox(SandboxRef),
    /// Every sandbox of this project, such as after a change of its database.
    Project(ProjectId),
    /// All sandboxes of the region, such as after lost notifications.
    Everything,
    /// The data plane is available again after an outage: sandboxes that failed because of it skip their backoff.
    Recovered,
}

/// A report of the data plane on which the sandbox's owner may have to act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub sandbox: SandboxRef,
    /// The object that reported it, such as one pod. Warnings are deduplicated by source and cause, and counted.
    pub source: String,
    /// A stable identifier for programs.
    pub cause: &'static str,
    pub failure: Failure,
    /// Number of reports so far.
    pub count: u32,
}

/// An endpoint outside of the gateway, such as an ingress controller's, that serves a port of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalEndpoint {
    /// The host name, without a port, in lower case.
    pub host: String,
    /// It is served over https and not over http.
    pub secure: bool,
}

/// Number of requests of one kind to a data plane's API, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestCount {
    /// In the API's terms, such as `patch`.
    pub verb: &'static str,
    /// Such as `deployments`.
    pub resource: String,
    /// Since this process started.
    pub count: u64,
}

fn no_snapshots() -> DriverError {
    DriverError::new(
        FailureKind::Input,
        "this region has no snapshots; create the project in a region of the local driver to use them",
    )
}

/// A data plane.
#[async_trait]
pub trait Driver: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// Observes the sandbox. Changes nothing.
    async fn observe(&self, sandbox: &SandboxRef) -> Result<Observed>;

    /// Creates the sandbox's network: interface, address, routes and database proxy, or Service, Ingress and
    /// NetworkPolicy. Called before each start, and for a running sandbox that has lost its network. Idempotent.
    async fn ensure_network(&self, spec: &SandboxSpec) -> Result<()>;

    /// Starts the sandbox: image, root file system, home volume, process 1. Replaces a container whose digest is not
    /// the spec's, and restores the network if that ended with the replaced container. The caller has created the
    /// network before ([`Self::ensure_network`]). Idempotent.
    async fn ensure_container(&self, spec: &SandboxSpec) -> Result<()>;

    /// How far an image is that a container of this driver waits for; `None` if it waits for none, or the driver does not
    /// know.
    fn image_progress(&self, _image: &Image) -> Option<ImageProgress> {
        None
    }

    /// Returns when load balancers, such as a Service, send requests to the sandbox, or after a bounded time. Called
    /// when its sandboxd is ready.
    async fn await_serving(&self, _sandbox: &SandboxRef) -> Result<()> {
        Ok(())
    }

    /// Ends the sandbox's processes and keeps its files. Idempotent.
    async fn stop(&self, sandbox: &SandboxRef) -> Result<()>;

    /// Removes everything of this sandbox. Its volume and database stay. Idempotent.
    async fn destroy(&self, sandbox: &SandboxRef) -> Result<()>;

    /// Removes a volume, which no sandbox uses any more. Idempotent.
    async fn remove_volume(&self, volume: VolumeId) -> Result<()>;

    /// Takes a snapshot of the sandbox's volume, of one instant while its processes run. A snapshot of this id that
    /// exists already is kept as it is. An interrupted call leaves nothing that counts as a snapshot.
    async fn create_snapshot(&self, _sandbox: &SandboxRef, _snapshot: SnapshotId) -> Result<SnapshotContent> {
        Err(no_snapshots())
    }

    /// Deletes a snapshot. Idempotent.
    async fn delete_snapshot(&self, _volume: VolumeId, _snapshot: SnapshotId) -> Result<()> {
        Err(no_snapshots())
    }

    /// Replaces the content of the sandbox's volume with that of a snapshot of the volume `from`: the same one, or one of
    /// another branch. The sandbox must not run, and nothing may use
    /// the volume's database ([`Databases::release`]). After an interruption the volume has the one content or the
    /// other, never a mixture. Idempotent.
    async fn restore_snapshot(
        &self,
        _sandbox: &SandboxRef,
        _from: VolumeId,
        _snapshot: SnapshotId,
    ) -> Result<()> {
        Err(no_snapshots())
    }

    /// Makes the sandbox's volume as a copy of a snapshot of another volume, `from`. A volume that exists is kept. After
    /// an interruption there is the whole volume or none. Idempotent.
    async fn clone_snapshot(
        &self,
        _from: VolumeId,
        _snapshot: SnapshotId,
        _sandbox: &SandboxRef,
    ) -> Result<()> {
        Err(no_snapshots())
    }

    /// The snapshots of a volume.
    async fn snapshots(&self, _volume: VolumeId) -> Result<Vec<SnapshotId>> {
        Ok(Vec::new())
    }

    /// Bytes on disk that a deletion of the snapshot frees; `None` if they cannot be measured.
    async fn snapshot_bytes(&self, _volume: VolumeId, _snapshot: SnapshotId) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Whether the volume has changed since a snapshot of it. True where that is not known without reading everything.
    async fn changed_since(&self, _sandbox: &SandboxRef, _snapshot: SnapshotId) -> Result<bool> {
        Ok(true)
    }

    /// A file of a snapshot, or of the sandbox as it is now, by its absolute path in the sandbox. No link is followed,
    /// and files of the image are absent.
    async fn snapshot_file(
        &self,
        _sandbox: &SandboxRef,
        _snapshot: Option<SnapshotId>,
        _path: &[u8],
        _bytes_max: u64,
    ) -> Result<SnapshotFile> {
        Err(no_snapshots())
    }

    /// The differences between the files of a snapshot and of a later one, or of the sandbox as it is now.
    async fn diff_snapshot(
        &self,
        _sandbox: &SandboxRef,
        _from: SnapshotId,
        _to: Option<SnapshotId>,
    ) -> Result<FileChanges> {
        Err(no_snapshots())
    }

    /// What backups need, where the driver has it.
    fn volume_files(&self) -> Option<&dyn backup::VolumeFiles> {
        None
    }

    /// Opens a connection into the sandbox.
    async fn connect(&self, sandbox: &SandboxRef, endpoint: Endpoint) -> Result<BoxConnection>;

    /// Notifications of changes in the data plane. The stream ends when the driver is dropped.
    fn changes(&self) -> BoxStream<Requeue>;

    /// Warnings of the data plane, beginning with the current ones; the subscriber deduplicates them. The stream ends
    /// when the driver is dropped.
    fn warnings(&self) -> BoxStream<Warning> {
        Box::pin(futures_util::stream::pending())
    }

    async fn usage(&self, sandbox: &SandboxRef) -> Result<Usage>;

    /// Bytes on disk of the sandbox, running or not, and of its project's home volume; `None` if they cannot be
    /// measured.
    async fn disk(&self, _sandbox: &SandboxRef) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Every sandbox of this installation with at least one object in the data plane, to find orphans.
    async fn inventory(&self) -> Result<Vec<SandboxRef>>;

    /// The images that the data plane stores.
    async fn images(&self) -> Result<Vec<ImageInfo>>;

    /// Imports an OCI archive (a tar of an OCI layout, or one of `docker save`) under `name`.
    /// A broken archive leaves nothing behind.
    async fn import_image(&self, name: &str, archive: BoxStream<std::io::Result<Bytes>>)
    -> Result<ImageInfo>;

    /// The name in [`Self::images`] of what a sandbox of `image` starts from; `None` if nothing stored here.
    async fn stored_image(&self, _image: &Image) -> Result<Option<String>> {
        Ok(None)
    }

    /// Removes a stored image by its name in [`Self::images`]. Its files follow once no sandbox needs them.
    async fn remove_image(&self, name: &str) -> Result<()> {
        Err(DriverError::new(
            FailureKind::Input,
            format!("this region has no image {name:?}"),
        ))
    }

    /// Checks that the spec's image exists, to report a missing one before the start.
    async fn check_image(&self, spec: &SandboxSpec) -> Result<()>;

    /// The endpoint outside of the gateway for this port. It requires our sign-in.
    fn external_endpoint(&self, _sandbox: &SandboxRef, _port: u16) -> Option<ExternalEndpoint> {
        None
    }

    /// Size and fill of the storage that the volumes share, as last measured; `None` where they share none, or the
    /// driver cannot measure it.
    fn storage_pool(&self) -> Option<StoragePoolStatus> {
        None
    }

    /// Number of requests to the data plane's API so far, by kind; empty for a driver without such an API.
    fn request_counts(&self) -> Vec<RequestCount> {
        Vec::new()
    }

    /// The token for the terminal's port at its [`Self::external_endpoint`]. It is valid for nothing else.
    async fn terminal_token(&self, _sandbox: &SandboxRef) -> Result<SecretString> {
        Err(DriverError::new(
            FailureKind::Input,
            "terminals of this region are available through the gateway only",
        ))
    }
}

/// A file in a snapshot ([`Driver::snapshot_file`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotFile {
    Absent,
    /// A folder, a link, a device.
    NotRegular,
    TooLarge,
    Content(Vec<u8>),
}

/// The database in a snapshot of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseSnapshot {
    pub volume: VolumeId,
    pub snapshot: SnapshotId,
}

/// The project databases of a region.
#[async_trait]
pub trait Databases: Send + Sync {
    /// The API's `provider`: `local`, `kubeblocks`, `postgres` or `memory`.
    fn provider(&self) -> &'static str;

    async fn observe(&self, database: &DatabaseSpec) -> Result<ObservedDatabase>;

    /// Creates role and database, and returns when they accept connections. Idempotent.
    async fn ensure(&self, database: &DatabaseSpec) -> Result<()>;

    /// Host, port and credentials for programs in the project's sandbox. With [`Self::predictable_credentials`] also
    /// before the database exists.
    async fn credentials(&self, database: &DatabaseSpec) -> Result<Credentials>;

    /// Whether [`Self::credentials`] are known before [`Self::ensure`], so that container and
    /// database can be created in parallel.
    fn predictable_credentials(&self) -> bool;

    /// Removes role and database. Idempotent.
    async fn drop(&self, database: &DatabaseSpec) -> Result<()>;

    /// Creates `to` as a copy of `from` at this moment.
    async fn branch(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()>;

    /// Whether a database is on the volume of its branch, so that a copy of the volume is a copy of the database.
    fn are_on_volumes(&self) -> bool {
        false
    }

    /// Prepares for a snapshot of the volume: if the database's server runs with its files in the volume, it writes a
    /// checkpoint, so that a restored database is ready sooner.
    async fn checkpoint(&self, _database: &DatabaseSpec) -> Result<()> {
        Ok(())
    }

    /// Ends everything that uses the database's files in the volume, before the volume is replaced. The next use starts
    /// the server again.
    async fn release(&self, _database: &DatabaseSpec) -> Result<()> {
        Ok(())
    }

    /// Dumps for backups, where the provider has them.
    fn dumps(&self) -> Option<&dyn backup::DatabaseDumps> {
        None
    }

    /// Compares the databases in two snapshots of one project, in copies that are thrown away: the project is not
    /// disturbed. It takes some minutes at most. A call that is dropped leaves copies until the next start.
    async fn compare(&self, _before: DatabaseSnapshot, _after: DatabaseSnapshot) -> Result<DatabaseChanges> {
        Err(DriverError::new(
            FailureKind::Input,
            "the databases of this region are not in snapshots, so they cannot be compared",
        ))
    }

    /// Bytes on disk of the database; `None` if it does not exist or they cannot be measured.
    async fn disk(&self, _resource: &ResourceName) -> Result<Option<u64>> {
        Ok(None)
    }

    /// The end of the log of the database's own server; `None` where it has none, or shares one with other projects.
    async fn log(&self, _volume: VolumeId) -> Result<Option<String>> {
        Ok(None)
    }

    /// Numbers of database servers, for metrics; `None` where they are not the driver's.
    fn server_counts(&self) -> Option<ServerCounts> {
        None
    }

    /// Notifications of changes of databases. The stream ends when the value is dropped.
    fn changes(&self) -> BoxStream<Requeue> {
        Box::pin(futures_util::stream::pending())
    }

    /// Every database of this installation, by the name of its role.
    async fn inventory(&self) -> Result<Vec<String>>;
}

/// Size and fill of a region's storage pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoragePoolStatus {
    pub size_bytes: u64,
    /// What files may still fill.
    pub free_bytes: u64,
    /// Used by metadata: names, attributes, small files. 0 where it is not counted.
    pub metadata_bytes: u64,
    /// So full that nothing is started.
    pub full: bool,
    /// Errors of its devices since they were made; 0 where they are not counted.
    pub device_errors: u64,
}

/// Numbers of database servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// As last observed.
    pub running: u64,
    /// Since the start of this process.
    pub starts: u64,
    /// Of idle servers, since the start of this process.
    pub stops: u64,
}

/// A shared driver.
pub type SharedDriver = Arc<dyn Driver>;
/// Shared databases.
pub type SharedDatabases = Arc<dyn Databases>;
