//! Checks of other machines: the external control database, and each cluster.

use std::time::Duration;

use fsa_kubernetes::{checks, connection::Cluster, settings::Settings};
use fsa_model::system::{Check, CheckState};
use secrecy::ExposeSecret as _;
use sqlx::{
    Connection as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgRow},
};

use crate::{commands::serve::kubernetes, config::ServeConfig, failure::Failure};

/// Timeout of the control database.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The external control database, if one is configured. Otherwise the server creates its own at the start.
pub async fn control_database(config: &ServeConfig) -> Option<Check> {
    const NAME: &str = "control database";
    let Some(dsn) = &config.database_dsn else {
        return (!config.local).then(|| {
            Check::new(
                NAME,
                CheckState::Bad,
                "not configured, and with no_local the server does not create one: set it with --database-dsn",
            )
        });
    };
    let Ok(options) = dsn.expose_secret().parse::<PgConnectOptions>() else {
        let form = "database_dsn is not of the form postgresql://user:password@host/database";
        return Some(Check::new(NAME, CheckState::Bad, form));
    };
    let address = format!("{}:{}", options.get_host(), options.get_port());
    let response = tokio::time::timeout(TIMEOUT, async {
        let mut connection = PgConnection::connect_with(&options).await?;
        let query = "select current_setting('server_version') as version,
                        has_database_privilege(current_database(), 'create') as may";
        sqlx::query(query).fetch_one(&mut connection).await
    });
    let read = |row: &PgRow| {
        Some((
            row.try_get::<String, _>("version").ok()?,
            row.try_get("may").ok()?,
        ))
    };
    Some(match response.await {
        Ok(Ok(row)) => match read(&row) {
            Some((version, true)) => Check::good(NAME, format!("PostgreSQL {version} at {address} answers")),
            _ => Check::new(
                NAME,
                CheckState::Bad,
                format!("the account at {address} may not create tables: grant it `create` on the database"),
            ),
        },
        Ok(Err(error)) => Check::new(
            NAME,
            CheckState::Bad,
            format!("{address} cannot be used: {error}; correct --database-dsn, or start the server"),
        ),
        Err(_) => Check::new(
            NAME,
            CheckState::Bad,
            format!(
                "{address} did not answer within {} seconds; correct --database-dsn, or the network",
                TIMEOUT.as_secs()
            ),
        ),
    })
}

/// The checks of each Kubernetes region.
pub async fn clusters(config: &ServeConfig, clusters: Result<Vec<kubernetes::Read>, Failure>) -> Vec<Check> {
    let clusters = match clusters {
        Ok(clusters) if config.regions.is_empty() || clusters.is_empty() => {
            return vec![Check::good(
                "kubernetes",
                "not configured; projects run on this machine",
            )];
        }
        Ok(clusters) => clusters,
        Err(failure) => return vec![Check::new("kubernetes", CheckState::Bad, failure.message)],
    };
    let mut checks = Vec::new();
    for read in clusters {
        let (region, mut settings) = (read.name.clone(), read.settings.clone());
        if settings.installation.is_empty() {
            // Before the first start there is no key yet, and no object in the cluster either.
            settings.installation = kubernetes::installation(&config.data_dir).unwrap_or_default();
        }
        match read.checked.connect() {
            Ok(cluster) => checks.extend(cluster_checks(&region, &cluster, &settings).await),
            Err(error) => checks.push(Check::new(
                "kubernetes",
                CheckState::Bad,
                format!("{region}: {error}"),
            )),
        }
    }
    checks
}

/// The checks of one cluster.
pub async fn cluster_checks(region: &str, cluster: &Cluster, settings: &Settings) -> Vec<Check> {
    let found = checks::run(cluster, settings).await;
    found
        .into_iter()
        .map(|check| {
            let state = match check.state {
                checks::State::Good => CheckState::Good,
                checks::State::Warning => CheckState::Warning,
                checks::State::Bad => CheckState::Bad,
            };
            Check::new(check.name, state, format!("{region}: {}", check.message))
        })
        .collect()
}
