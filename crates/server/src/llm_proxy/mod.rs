//! LLM proxy: the credentials of coding agents stay outside of the sandboxes, the relay adds them to requests, and
//! the usage of the responses is metered.

pub mod account;
pub mod metering;
pub mod relay;
pub mod upstream;

use fsa_model::{
    ProjectId, SandboxId, callback,
    environment::Environment,
    llm_provider::{self, Mode},
};
use secrecy::SecretString;

/// The sandbox whose programs send a request.
#[derive(Clone, Copy, Debug)]
pub struct CallingSandbox {
    pub id: SandboxId,
    pub project: ProjectId,
}

/// The environment layers that people set, later wins: unchanged,
/// or with the relay's address in place of the agents' credentials.
#[must_use]
pub fn layers(mode: Mode, layers: [&Environment; 5], control_token: &SecretString) -> Environment {
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
