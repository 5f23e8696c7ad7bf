//! What every part of a running server shares.

use std::{net::IpAddr, net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use fsa_driver::Regions;
use fsa_model::{environment::Environment, system::Check};
use futures_util::future::BoxFuture;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

pub use crate::settings::Limits;
use crate::{
    api::metrics::Metrics,
    auth::{credential_cache::Memory, login_throttle::Attempts, rate_limit::Rates},
    encryption::KeyRing,
    gateway::Gateway,
    git_credentials,
    github::{self, Github},
    llm_proxy::{self, Agents},
    regions::Health,
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
    /// Who waits for something to change is woken here.
    pub hub: Hub,
    pub metrics: Metrics,
    /// Cancelled when the server begins to drain: streams and WebSockets end themselves,
    /// requests and workers finish what they do.
    pub shutdown: CancellationToken,
    /// The way to what sandboxes serve, with what it remembers.
    pub gateway: Gateway,
    pub agents: Agents,
    /// Who may know the credential of a repository, in the order in which they are asked.
    pub git: Vec<Box<dyn git_credentials::Source>>,
    /// Work that outlives its request (a WebSocket after its upgrade): a drain waits for it.
    pub tasks: TaskTracker,
    /// The way to GitHub, where it is set up.
    pub(crate) github: Option<Github>,
    pub(crate) credentials: Arc<Memory>,
    pub(crate) attempts: Attempts,
    pub(crate) rates: Rates,
    pub(crate) health: Health,
}

/// What the person who runs the server decided.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    /// The main host's origin, such as `http://localhost:8080`: the API and the page live there.
    pub origin: Url,
    /// The domain under which `{project}--{port}` host names live, such as `localhost`.
    pub apps_domain: String,
    /// From `.secret/.env`: the agent's credentials, the first layer of every sandbox's environment.
    pub agent_environment: Environment,
    pub agents: llm_proxy::Options,
    /// Error answers carry their chain of causes.
    pub development: bool,
    /// How long a drain waits for requests and streams before it ends them.
    pub drain: Duration,
    /// The version that /healthz tells.
    pub version: &'static str,
    /// The login of the first owner.
    pub owner_login: String,
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    pub limits: Limits,
    /// The web application, where the binary brings one; without it `/` is a plain page.
    pub web: Option<crate::api::web::Files>,
    /// Sign-in with GitHub, where it is set up.
    pub github: Option<github::Settings>,
    /// What the doctor looks at while the server runs.
    pub checks: Checks,
}

/// Looks at what the server stands on. The one who put the server together knows how.
#[derive(Clone, Default)]
pub struct Checks(Option<Arc<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>>);

impl Checks {
    #[must_use]
    pub fn new<F, R>(look: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Vec<Check>> + Send + 'static,
    {
        Self(Some(Arc::new(move || Box::pin(look()))))
    }

    pub(crate) async fn run(&self) -> Vec<Check> {
        match &self.0 {
            Some(look) => look().await,
            None => Vec::new(),
        }
    }
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checks")
    }
}

impl App {
    /// Puts the parts together, and starts to listen for what other processes change. Needs a
    /// Tokio runtime; ends with `shutdown`.
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

impl Settings {
    /// Whether people reach the main host by https, so that cookies may insist on it.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.origin.scheme() == "https"
    }

    /// `http(s)://{label}.{apps domain}[:port]`: where a port of a sandbox is reached.
    #[must_use]
    pub fn app_url(&self, label: &str) -> String {
        let scheme = self.origin.scheme();
        let port = self
            .origin
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        format!("{scheme}://{label}.{}{port}", self.apps_domain)
    }

    /// The origin as browsers write it: scheme, host and port, without a slash at its end.
    #[must_use]
    pub fn origin_text(&self) -> String {
        self.origin.origin().ascii_serialization()
    }
}
