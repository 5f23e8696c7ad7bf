//! Databases as KubeBlocks clusters, one each. KubeBlocks makes the server; the project's own
//! role and database in it are ours, so that no program in a sandbox is ever its superuser.
//!
//! Clusters are known from a watch, so existence is verified without asking for it.

pub mod objects;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use fsa_driver::{Databases, DriverError, ObservedDatabase, Result};
use fsa_model::{DatabaseSpec, ResourceName, Trouble, TroubleKind, spec::Credentials, spec::role_of};
use k8s_openapi::api::{
    core::v1::{Pod, Secret, ServiceAccount},
    networking::v1::NetworkPolicyPeer,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::DynamicObject,
    runtime::reflector::{ObjectRef, Store},
};
use objects::{GROUP, Version, phase};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{net::TcpListener, sync::OnceCell, task::JoinSet, time::timeout};

use super::{
    postgres::trouble,
    server::{self, State},
};
use crate::{
    connection::{Cluster, PATIENCE, call, is_missing},
    objects::{FIELD_MANAGER, network_policy::pods},
    settings::{Reach, Settings},
    watched::{Told, follow},
};

/// KubeBlocks makes a volume and pulls an image first.
const RUNNING: Duration = Duration::from_secs(540);
const GONE: Duration = Duration::from_secs(100);
/// For one sign-in, with the way to the pod.
const SIGN_IN: Duration = Duration::from_secs(15);
const PORT: u16 = 5432;

/// Where a project's database is on the network, by the name of its role.
#[must_use]
pub fn peer(role: &str) -> (NetworkPolicyPeer, u16) {
    // A resource name has no underscore, so the way back is exact.
    let cluster = role.replace('_', "-");
    (pods(&[("app.kubernetes.io/instance", &cluster)]), PORT)
}

/// The databases of a region.
pub struct KubeBlocks {
    cluster: Cluster,
    settings: Settings,
    known: OnceCell<Known>,
}

/// What is known once the cluster has answered.
struct Known {
    version: Version,
    clusters: Store<DynamicObject>,
    told: Told,
    _watch: JoinSet<()>,
}

/// An account on a database's server.
struct Account {
    user: String,
    password: SecretString,
    /// The Service's name, where the secret has one.
    host: Option<String>,
}

impl KubeBlocks {
    #[must_use]
    pub fn new(cluster: Cluster, settings: Settings) -> Self {
        Self {
            cluster,
            settings,
            known: OnceCell::new(),
        }
    }

    async fn known(&self) -> Result<&Known> {
        let known = self
            .known
            .get_or_try_init(|| async {
                let groups = call("list the kinds of objects", self.cluster.client.list_api_groups()).await?;
                let served: Vec<String> = groups
                    .groups
                    .iter()
                    .filter(|group| group.name == GROUP)
                    .flat_map(|group| group.versions.iter().map(|version| version.version.clone()))
                    .collect();
                let version = Version::of(&served).ok_or_else(|| {
                    DriverError::new(
                        TroubleKind::Machine,
                        "the cluster has no KubeBlocks (the CRD clusters.apps.kubeblocks.io is missing): install it, or set \
                         databases.provider = \"postgres\" for this region",
                    )
                })?;
                let told = Told::new(&self.settings);
                let mut watch = JoinSet::new();
                let api = self.clusters_of(version);
                let clusters = follow(&mut watch, &told, api, version.resource());
                Ok::<_, DriverError>(Known {
                    version,
                    clusters,
                    told,
                    _watch: watch,
                })
            })
            .await?;
        match timeout(PATIENCE, known.clusters.wait_until_ready()).await {
            Ok(Ok(())) => Ok(known),
            _ => Err(DriverError::new(
                TroubleKind::Passing,
                "the cluster does not say which databases it has; it is tried again",
            )),
        }
    }

    fn clusters_of(&self, version: Version) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.cluster.client.clone(),
            &self.cluster.namespace,
            &version.resource(),
        )
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace)
    }

    fn find(&self, known: &Known, database: &DatabaseSpec) -> Option<Arc<DynamicObject>> {
        let reference = ObjectRef::new_with(database.resource.as_str(), known.version.resource())
            .within(&self.cluster.namespace);
        known.clusters.get(&reference)
    }

    /// The superuser of a database's server, from the secret that KubeBlocks made.
    async fn superuser(&self, database: &DatabaseSpec) -> Result<Account> {
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
                return Ok(Account {
                    user,
                    password: password.into(),
                    host: text("host").filter(|host| !host.is_empty()),
                });
            }
        }
        Err(DriverError::new(
            TroubleKind::Passing,
            "KubeBlocks has not written the database's credentials yet; it is tried again",
        ))
    }

    /// Signs in to the database's server, by the way that reaches its pod.
    async fn sign_in(
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
            let connection = PgConnection::connect_with(&options).await.map_err(trouble);
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
                TroubleKind::Passing,
                "the database's server does not answer; it is tried again",
            ))
        })
    }

    /// An address at which the database's pod answers: its own, or one of ours that leads there
    /// for one connection.
    async fn way(&self, database: &DatabaseSpec) -> Result<(SocketAddr, Option<tokio::task::AbortHandle>)> {
        let failed = |error: std::io::Error| {
            DriverError::new(TroubleKind::Machine, "no way to the database's pod could be made")
                .because(error)
        };
        let selector = format!("app.kubernetes.io/instance={}", database.resource);
        let found = call(
            "list a database's pods",
            self.api::<Pod>().list(&ListParams::default().labels(&selector)),
        )
        .await?;
        let running = |pod: &&Pod| {
            pod.status
                .as_ref()
                .is_some_and(|s| s.phase.as_deref() == Some("Running"))
        };
        let pod = found.items.iter().find(running).ok_or_else(|| {
            DriverError::new(
                TroubleKind::Passing,
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
                    DriverError::new(TroubleKind::Passing, "the database's pod has no address yet")
                });
        }
        let mut forwarder = call(
            "forward a port to a database",
            self.api::<Pod>().portforward(&pod.name_any(), &[PORT]),
        )
        .await?;
        let mut inside = forwarder
            .take_stream(PORT)
            .ok_or_else(|| DriverError::new(TroubleKind::Internal, "a forwarded port has no stream"))?;
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
    async fn inside(&self, database: &DatabaseSpec) -> Result<ObservedDatabase> {
        let account = self.superuser(database).await?;
        let mut connection = self
            .sign_in(database, &account.user, &account.password, "postgres")
            .await?;
        let state = server::look(&mut connection, database).await.map_err(trouble)?;
        let _ = connection.close().await;
        if state != State::Made {
            return Ok(ObservedDatabase::Partial);
        }
        let role = database.role();
        match self.sign_in(database, &role, &database.password, &role).await {
            Ok(connection) => {
                let _ = connection.close().await;
                Ok(ObservedDatabase::Ready)
            }
            Err(_) => Ok(ObservedDatabase::Partial),
        }
    }

    async fn make(&self, database: &DatabaseSpec) -> Result<()> {
        let known = self.known().await?;
        let settings = &self.settings;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let name = database.resource.as_str();
        call(
            "make a service account",
            self.api::<ServiceAccount>().patch(
                name,
                &params,
                &Patch::Apply(objects::account(database, settings)),
            ),
        )
        .await?;
        call(
            "make a role",
            self.api::<Role>()
                .patch(name, &params, &Patch::Apply(objects::role(database, settings))),
        )
        .await?;
        let binding = objects::binding(database, settings, &self.cluster.namespace);
        call(
            "make a role binding",
            self.api::<RoleBinding>()
                .patch(name, &params, &Patch::Apply(binding)),
        )
        .await?;
        let cluster = objects::cluster(database, settings, known.version);
        call(
            "make a database cluster",
            self.clusters_of(known.version)
                .patch(name, &params, &Patch::Apply(cluster)),
        )
        .await?;
        let running = known.told.until(|| {
            let cluster = self.find(known, database)?;
            match phase(&cluster) {
                "Running" => Some(Ok(())),
                "Failed" | "Abnormal" => Some(Err(failed(&cluster))),
                _ => None,
            }
        });
        timeout(RUNNING, running).await.unwrap_or_else(|_| {
            let phase = self
                .find(known, database)
                .map_or_else(|| "gone".to_owned(), |cluster| phase(&cluster).to_owned());
            Err(DriverError::new(
                TroubleKind::Passing,
                format!(
                    "KubeBlocks has not made the database within {} minutes (its phase is {phase}); it is tried again",
                    RUNNING.as_secs() / 60
                ),
            ))
        })?;
        let account = self.superuser(database).await?;
        let mut connection = self
            .sign_in(database, &account.user, &account.password, "postgres")
            .await?;
        if server::look(&mut connection, database).await.map_err(trouble)? == State::Foreign {
            return Err(DriverError::new(
                TroubleKind::Machine,
                format!(
                    "the database's server has a role {} that is not ours",
                    database.role()
                ),
            ));
        }
        server::make(&mut connection, database, None)
            .await
            .map_err(trouble)?;
        let _ = connection.close().await;
        Ok(())
    }
}

fn failed(cluster: &DynamicObject) -> DriverError {
    let message = cluster
        .data
        .pointer("/status/message")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    let trouble = Trouble {
        kubernetes_status: Some(format!("{}: {message}", phase(cluster))),
        ..Trouble::new(
            TroubleKind::Machine,
            "KubeBlocks could not make the database; its status has the reason",
        )
    };
    trouble.into()
}

#[async_trait]
impl Databases for KubeBlocks {
    fn provider(&self) -> &'static str {
        "kubeblocks"
    }

    async fn observe(&self, database: &DatabaseSpec) -> Result<ObservedDatabase> {
        let known = self.known().await?;
        match self.find(known, database) {
            None => Ok(ObservedDatabase::Absent),
            Some(cluster) if phase(&cluster) != "Running" => Ok(ObservedDatabase::Partial),
            Some(_) => self.inside(database).await,
        }
    }

    async fn ensure(&self, database: &DatabaseSpec) -> Result<()> {
        if self.observe(database).await? == ObservedDatabase::Ready {
            return Ok(());
        }
        self.make(database).await
    }

    async fn credentials(&self, database: &DatabaseSpec) -> Result<Credentials> {
        let known = self.known().await?;
        let account = self.superuser(database).await?;
        Ok(Credentials {
            host: account
                .host
                .unwrap_or_else(|| known.version.host(database.resource.as_str())),
            port: PORT,
            user: database.role(),
            password: database.password.clone(),
            database: database.role(),
        })
    }

    fn known_ahead(&self) -> bool {
        false
    }

    async fn drop(&self, database: &DatabaseSpec) -> Result<()> {
        let known = self.known().await?;
        let name = database.resource.as_str();
        let background = DeleteParams::background();
        if self.find(known, database).is_some() {
            delete(
                "delete a database cluster",
                self.clusters_of(known.version).delete(name, &background),
            )
            .await?;
            let gone = known
                .told
                .until(|| self.find(known, database).is_none().then_some(()));
            timeout(GONE, gone).await.map_err(|_| {
                DriverError::new(
                    TroubleKind::Passing,
                    "KubeBlocks has not removed the database yet; it is tried again",
                )
            })?;
        }
        delete(
            "delete a role binding",
            self.api::<RoleBinding>().delete(name, &background),
        )
        .await?;
        delete("delete a role", self.api::<Role>().delete(name, &background)).await?;
        delete(
            "delete a service account",
            self.api::<ServiceAccount>().delete(name, &background),
        )
        .await
    }

    async fn branch(&self, _: &DatabaseSpec, _: &DatabaseSpec) -> Result<()> {
        Err(DriverError::new(
            TroubleKind::Machine,
            "a KubeBlocks database cannot be branched yet; the region's databases.provider `postgres` can",
        ))
    }

    async fn inventory(&self) -> Result<Vec<String>> {
        let known = self.known().await?;
        let names = known.clusters.state();
        Ok(names
            .iter()
            .filter_map(|cluster| ResourceName::parse(&cluster.name_any()).ok())
            .map(|name| role_of(&name))
            .collect())
    }
}

/// Deletes; what is not there is gone.
async fn delete<T>(
    what: &str,
    work: impl Future<Output = std::result::Result<T, kube::Error>>,
) -> Result<()> {
    call(what, async {
        match work.await {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    })
    .await
}
