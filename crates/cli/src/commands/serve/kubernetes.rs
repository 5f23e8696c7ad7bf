//! Kubernetes clusters as regions. The kubeconfigs are read before privileges are dropped, the connections opened once
//! there is a runtime. A cluster that does not answer does not delay the start.

use std::{path::Path, sync::Arc};

use fsa_driver::Region;
use fsa_kubernetes::{
    KubernetesDriver,
    connection::{self, CheckedConfig, Cluster, KubeconfigPaths},
    databases,
    settings::Settings,
};
use fsa_server::encryption::key_file;

use crate::{config::ServeConfig, failure::Failure};

/// A region with its kubeconfig.
pub struct Read {
    pub name: String,
    pub settings: Settings,
    pub checked: CheckedConfig,
}

/// Reads the kubeconfigs.
pub fn read(config: &ServeConfig) -> Result<Vec<Read>, Failure> {
    if config.regions.is_empty() {
        return Ok(Vec::new());
    }
    let paths = KubeconfigPaths {
        environment: config.kubeconfig.clone(),
        secret_dir: Some(config.secret_dir.clone()),
    };
    // Single-threaded, because other threads must start after privileges are dropped.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the asynchronous runtime cannot be started: {error}")))?;
    config
        .regions
        .iter()
        .map(|(name, settings)| {
            let checked = runtime
                .block_on(connection::read(settings, &paths))
                .map_err(|error| Failure::usage(format!("the region {name}: {error}")))?;
            Ok(Read {
                name: name.clone(),
                settings: settings.clone(),
                checked,
            })
        })
        .collect()
}

/// A connected cluster, for health checks.
pub struct Connected {
    pub region: String,
    pub cluster: Cluster,
    pub settings: Settings,
}

/// Connects, and starts the watches.
pub fn open(clusters: Vec<Read>, config: &ServeConfig) -> Result<(Vec<Region>, Vec<Connected>), Failure> {
    let mut regions = Vec::new();
    let mut connected = Vec::new();
    for Read {
        name,
        mut settings,
        checked,
    } in clusters
    {
        let failed = |error: fsa_driver::DriverError| Failure::usage(format!("the region {name}: {error}"));
        if settings.installation.is_empty() {
            settings.installation = installation(&config.data_dir)?;
        }
        let cluster = checked.connect().map_err(failed)?;
        tracing::info!(
            region = %name, server = %cluster.server, namespace = %cluster.namespace, kubeconfig = %cluster.source,
            "Kubernetes region connected"
        );
        let (databases, peer) = databases::open(&cluster, &settings).map_err(failed)?;
        connected.push(Connected {
            region: name.clone(),
            cluster: cluster.clone(),
            settings: settings.clone(),
        });
        regions.push(Region {
            driver: Arc::new(KubernetesDriver::new(cluster, settings, peer)),
            databases,
            name,
        });
    }
    Ok((regions, connected))
}

/// The installation's id, which labels its objects in a cluster.
pub fn installation(data_dir: &Path) -> Result<String, Failure> {
    let path = data_dir.join("keys/seal.key");
    key_file::installation(&path)
        .map_err(|error| Failure::failed(format!("{} cannot be read: {error}", path.display())))
}
