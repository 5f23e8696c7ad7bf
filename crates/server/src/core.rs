//! Core, the state that all use cases share: the database, regions, keys, settings, notifications and metrics.
//!
//! Use cases take a [`Core`]; only handlers and the listener see the whole [`crate::state::App`].

use std::{ops::Deref, sync::Arc};

use fsa_driver::Regions;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    backups::Backups,
    credential_cache::CredentialCache,
    encryption::KeyRing,
    github_client::Github,
    login_throttle::LoginThrottle,
    metrics::Metrics,
    rate_limit::RateLimits,
    regions::Health,
    settings::Settings,
    store::{Store, notify::Hub},
};

/// The shared parts. Cheap to clone; its fields are those of [`Parts`].
#[derive(Clone)]
pub struct Core(Arc<Parts>);

/// See [`Core`].
pub struct Parts {
    pub store: Store,
    pub regions: Regions,
    pub key_ring: KeyRing,
    pub settings: Settings,
    /// Wakes the tasks that wait for a change.
    pub hub: Hub,
    pub metrics: Metrics,
    /// The backup repository, if configured.
    pub backups: Option<Backups>,
    /// Cancelled when the server starts to drain: streams and WebSockets end themselves, requests and workers
    /// finish their work.
    pub shutdown: CancellationToken,
    /// Work that outlives its request: a drain waits for it.
    pub tasks: TaskTracker,
    /// Upgraded connections (WebSockets, tunnels), which a drain waits for.
    pub tunnels: TaskTracker,
    /// The GitHub client, if configured.
    pub(crate) github: Option<Github>,
    pub(crate) credentials: Arc<CredentialCache>,
    pub(crate) login_throttle: LoginThrottle,
    pub(crate) rate_limits: RateLimits,
    pub(crate) health: Health,
}

impl Core {
    /// Assembles the parts, and starts to watch for changes by other processes. Needs a Tokio runtime; ends
    /// with `shutdown`.
    #[must_use]
    pub fn new(store: Store, regions: Regions, key_ring: KeyRing, settings: Settings) -> Self {
        let shutdown = CancellationToken::new();
        let credentials = Arc::new(CredentialCache::default());
        let hub = Hub::start(store.pool().clone(), shutdown.clone(), {
            let credentials = Arc::clone(&credentials);
            move |user| credentials.invalidate(user)
        });
        Self(Arc::new(Parts {
            metrics: Metrics::new(&regions),
            backups: settings.backups.as_ref().map(Backups::new),
            github: settings.github.clone().map(Github::new),
            store,
            regions,
            key_ring,
            settings,
            hub,
            shutdown,
            tasks: TaskTracker::new(),
            tunnels: TaskTracker::new(),
            credentials,
            login_throttle: LoginThrottle::new(),
            rate_limits: RateLimits::default(),
            health: Health::default(),
        }))
    }
}

impl Deref for Core {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
