//! Local driver, the unprivileged part in `fsa serve`: sends requests to the runner.
//!
//! Start it in this order: [`RunnerLink::start`] as root, [`crate::privileges::drop_privileges`],
//! a tokio runtime, [`LocalDriver::open`].

mod backup;
mod boot;
mod client;
mod layers;
mod operations;
mod snapshots;
mod sockets;
mod storage_watch;

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

pub(crate) use client::unexpected;
pub use client::{Client, RunnerLink};
use fsa_driver::{DriverError, Result, StoragePoolStatus, keyed_mutex::KeyedMutex};
use fsa_model::{FailureKind, ResourceName};
pub use layers::RunnerLayers;
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    database_proxy::DatabaseProxy,
    images::{self, Store},
    protocol::{Hello, Request, Response, StorageBackend},
    runner::{RunnerConfig, firewall, netns, resolvers},
};

/// Default time between SIGTERM and SIGKILL, enough for a development server.
const GRACE: Duration = Duration::from_secs(5);

/// Default interval of image sweeps. Layers become unused when an image is removed or replaced.
const IMAGE_SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// The settings of the local driver.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    pub runner: RunnerConfig,
    pub images: images::Settings,
    /// Time between SIGTERM and SIGKILL when a sandbox is stopped.
    pub stop_grace: Duration,
    /// Interval of sweeps, which remove image layers that no image and no sandbox needs.
    pub image_sweep_interval: Duration,
}

impl LocalConfig {
    /// The defaults for a data folder.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, sandboxd: impl Into<PathBuf>) -> Self {
        Self {
            runner: RunnerConfig::new(data_dir, sandboxd),
            images: images::Settings::default(),
            stop_grace: GRACE,
            image_sweep_interval: IMAGE_SWEEP_INTERVAL,
        }
    }
}

/// The driver for one machine.
pub struct LocalDriver {
    client: Arc<Client>,
    sockets: Arc<sockets::Sockets>,
    sandbox_locks: KeyedMutex<ResourceName>,
    images: Store,
    database_proxy: Option<Arc<dyn DatabaseProxy>>,
    hello: Hello,
    shares_snapshots: bool,
    nameservers: Vec<Ipv4Addr>,
    stop_grace: Duration,
    storage_pool: Arc<Mutex<Option<StoragePoolStatus>>>,
    _image_sweep: AbortOnDropHandle<()>,
    _storage_watch: AbortOnDropHandle<()>,
}

impl LocalDriver {
    /// Connects to a runner that was started with the same configuration. Without a database
    /// proxy, no sandbox can reach a database.
    ///
    /// # Errors
    /// The runner does not answer, or the data folder cannot be used.
    pub async fn open(
        config: LocalConfig,
        link: RunnerLink,
        database_proxy: Option<Arc<dyn DatabaseProxy>>,
    ) -> Result<Arc<Self>> {
        Self::with(config, Client::greet(link).await?, database_proxy).await
    }

    /// As [`Self::open`], with a connected runner, so that a server starts its databases only if the runner works.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn with(
        config: LocalConfig,
        client: Arc<Client>,
        database_proxy: Option<Arc<dyn DatabaseProxy>>,
    ) -> Result<Arc<Self>> {
        let unusable = |error: std::io::Error| {
            DriverError::new(
                FailureKind::Machine,
                format!(
                    "the data folder {} cannot be used ({error})",
                    config.runner.data_dir.display()
                ),
            )
        };
        let hello = client.hello().await?;
        for warning in &hello.warnings {
            tracing::warn!("{warning}");
        }
        for blocker in &hello.blockers {
            tracing::error!("{blocker}");
        }
        let shares_snapshots = client.storage().await?.backend == StorageBackend::Btrfs;
        let unpacker = Arc::new(RunnerLayers(Arc::clone(&client)));
        let images = Store::open(&config.runner.data_dir, unpacker, config.images.clone())
            .map_err(DriverError::from)?;
        let image_sweep = tokio::spawn({
            let images = images.clone();
            async move { images.sweep_periodically(config.image_sweep_interval).await }
        });
        let storage_pool = Arc::default();
        let storage_watch = tokio::spawn(storage_watch::run(Arc::clone(&client), Arc::clone(&storage_pool)));
        Ok(Arc::new(Self {
            storage_pool,
            _storage_watch: AbortOnDropHandle::new(storage_watch),
            _image_sweep: AbortOnDropHandle::new(image_sweep),
            sockets: Arc::new(sockets::Sockets::open(&config.runner.data_dir).map_err(unusable)?),
            sandbox_locks: KeyedMutex::default(),
            client,
            images,
            database_proxy,
            nameservers: nameservers(&config.runner.resolvers, hello.rootless),
            hello,
            shares_snapshots,
            stop_grace: config.stop_grace,
        }))
    }

    /// The runner's report on this machine; `blockers` and `warnings` are for `fsa doctor`.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The images that sandboxes are made from.
    #[must_use]
    pub fn image_store(&self) -> &Store {
        &self.images
    }

    /// Leftovers of this data folder's sandboxes on the machine.
    ///
    /// # Errors
    /// The runner's failure.
    pub async fn leftovers(&self) -> Result<Vec<String>> {
        match self
            .client
            .call(Request::Leftovers, &[], Duration::from_secs(60))
            .await?
        {
            (Response::Leftovers { what }, _) => Ok(what),
            (other, _) => Err(client::unexpected(&other)),
        }
    }
}

/// The name servers of a sandbox. In rootless mode no address is translated on the machine: pasta
/// forwards DNS queries, to the machine's resolver only.
fn nameservers(configured: &[Ipv4Addr], rootless: bool) -> Vec<Ipv4Addr> {
    match (rootless, configured) {
        (false, _) => firewall::nameservers(&resolvers::find(configured).addresses),
        (true, []) => vec![netns::GATEWAY],
        (true, configured) => configured.to_vec(),
    }
}
