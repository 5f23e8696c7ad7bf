//! Inside a KubeBlocks database's server: the way to its pod, the superuser that KubeBlocks made, and whether the
//! project's own role and database are there. What was proven of one server stays proven as long as it runs, so
//! that a look at a settled database asks the API server for nothing.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use fsa_driver::{DriverError, ObservedDatabase, Result};
use fsa_model::{DatabaseSpec, FailureKind, ResourceName};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{ResourceExt as _, core::DynamicObject};
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{net::TcpListener, time::timeout};

use super::{
    super::{
        postgres::failure,
        server::{self, State},
    },
    Known, KubeBlocks, PORT, SIGN_IN,
    objects::Version,
};
use crate::{
    connection::{PATIENCE, call, is_missing},
    settings::Reach,
};

/// An account on a database's server.
pub(super) struct Account {
    pub user: String,
    pub password: SecretString,
    /// The Service's name, where the secret has one.
    pub host: Option<String>,
}

/// What this process has found out of databases, each for as long as its Cluster is the same one.
#[derive(Default)]
pub(super) struct Memory(Mutex<HashMap<ResourceName, Found>>);

struct Found {
    /// The Cluster's uid.
    cluster: String,
    host: Option<String>,
    /// The server in which role and database were seen, and the password that let in.
    proof: Option<(String, SecretString)>,
}

impl Memory {
    fn found(&self, name: &ResourceName, cluster: &str, host: Option<String>) {
        let found = Found {
            cluster: cluster.to_owned(),
            host,
            proof: None,
        };
        self.0.lock().insert(name.clone(), found);
    }

    fn proven(&self, database: &DatabaseSpec, server: String) {
        if let Some(found) = self.0.lock().get_mut(&database.resource) {
            found.proof = Some((server, database.password.clone()));
        }
    }

    fn is_proven(&self, database: &DatabaseSpec, cluster: &DynamicObject, server: Option<&str>) -> bool {
        let memory = self.0.lock();
        let proof = memory
            .get(&database.resource)
            .filter(|found| Some(&found.cluster) == cluster.metadata.uid.as_ref())
            .and_then(|found| found.proof.as_ref());
        proof.is_some_and(|(proven, password)| {
            Some(proven.as_str()) == server && password.expose_secret() == database.password.expose_secret()
        })
    }

    /// The host that the Cluster's secret names, where that was read: none, for most.
    pub(super) fn host(&self, name: &ResourceName, cluster: &DynamicObject) -> Option<Option<String>> {
        let memory = self.0.lock();
        memory
            .get(name)
            .filter(|found| Some(&found.cluster) == cluster.metadata.uid.as_ref())
            .map(|found| found.host.clone())
    }

    pub(super) fn forget(&self, name: &ResourceName) {
        self.0.lock().remove(name);
    }
}

/// One life of a pod's containers.
fn incarnation(pod: &Pod) -> String {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let restarts: i32 = statuses.map(|status| status.restart_count).sum();
    format!("{} {restarts}", pod.uid().unwrap_or_default())
}

impl KubeBlocks {
    /// The pod in which a database's server runs, ready to be asked. One that is older than the Cluster is left of
    /// another of the same name, and goes.
    fn running(&self, known: &Known, database: &DatabaseSpec) -> Option<Arc<Pod>> {
        let made = self.find(known, database)?.creation_timestamp();
        let name = database.resource.as_str();
        let pods = known.pods.state_filter(|pod| {
            let status = pod.status.as_ref();
            pod.labels()
                .get("app.kubernetes.io/instance")
                .is_some_and(|of| of == name)
                && pod.creation_timestamp() >= made
                && pod.metadata.deletion_timestamp.is_none()
                && status.is_some_and(|status| status.phase.as_deref() == Some("Running"))
        });
        pods.into_iter().next()
    }

    /// The superuser of a database's server, from the secret that KubeBlocks made.
    pub(super) async fn superuser(
        &self,
        cluster: &DynamicObject,
        database: &DatabaseSpec,
    ) -> Result<Account> {
        for name in Version::secrets(database.resource.as_str()) {
            let found = call("read a database's credentials", async {
                match self.api::<Secret>().get(&name).await {
                    Err(error) if is_missing(&error) => Ok(None),
                    other => other.map(Some),
                }
            })
            .await?;
            let Some(secret) = found else { continue };
            let text = |key: &str| {
                let bytes = secret.data.as_ref()?.get(key)?;
                String::from_utf8(bytes.0.clone()).ok()
            };
            if let (Some(user), Some(password)) = (text("username"), text("password")) {
                let account = Account {
                    user,
                    password: password.into(),
                    host: text("host").filter(|host| !host.is_empty()),
                };
                if let Some(uid) = &cluster.metadata.uid {
                    self.memory.found(&database.resource, uid, account.host.clone());
                }
                return Ok(account);
            }
        }
        Err(DriverError::new(
            FailureKind::Transient,
            "KubeBlocks has not written the database's credentials yet; it is tried again",
        ))
    }

    /// Signs in to the database's server, by the way that reaches its pod.
    pub(super) async fn sign_in(
        &self,
        database: &DatabaseSpec,
        user: &str,
        password: &SecretString,
        name: &str,
    ) -> Result<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass()
            .username(user)
            .password(password.expose_secret())
            .database(name)
            .ssl_mode(PgSslMode::Disable);
        let work = async {
            let (address, way) = self.way(database).await?;
            let options = options.host(&address.ip().to_string()).port(address.port());
            let connection = PgConnection::connect_with(&options).await.map_err(failure);
            // The way lives as long as its one connection; where there is none, it ends here.
            if connection.is_err()
                && let Some(way) = way
            {
                way.abort();
            }
            connection
        };
        timeout(SIGN_IN, work).await.unwrap_or_else(|_| {
            Err(DriverError::new(
                FailureKind::Transient,
                "the database's server does not answer; it is tried again",
            ))
        })
    }

    /// An address at which the database's pod answers: its own, or one of ours that leads there
    /// for one connection.
    async fn way(&self, database: &DatabaseSpec) -> Result<(SocketAddr, Option<tokio::task::AbortHandle>)> {
        let failed = |error: std::io::Error| {
            DriverError::new(FailureKind::Machine, "no way to the database's pod could be made")
                .because(error)
        };
        let known = self.known().await?;
        // It may run, and not have come by the watch yet.
        let pod = timeout(
            PATIENCE,
            known
                .told
                .until(database.project, || self.running(known, database)),
        );
        let pod = pod.await.map_err(|_| {
            DriverError::new(
                FailureKind::Transient,
                "the database's pod does not run; it is tried again",
            )
        })?;
        if self.settings.reach == Reach::Direct {
            let address = pod
                .status
                .as_ref()
                .and_then(|status| status.pod_ip.as_ref()?.parse().ok());
            return address
                .map(|ip| (SocketAddr::new(ip, PORT), None))
                .ok_or_else(|| {
                    DriverError::new(FailureKind::Transient, "the database's pod has no address yet")
                });
        }
        let mut forwarder = call(
            "forward a port to a database",
            self.api::<Pod>().portforward(&pod.name_any(), &[PORT]),
        )
        .await?;
        let mut inside = forwarder
            .take_stream(PORT)
            .ok_or_else(|| DriverError::new(FailureKind::Internal, "a forwarded port has no stream"))?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let way = tokio::spawn(async move {
            // For the one connection that comes at once.
            if let Ok(Ok((mut outside, _))) = timeout(SIGN_IN, listener.accept()).await {
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            }
            forwarder.abort();
        });
        Ok((address, Some(way.abort_handle())))
    }

    /// How the role and the database inside the server are.
    pub(super) async fn inside(
        &self,
        known: &Known,
        cluster: &DynamicObject,
        database: &DatabaseSpec,
    ) -> Result<ObservedDatabase> {
        let server = self.running(known, database).map(|pod| incarnation(&pod));
        if self.memory.is_proven(database, cluster, server.as_deref()) {
            // Through the API server even a sign-in would be a request of each look.
            if self.settings.reach == Reach::PortForward || self.admits(database).await {
                return Ok(ObservedDatabase::Ready);
            }
        }
        let account = self.superuser(cluster, database).await?;
        let mut connection = self
            .sign_in(database, &account.user, &account.password, "postgres")
            .await?;
        let state = server::look(&mut connection, database).await.map_err(failure)?;
        let _ = connection.close().await;
        if state != State::Made {
            return Ok(ObservedDatabase::Partial);
        }
        if !self.admits(database).await {
            return Ok(ObservedDatabase::Partial);
        }
        if let Some(server) = server {
            self.memory.proven(database, server);
        }
        Ok(ObservedDatabase::Ready)
    }

    /// Whether the project's own role can sign in.
    async fn admits(&self, database: &DatabaseSpec) -> bool {
        let role = database.role();
        match self.sign_in(database, &role, &database.password, &role).await {
            Ok(connection) => {
                let _ = connection.close().await;
                true
            }
            Err(_) => false,
        }
    }
}
