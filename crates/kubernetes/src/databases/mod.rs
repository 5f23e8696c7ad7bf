//! Where the projects of a Kubernetes region have their databases: on any PostgreSQL server
//! ([`postgres`]), or one cluster each, made by KubeBlocks ([`kubeblocks`]).

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

/// The databases that the settings name, and where each is on the network.
///
/// # Errors
/// The settings leave something out.
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
