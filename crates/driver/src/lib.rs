//! Driver and databases: the two traits of a data plane, which hide from the reconciler which one it is.
//!
//! A *region* is a named, configured [`Driver`] with its [`Databases`]. A driver's operations are idempotent, and safe
//! to repeat after a crash in the middle: what is done already is left as it is.
//! The crate `fsa-driver-testing` has an in-memory driver for tests, and the suite that every driver passes.

#![forbid(unsafe_code)]

pub mod keyed_mutex;
pub mod region;
pub mod scram;

use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use fsa_model::{
    ContainerState, DatabaseSpec, Failure, FailureKind, ProjectId, ResourceName, SandboxRef, SandboxSpec,
    api::ImageInfo, sandboxd::Usage, spec::Credentials,
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

/// A stream that owns what it needs.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// Where a connection into a sandbox leads.
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

/// The observed state of a sandbox. What cannot be observed is an error of `observe`, never a guess.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub container: ContainerState,
    /// [`SandboxSpec::digest`] of the spec that the container was started with.
    pub digest: Option<String>,
    /// It can reach, and be reached, as its spec says (interface, routes, the database proxy).
    pub network: bool,
    /// What the data plane reports to be wrong, if it reports anything (killed for memory, image
    /// cannot be pulled, no node has room).
    pub failure: Option<Failure>,
    /// Whether the project's home volume exists.
    pub volume: bool,
}

/// The observed state of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ObservedDatabase {
    #[default]
    Absent,
    /// Part of it exists, or it does not take connections yet.
    Partial,
    Ready,
}

/// What a driver can do, and which limits it can enforce here.
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
    /// sandboxd takes connections as soon as its container runs, so that a refused one means that it has ended.
    pub listens_at_start: bool,
    /// Others do its work, so that waiting for it costs this machine next to nothing.
    pub works_elsewhere: bool,
}

/// A request to observe again, because something may have changed. Losing one may only cost time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requeue {
    Sandbox(SandboxRef),
    /// Every sandbox of this project, such as after a change of its database.
    Project(ProjectId),
    /// Too much has changed to name it.
    Everything,
    /// The data plane answers again after an outage: what failed because of it need not wait any longer.
    Answers,
}

/// A report of the data plane on which the sandbox's owner may have to act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub sandbox: SandboxRef,
    /// The object that it is about, such as one pod. Warnings are deduplicated by source and cause, and counted.
    pub source: String,
    /// A stable word for programs.
    pub cause: &'static str,
    pub failure: Failure,
    /// How often it was reported until now.
    pub count: u32,
}

/// An endpoint outside of the gateway, such as an ingress controller's, that serves a port of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalEndpoint {
    /// The host name, without a port, in lower case.
    pub host: String,
    /// It is served over https only.
    pub secure: bool,
}

/// Requests of one kind to a data plane's API, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// As that API names it, such as `patch`.
    pub verb: &'static str,
    /// Such as `deployments`.
    pub resource: String,
    /// Since this process began.
    pub count: u64,
}

/// A data plane.
#[async_trait]
pub trait Driver: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// Observes the sandbox, changing nothing.
    async fn observe(&self, sandbox: &SandboxRef) -> Result<Observed>;

    /// Makes the sandbox's network: interface, address, routes and the way to the database; or Service, routes from
    /// outside and NetworkPolicy. Called before each start, and for a sandbox that runs and lost it. Idempotent.
    async fn ensure_network(&self, spec: &SandboxSpec) -> Result<()>;

    /// Starts the sandbox: image, root file system, home volume, process 1. Replaces a container whose digest is not
    /// the spec's; its network is there afterwards, even where the replaced one took it along. The caller has made
    /// the network before ([`Self::ensure_network`]). Idempotent.
    async fn ensure_container(&self, spec: &SandboxSpec) -> Result<()>;

    /// Returns when what leads to the sandbox from outside, such as a Service, sends requests to it, or after a
    /// bounded time. Called when its sandboxd is ready.
    async fn await_serving(&self, _sandbox: &SandboxRef) -> Result<()> {
        Ok(())
    }

    /// Ends the sandbox's processes and keeps its files. Idempotent.
    async fn stop(&self, sandbox: &SandboxRef) -> Result<()>;

    /// Removes everything of this sandbox, and nothing else; its project's volume and database
    /// stay. Idempotent.
    async fn destroy(&self, sandbox: &SandboxRef) -> Result<()>;

    /// Removes the project's home volume. Idempotent.
    async fn remove_volume(&self, project: ProjectId) -> Result<()>;

    /// Opens a connection into the sandbox.
    async fn connect(&self, sandbox: &SandboxRef, endpoint: Endpoint) -> Result<BoxConnection>;

    /// Changes that the data plane notifies of. The stream ends only with the driver.
    fn changes(&self) -> BoxStream<Requeue>;

    /// Warnings of the data plane, beginning with those that stand already: the subscriber deduplicates. The stream
    /// ends only with the driver.
    fn warnings(&self) -> BoxStream<Warning> {
        Box::pin(futures_util::stream::pending())
    }

    async fn usage(&self, sandbox: &SandboxRef) -> Result<Usage>;

    /// Bytes on disk of the sandbox and its project's home volume, whether it runs or not; `None`
    /// where they cannot be measured.
    async fn disk(&self, _sandbox: &SandboxRef) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Every sandbox of ours of which anything is in the data plane, so that leftovers are found.
    async fn inventory(&self) -> Result<Vec<SandboxRef>>;

    /// The images that are stored here.
    async fn images(&self) -> Result<Vec<ImageInfo>>;

    /// Imports an OCI archive (a tar of an OCI layout, or one of `docker save`) under `name`.
    /// A broken archive leaves nothing behind.
    async fn import_image(&self, name: &str, archive: BoxStream<std::io::Result<Bytes>>)
    -> Result<ImageInfo>;

    /// Checks that `spec`'s image exists, so that a missing one is reported before a start waits for it.
    async fn check_image(&self, spec: &SandboxSpec) -> Result<()>;

    /// The endpoint outside of the gateway that leads to this port. It requires our sign-in.
    fn external_endpoint(&self, _sandbox: &SandboxRef, _port: u16) -> Option<ExternalEndpoint> {
        None
    }

    /// Requests to the data plane's API so far, where they are a load on others.
    fn calls(&self) -> Vec<Calls> {
        Vec::new()
    }

    /// The token that opens the terminal's port, and nothing else, at its [`Self::external_endpoint`].
    async fn terminal_token(&self, _sandbox: &SandboxRef) -> Result<SecretString> {
        Err(DriverError::new(
            FailureKind::Input,
            "terminals of this region are reached through the gateway alone",
        ))
    }
}

/// The project databases of a region.
#[async_trait]
pub trait Databases: Send + Sync {
    /// `local`, `kubeblocks`, `postgres` or `memory`: what the API calls the provider.
    fn provider(&self) -> &'static str;

    async fn observe(&self, database: &DatabaseSpec) -> Result<ObservedDatabase>;

    /// Creates role and database, and returns when they take connections. Idempotent.
    async fn ensure(&self, database: &DatabaseSpec) -> Result<()>;

    /// How a program in the project's sandbox reaches it. With [`Self::known_ahead`] also before the database
    /// exists.
    async fn credentials(&self, database: &DatabaseSpec) -> Result<Credentials>;

    /// Whether [`Self::credentials`] are known before [`Self::ensure`], so that container and
    /// database can be created in parallel.
    fn known_ahead(&self) -> bool;

    /// Removes role and database. Idempotent.
    async fn drop(&self, database: &DatabaseSpec) -> Result<()>;

    /// Creates `to` as a copy of `from` at this moment.
    async fn branch(&self, from: &DatabaseSpec, to: &DatabaseSpec) -> Result<()>;

    /// Bytes on disk of the database; `None` where it does not exist or they cannot be measured.
    async fn disk(&self, _resource: &ResourceName) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Changes that the databases notify of. The stream ends only with them.
    fn changes(&self) -> BoxStream<Requeue> {
        Box::pin(futures_util::stream::pending())
    }

    /// Every database of ours, by the name of its role.
    async fn inventory(&self) -> Result<Vec<String>>;
}

/// A shared driver.
pub type SharedDriver = Arc<dyn Driver>;
/// Shared databases.
pub type SharedDatabases = Arc<dyn Databases>;
