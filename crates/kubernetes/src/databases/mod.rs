//! Project databases of a Kubernetes region: on one PostgreSQL server anywhere ([`postgres`]), or one KubeBlocks
//! cluster each ([`kubeblocks`]).

pub mod kubeblocks;
pub mod postgres;
mod server;

use std::sync::Arc;

use fsa_driver::{Result, SharedDatabases};

use crate::{
    connection::Cluster,
    driver::DatabasePeer,
    settings::{Provider, Settings},
};

/// The databases that the settings name, and the network peer of each for its sandbox's policy.
///
/// # Errors
/// The settings are incomplete.
pub fn open(cluster: &Cluster, settings: &Settings) -> Result<(SharedDatabases, DatabasePeer)> {
    match settings.databases.provider {
        Provider::Postgres => {
            let databases = postgres::PostgresDatabases::new(&settings.databases)?;
            let peer = databases.peer();
            Ok((Arc::new(databases), Arc::new(move |_| peer.clone())))
        }
        Provider::Kubeblocks => Ok((
            Arc::new(kubeblocks::KubeBlocks::new(cluster.clone(), settings.clone())),
            Arc::new(|role| Some(kubeblocks::peer(role))),
        )),
    }
}
