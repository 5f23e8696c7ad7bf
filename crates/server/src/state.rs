//! What every part of a running server shares.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fsa_driver::Regions;
use fsa_model::environment::Environment;
use url::Url;

use crate::{auth::seal::Sealer, store::Store};

/// The parts of a running server. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub store: Store,
    pub regions: Regions,
    pub sealer: Sealer,
    pub settings: Arc<Settings>,
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
    /// Error answers carry their chain of causes.
    pub development: bool,
    /// How long a drain waits for requests and streams before it ends them.
    pub drain: Duration,
    /// The version that /healthz tells.
    pub version: &'static str,
}
