//! Settings of agents, and files of environment variables.

use std::{collections::BTreeMap, path::Path};

use fsa_model::{
    environment::{self, Environment},
    money::Micros,
};
use fsa_server::{pricing::Prices, settings::LlmProxySettings};
use secrecy::SecretString;

use super::Settings;
use crate::failure::Failure;

/// The settings of agents, checked.
pub(super) fn agents(settings: &Settings, networks: &[String]) -> Result<LlmProxySettings, Failure> {
    let prices = match &settings.agent_prices {
        None => Prices::default(),
        Some(path) => {
            let failed = |why: String| Failure::usage(format!("the prices in {}: {why}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
            Prices::parse(&text).map_err(failed)?
        }
    };
    Ok(LlmProxySettings {
        mode: settings
            .agent_credentials
            .as_ref()
            .map(|text| text.parse())
            .transpose()
            .map_err(|error: String| Failure::usage(format!("agent_credentials: {error}")))?
            .unwrap_or_default(),
        prices,
        monthly_budget: settings
            .agent_budget
            .map(|dollars| {
                Micros::from_dollars(dollars)
                    .ok_or_else(|| Failure::usage("agent_budget is a number of US dollars from 0 to 1000000"))
            })
            .transpose()?,
        // The runner reports a malformed network; here it adds no exception.
        allowed_networks: networks.iter().filter_map(|text| text.parse().ok()).collect(),
    })
}

/// The agent's credentials from `<folder>/.env`, in dotenv's form. None where there is no file.
pub fn agent_environment(folder: &Path) -> Result<Environment, Failure> {
    let path = folder.join(".env");
    let items = match dotenvy::from_path_iter(&path) {
        Ok(items) => items,
        Err(error) if error.not_found() => return Ok(Environment::new()),
        Err(error) => {
            return Err(Failure::usage(format!(
                "{} cannot be read: {error}",
                path.display()
            )));
        }
    };
    let mut variables = BTreeMap::new();
    for item in items {
        // dotenvy's error repeats the line, which may hold a key.
        let (name, value) = item
            .map_err(|_| Failure::usage(format!("{} has a line that is not NAME=VALUE", path.display())))?;
        environment::check(&name, &value)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        variables.insert(name, SecretString::from(value));
    }
    Ok(variables)
}

/// `NAME=VALUE` lines of a file that a person names.
pub fn environment_file(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    dotenvy::from_path_iter(path)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?
        .map(|item| {
            item.map_err(|_| Failure::usage(format!("{} has a line that is not NAME=VALUE", path.display())))
        })
        .collect()
}
