//! Access to the PostgreSQL server of a KubeBlocks database: the connection to its pod, the superuser that KubeBlocks
//! created, and the project's own role and database. A successful check is cached as long as the server runs, so the
//! observation of a ready database sends no request to the API server.

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
    KubeBlocks, PORT, SIGN_IN_TIMEOUT, Watches,
    objects::Version,
};
use crate::{
    connection::{CALL_TIMEOUT, call, is_not_found},
    settings::Reach,
};

/// An account on a database's server.
pub(super) struct Account {
    pub user: String,
    pub password: SecretString,
    /// The Service's name, if the secret has one.
    pub host: Option<String>,
}

/// What this process has read of databases. Each entry is valid for one Cluster object, by its uid.
#[derive(Default)]
pub(super) struct ServerCache(Mutex<HashMap<ResourceName, CachedServer>>);

struct CachedServer {
    /// The Cluster's uid.
    cluster: String,
    host: Option<String>,
    /// The [`instance`] in which role and database were verified, and the password that signed in.
    verified: Option<(String, SecretString)>,
}

impl ServerCache {
    fn insert(&self, name: &ResourceName, cluster: &str, host: Option<String>) {
        let server = CachedServer {
            cluster: cluster.to_owned(),
            host,
            verified: None,
        };
        self.0.lock().insert(name.clone(), server);
    }

    fn set_verified(&self, database: &DatabaseSpec, instance: String) {
        if let Some(server) = self.0.lock().get_mut(&database.resource) {
            server.verified = Some((instance, database.password.clone()));
        }
    }

    fn is_verified(&self, database: &DatabaseSpec, cluster: &DynamicObject, instance: Option<&str>) -> bool {
        let servers = self.0.lock();
        let verified = servers
            .get(&database.resource)
            .filter(|server| Some(&server.cluster) == cluster.metadata.uid.as_ref())
            .and_then(|server| server.verified.as_ref());
        verified.is_some_and(|(verified, password)| {
            Some(verified.as_str()) == instance
                && password.expose_secret() == database.password.expose_secret()
        })
    }

    /// The host in the Cluster's secret, if the secret was read. Most secrets name none.
    pub(super) fn host(&self, name: &ResourceName, cluster: &DynamicObject) -> Option<Option<String>> {
        let servers = self.0.lock();
        servers
            .get(name)
            .filter(|server| Some(&server.cluster) == cluster.metadata.uid.as_ref())
            .map(|server| server.host.clone())
    }

    pub(super) fn remove(&self, name: &ResourceName) {
        self.0.lock().remove(name);
    }
}

/// Identifies one run of a pod's containers, by the pod's uid and their restarts.
fn instance(pod: &Pod) -> String {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let restarts: i32 = statuses.map(|status| status.restart_count).sum();
    format!("{} {restarts}", pod.uid().unwrap_or_default())
}

impl KubeBlocks {
    /// The running pod of a database's server. A pod that is older than the Cluster is left over from another Cluster
    /// of the same name, and about to be deleted.
    fn running_pod(&self, watches: &Watches, database: &DatabaseSpec) -> Option<Arc<Pod>> {
        let created = self.find(watches, database)?.creation_timestamp();
        let name = database.resource.as_str();
        let pods = watches.pods.state_filter(|pod| {
            let status = pod.status.as_ref();
            pod.labels()
                .get("app.kubernetes.io/instance")
                .is_some_and(|of| of == name)
                && pod.creation_timestamp() >= created
                && pod.metadata.deletion_timestamp.is_none()
                && status.is_some_and(|status| status.phase.as_deref() == Some("Running"))
        });
        pods.into_iter().next()
    }

    /// The superuser of a database's server, from the secret that KubeBlocks created.
    pub(super) async fn superuser(
        &self,
        cluster: &DynamicObject,
        database: &DatabaseSpec,
    ) -> Result<Account> {
        for name in Version::secrets(database.resource.as_str()) {
            let secret = call("read a database's credentials", async {
                match self.api::<Secret>().get(&name).await {
                    Err(error) if is_not_found(&error) => Ok(None),
                    other => other.map(Some),
                }
            })
            .await?;
            let Some(secret) = secret else { continue };
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
                    self.servers.insert(&database.resource, uid, account.host.clone());
                }
                return Ok(account);
            }
        }
        Err(DriverError::new(
            FailureKind::Transient,
            "KubeBlocks has not written the database's credentials yet; it is retried",
        ))
    }

    /// Signs in to the database's server.
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
            let (address, tunnel) = self.open_path(database).await?;
            let options = options.host(&address.ip().to_string()).port(address.port());
            let connection = PgConnection::connect_with(&options).await.map_err(failure);
            // A tunnel ends with its one connection; without a connection it ends here.
            if connection.is_err()
                && let Some(tunnel) = tunnel
            {
                tunnel.abort();
            }
            connection
        };
        timeout(SIGN_IN_TIMEOUT, work).await.unwrap_or_else(|_| {
            Err(DriverError::new(
                FailureKind::Transient,
                "the database's server does not answer; it is retried",
            ))
        })
    }

    /// An address at which the database's pod answers: its own, or a local one that is forwarded to it for one
    /// connection, with the task that forwards.
    async fn open_path(
        &self,
        database: &DatabaseSpec,
    ) -> Result<(SocketAddr, Option<tokio::task::AbortHandle>)> {
        let failed = |error: std::io::Error| {
            DriverError::new(
                FailureKind::Machine,
                "a local port could not be forwarded to the database's pod",
            )
            .because(error)
        };
        let watches = self.watches().await?;
        // A running pod may not have arrived through the watch yet.
        let pod = timeout(
            CALL_TIMEOUT,
            watches
                .context
                .until(database.project, || self.running_pod(watches, database)),
        );
        let pod = pod.await.map_err(|_| {
            DriverError::new(
                FailureKind::Transient,
                "the database's pod does not run; it is retried",
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
                    DriverError::new(
                        FailureKind::Transient,
                        "the database's pod has no address yet; it is retried",
                    )
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
        let tunnel = tokio::spawn(async move {
            // For the one connection that follows at once.
            if let Ok(Ok((mut outside, _))) = timeout(SIGN_IN_TIMEOUT, listener.accept()).await {
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            }
            forwarder.abort();
        });
        Ok((address, Some(tunnel.abort_handle())))
    }

    /// Observes the role and the database inside the server.
    pub(super) async fn observe_server(
        &self,
        watches: &Watches,
        cluster: &DynamicObject,
        database: &DatabaseSpec,
    ) -> Result<ObservedDatabase> {
        let instance = self.running_pod(watches, database).map(|pod| instance(&pod));
        if self.servers.is_verified(database, cluster, instance.as_deref()) {
            // With port-forward each sign-in would be a request to the API server at each observation.
            if self.settings.reach == Reach::PortForward || self.can_sign_in(database).await {
                return Ok(ObservedDatabase::Ready);
            }
        }
        let account = self.superuser(cluster, database).await?;
        let mut connection = self
            .sign_in(database, &account.user, &account.password, "postgres")
            .await?;
        let state = server::observe(&mut connection, database)
            .await
            .map_err(failure)?;
        let _ = connection.close().await;
        if state != State::Created {
            return Ok(ObservedDatabase::Partial);
        }
        if !self.can_sign_in(database).await {
            return Ok(ObservedDatabase::Partial);
        }
        if let Some(instance) = instance {
            self.servers.set_verified(database, instance);
        }
        Ok(ObservedDatabase::Ready)
    }

    /// Whether the project's own role can sign in.
    async fn can_sign_in(&self, database: &DatabaseSpec) -> bool {
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
