//! Health checks of a running server: the checks of `fsa doctor` that need no root, on the runner and clusters in use.

use std::{collections::BTreeSet, sync::Arc};

use fsa_driver::DriverError;
use fsa_local::project_databases::ProjectDatabases;
use fsa_model::{
    environment::Environment,
    system::{Check, CheckState},
};
use fsa_server::settings::Checks;

use super::{super::doctor, kubernetes::Connected, local::Local};
use crate::config::ServeConfig;

pub fn of(
    config: &ServeConfig,
    agents: &Environment,
    local: Option<&Local>,
    clusters: Vec<Connected>,
) -> Checks {
    let config = Arc::new(config.clone());
    let runner = local.map(|local| Arc::clone(&local.runner));
    let databases = local.map(|local| Arc::clone(&local.databases));
    let credentials = check_credentials(agents);
    let clusters = Arc::new(clusters);
    Checks::new(move || {
        let (config, runner) = (Arc::clone(&config), runner.clone());
        let databases = databases.clone();
        let (credentials, clusters) = (credentials.clone(), Arc::clone(&clusters));
        async move {
            let mut found = vec![
                doctor::check_kernel(),
                doctor::check_disk(&config),
                doctor::check_path(&config),
            ];
            if let Some(runner) = runner {
                match runner.hello().await {
                    Ok(hello) => found.extend(doctor::runner_checks(&hello)),
                    Err(error) => found.push(runner_failed(&error)),
                }
                match runner.storage().await {
                    Ok(status) => found.push(doctor::storage_check(&status)),
                    Err(error) => found.push(Check::new("storage", CheckState::Bad, error.to_string())),
                }
                found.push(doctor::check_postgresql(&config).await);
                found.push(image(&config));
            }
            if let Some(databases) = databases {
                found.push(database_servers(&databases).await);
            }
            found.push(credentials);
            for Connected {
                region,
                cluster,
                settings,
            } in clusters.iter()
            {
                found.extend(doctor::remote::cluster_checks(region, cluster, settings).await);
            }
            found
        }
    })
}

async fn database_servers(databases: &ProjectDatabases) -> Check {
    let name = "databases";
    match databases.servers().await {
        Err(error) => Check::new(name, CheckState::Bad, error.to_string()),
        Ok(servers) => {
            let running = servers.iter().filter(|server| server.running).count();
            let majors: BTreeSet<String> = servers
                .iter()
                .filter_map(|server| server.major)
                .map(|major| major.to_string())
                .collect();
            let releases = match majors.is_empty() {
                true => String::new(),
                false => format!(
                    ", of PostgreSQL {}",
                    majors.into_iter().collect::<Vec<_>>().join(", ")
                ),
            };
            let lost = servers.iter().filter(|server| server.lost).count();
            let message = format!("{} prepared{releases}, {running} running", servers.len());
            match lost {
                0 => Check::good(name, message),
                lost => Check::new(
                    name,
                    CheckState::Warning,
                    format!(
                        "{message}; the files of {lost} are missing: restore a backup of the data folder"
                    ),
                ),
            }
        }
    }
}

fn runner_failed(error: &DriverError) -> Check {
    Check::new("runner", CheckState::Bad, format!("{error}; restart the server"))
}

/// The existence of the archive was checked at the start, before the server dropped its privileges.
fn image(config: &ServeConfig) -> Check {
    match &config.web_image {
        Some(image) => Check::good("template web", image.clone()),
        None => doctor::check_web_image(config),
    }
}

fn check_credentials(agents: &Environment) -> Check {
    let name = "agent credentials";
    if agents.is_empty() {
        let why = "no server-wide credentials: users set their own (fsa agent set-key), or a project has them in its environment";
        return Check::new(name, CheckState::Warning, why);
    }
    Check::good(name, agents.keys().cloned().collect::<Vec<_>>().join(", "))
}
