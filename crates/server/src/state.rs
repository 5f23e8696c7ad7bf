//! Shared state of a running server.

use std::{ops::Deref, sync::Arc};

use fsa_driver::Regions;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::{credential_cache::Memory, login_throttle::Attempts, rate_limit::Rates},
    encryption::KeyRing,
    gateway::Gateway,
    git_credentials,
    github::{self, Github},
    llm_proxy::Agents,
    metrics::Metrics,
    regions::Health,
    settings::Settings,
    store::{Store, notify::Hub},
};

/// The parts of a running server. Cheap to clone; its fields are those of [`Parts`].
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// See [`App`].
pub struct Parts {
    pub store: Store,
    pub regions: Regions,
    pub key_ring: KeyRing,
    pub settings: Settings,
    /// Wakes the tasks that wait for a change.
    pub hub: Hub,
    pub metrics: Metrics,
    /// Cancelled when the server starts to drain: streams and WebSockets end themselves, requests and workers
    /// finish their work.
    pub shutdown: CancellationToken,
    /// The gateway to the ports of sandboxes, with its caches.
    pub gateway: Gateway,
    pub agents: Agents,
    /// The sources of git credentials, in the order in which they are tried.
    pub git: Vec<Box<dyn git_credentials::Source>>,
    /// Work that outlives its request (a WebSocket after its upgrade): a drain waits for it.
    pub tasks: TaskTracker,
    /// The GitHub client, if configured.
    pub(crate) github: Option<Github>,
    pub(crate) credentials: Arc<Memory>,
    pub(crate) attempts: Attempts,
    pub(crate) rates: Rates,
    pub(crate) health: Health,
}

impl App {
    /// Assembles the parts, and starts to watch for changes by other processes. Needs a Tokio runtime; ends
    /// with `shutdown`.
    #[must_use]
    pub fn new(store: Store, regions: Regions, key_ring: KeyRing, settings: Settings) -> Self {
        let shutdown = CancellationToken::new();
        let agents = Agents::new(&settings.agents);
        let credentials = Arc::new(Memory::default());
        let hub = Hub::start(store.pool().clone(), shutdown.clone(), {
            let credentials = Arc::clone(&credentials);
            move |user| credentials.forget(user)
        });
        let github = settings.github.clone().map(Github::new);
        Self(Arc::new(Parts {
            metrics: Metrics::new(&regions),
            store,
            regions,
            key_ring,
            settings,
            hub,
            shutdown,
            tasks: TaskTracker::new(),
            gateway: Gateway::default(),
            agents,
            git: vec![
                Box::new(git_credentials::Stored),
                Box::new(github::credential::Linked),
            ],
            github,
            credentials,
            attempts: Attempts::new(),
            rates: Rates::default(),
            health: Health::default(),
        }))
    }
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
