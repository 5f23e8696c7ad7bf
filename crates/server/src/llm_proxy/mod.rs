//! Coding agents: their credentials, which stay outside of the sandboxes, the relay that puts them
//! on requests at the way out, and what the answers cost.

pub mod account;
pub mod metering;
pub mod pricing;
pub mod relay;
pub mod upstream;

use fsa_model::{
    address::Network,
    callback,
    environment::Environment,
    llm_provider::{self, Mode},
    money::Micros,
};
use secrecy::SecretString;

use self::{pricing::Prices, upstream::Upstream};

/// What the operator decided about agents.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub mode: Mode,
    pub prices: Prices,
    /// What each project may spend in a calendar month, unless it has a budget of its own.
    pub monthly_budget: Option<Micros>,
    /// Networks that sandboxes may reach although they are private: then a project's own base URL
    /// may lead there too.
    pub allowed_networks: Vec<Network>,
}

/// The running part.
pub struct Agents {
    pub upstream: Upstream,
}

impl Agents {
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            upstream: Upstream::new(&options.allowed_networks),
        }
    }
}

/// The layers of variables below a sandbox's own (database, `NODE_ENV`), later wins: as they are,
/// or with the way to the relay in place of the agents' credentials.
#[must_use]
pub fn layers(mode: Mode, layers: [&Environment; 4], control_token: &SecretString) -> Environment {
    let mut all = Environment::new();
    match mode {
        Mode::Inject => {
            for layer in layers {
                all.extend(layer.clone());
            }
        }
        Mode::Relay => {
            let token = callback::token(control_token);
            for layer in llm_provider::relayed(&layers, &llm_provider::relay_url(), &token) {
                all.extend(layer);
            }
        }
    }
    all
}
