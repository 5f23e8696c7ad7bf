//! Project databases as KubeBlocks clusters, one each. KubeBlocks creates the server; we create the project's own role
//! and database in it, so that no program in a sandbox is ever its superuser.
//!
//! Clusters come from a watch, so their existence is verified without a request.

pub mod objects;
mod server_access;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fsa_driver::{BoxStream, Databases, DriverError, ObservedDatabase, Requeue, Result};
use fsa_model::{DatabaseSpec, Failure, FailureKind, ResourceName, spec::Credentials, spec::role_of};
use k8s_openapi::api::{
    core::v1::{Pod, ServiceAccount},
    networking::v1::NetworkPolicyPeer,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, ResourceExt as _,
    api::DeleteParams,
    core::DynamicObject,
    runtime::reflector::{ObjectRef, Store},
};
use objects::{GROUP, Version, phase};
use server_access::ServerCache;
use sqlx::Connection as _;
use tokio::{sync::OnceCell, task::JoinSet, time::timeout};

use super::{
    postgres::failure,
    server::{self, State},
};
use crate::{
    connection::{CALL_TIMEOUT, Cluster, call},
    objects::network_policy::pods,
    reflectors::{WatchContext, reflect, requeue_stream},
    settings::Settings,
};

/// KubeBlocks creates a volume and pulls an image first.
const CREATE_TIMEOUT: Duration = Duration::from_secs(540);
const DELETE_TIMEOUT: Duration = Duration::from_secs(100);
/// For one sign-in, including the connection to the pod.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(15);
const PORT: u16 = 5432;
/// Selects the pods that KubeBlocks created.
const PODS: &str = "app.kubernetes.io/managed-by=kubeblocks";

/// The network peer of a project's database, from the name of its role.
#[must_use]
pub fn peer(role: &str) -> (NetworkPolicyPeer, u16) {
    // A resource name has no underscore, so the conversion is exact.
    let cluster = role.replace('_', "-");
    (pods(&[("app.kubernetes.io/instance", &cluster)]), PORT)
}

/// The databases of a region.
pub struct KubeBlocks {
    cluster: Cluster,
    settings: Settings,
    context: WatchContext,
    watches: OnceCell<Watches>,
    servers: ServerCache,
}

/// The watches, started once the cluster has reported the version of its API.
struct Watches {
    version: Version,
    clusters: Store<DynamicObject>,
    /// The pods of all KubeBlocks clusters: KubeBlocks sets its own labels on them, not ours.
    pods: Store<Pod>,
    context: WatchContext,
    _tasks: JoinSet<()>,
}

impl KubeBlocks {
    #[must_use]
    pub fn new(cluster: Cluster, settings: Settings) -> Self {
        Self {
            cluster,
            context: WatchContext::new(&settings),
            settings,
            watches: OnceCell::new(),
            servers: ServerCache::default(),
        }
    }

    async fn watches(&self) -> Result<&Watches> {
        let watches = self
            .watches
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
                        FailureKind::Machine,
                        "the cluster has no KubeBlocks (the CRD clusters.apps.kubeblocks.io is missing): install it, or set \
                         databases.provider = \"postgres\" for this region",
                    )
                })?;
                let context = self.context.clone();
                let mut tasks = JoinSet::new();
                let api = self.clusters_of(version);
                let clusters = reflect(&mut tasks, &context, api, version.resource());
                let pods = reflect(&mut tasks, &context.selecting(PODS), self.api::<Pod>(), ());
                Ok::<_, DriverError>(Watches {
                    version,
                    clusters,
                    pods,
                    context,
                    _tasks: tasks,
                })
            })
            .await?;
        let ready = async {
            watches.clusters.wait_until_ready().await.is_ok() && watches.pods.wait_until_ready().await.is_ok()
        };
        match timeout(CALL_TIMEOUT, ready).await {
            Ok(true) => Ok(watches),
            _ => Err(DriverError::new(
                FailureKind::Transient,
                "the cluster has not listed its databases yet; it is retried",
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

    fn find(&self, watches: &Watches, database: &DatabaseSpec) -> Option<Arc<DynamicObject>> {
        let reference = ObjectRef::new_with(database.resource.as_str(), watches.version.resource())
            .within(&self.cluster.namespace);
        watches.clusters.get(&reference)
    }

    async fn create(&self, database: &DatabaseSpec) -> Result<()> {
        let watches = self.watches().await?;
        // A cluster that is being deleted cannot be kept, and must be gone before a new one is created.
        let gone = watches.context.until(database.project, || {
            self.find(watches, database)
                .is_none_or(|cluster| !is_deleting(&cluster))
                .then_some(())
        });
        timeout(DELETE_TIMEOUT, gone).await.map_err(|_| {
            DriverError::new(
                FailureKind::Transient,
                "the database's cluster is still being deleted; a new one is created when it is gone",
            )
        })?;
        let settings = &self.settings;
        let name = database.resource.as_str();
        let account = objects::account(database, settings);
        self.cluster
            .apply(
                "create a service account",
                self.api::<ServiceAccount>(),
                name,
                account,
            )
            .await?;
        let role = objects::role(database, settings);
        self.cluster
            .apply("create a role", self.api::<Role>(), name, role)
            .await?;
        let binding = objects::binding(database, settings, &self.cluster.namespace);
        self.cluster
            .apply("create a role binding", self.api::<RoleBinding>(), name, binding)
            .await?;
        let cluster = objects::cluster(database, settings, watches.version);
        self.cluster
            .apply(
                "create a database cluster",
                self.clusters_of(watches.version),
                name,
                cluster,
            )
            .await?;
        let running = watches.context.until(database.project, || {
            let cluster = self.find(watches, database)?;
            match phase(&cluster) {
                "Running" if !is_deleting(&cluster) => Some(Ok(cluster)),
                "Failed" | "Abnormal" => Some(Err(creation_failure(&cluster))),
                _ => None,
            }
        });
        let cluster = timeout(CREATE_TIMEOUT, running).await.unwrap_or_else(|_| {
            let phase = self
                .find(watches, database)
                .map_or_else(|| "gone".to_owned(), |cluster| phase(&cluster).to_owned());
            Err(DriverError::new(
                FailureKind::Transient,
                format!(
                    "KubeBlocks has not created the database within {} minutes (its phase is {phase}); it is retried",
                    CREATE_TIMEOUT.as_secs() / 60
                ),
            ))
        })?;
        let account = self.superuser(&cluster, database).await?;
        let mut connection = self
            .sign_in(database, &account.user, &account.password, "postgres")
            .await?;
        if server::observe(&mut connection, database)
            .await
            .map_err(failure)?
            == State::Foreign
        {
            return Err(DriverError::new(
                FailureKind::Machine,
                format!(
                    "the database's server has a role {} that FullStack Agent did not create; rename or remove it",
                    database.role()
                ),
            ));
        }
        server::create(&mut connection, database, None)
            .await
            .map_err(failure)?;
        let _ = connection.close().await;
        Ok(())
    }
}

fn is_deleting(cluster: &DynamicObject) -> bool {
    cluster.metadata.deletion_timestamp.is_some()
}

fn creation_failure(cluster: &DynamicObject) -> DriverError {
    let message = cluster
        .data
        .pointer("/status/message")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    let failure = Failure {
        kubernetes_status: Some(format!("{}: {message}", phase(cluster))),
        ..Failure::new(
            FailureKind::Machine,
            "KubeBlocks could not create the database; its status has the reason",
        )
    };
    failure.into()
}

#[async_trait]
impl Databases for KubeBlocks {
    fn provider(&self) -> &'static str {
        "kubeblocks"
    }

    async fn observe(&self, database: &DatabaseSpec) -> Result<ObservedDatabase> {
        let watches = self.watches().await?;
        // The data of a cluster that is being deleted is already lost.
        match self
            .find(watches, database)
            .filter(|cluster| !is_deleting(cluster))
        {
            None => {
                self.servers.remove(&database.resource);
                Ok(ObservedDatabase::Absent)
            }
            Some(cluster) if phase(&cluster) != "Running" => Ok(ObservedDatabase::Partial),
            Some(cluster) => self.observe_server(watches, &cluster, database).await,
        }
    }

    async fn ensure(&self, database: &DatabaseSpec) -> Result<()> {
        if self.observe(database).await? == ObservedDatabase::Ready {
            return Ok(());
        }
        self.create(database).await
    }

    async fn credentials(&self, database: &DatabaseSpec) -> Result<Credentials> {
        let watches = self.watches().await?;
        let gone = || {
            DriverError::new(
                FailureKind::Transient,
                "the database does not exist; it is created again",
            )
        };
        let cluster = self.find(watches, database).ok_or_else(gone)?;
        let host = match self.servers.host(&database.resource, &cluster) {
            Some(host) => host,
            None => self.superuser(&cluster, database).await?.host,
        };
        Ok(Credentials {
            host: host.unwrap_or_else(|| watches.version.host(database.resource.as_str())),
            port: PORT,
            user: database.role(),
            password: database.password.clone(),
            database: database.role(),
        })
    }

    fn predictable_credentials(&self) -> bool {
        false
    }

    fn changes(&self) -> BoxStream<Requeue> {
        requeue_stream(self.context.requeues())
    }

    async fn drop(&self, database: &DatabaseSpec) -> Result<()> {
        let watches = self.watches().await?;
        self.servers.remove(&database.resource);
        let name = database.resource.as_str();
        let background = DeleteParams::background();
        if self.find(watches, database).is_some() {
            self.cluster
                .change_if_present(
                    "delete a database cluster",
                    self.clusters_of(watches.version).delete(name, &background),
                )
                .await?;
            let gone = watches.context.until(database.project, || {
                self.find(watches, database).is_none().then_some(())
            });
            timeout(DELETE_TIMEOUT, gone).await.map_err(|_| {
                DriverError::new(
                    FailureKind::Transient,
                    "KubeBlocks has not removed the database yet; it is retried",
                )
            })?;
        }
        self.cluster
            .change_if_present(
                "delete a role binding",
                self.api::<RoleBinding>().delete(name, &background),
            )
            .await?;
        self.cluster
            .change_if_present("delete a role", self.api::<Role>().delete(name, &background))
            .await?;
        self.cluster
            .change_if_present(
                "delete a service account",
                self.api::<ServiceAccount>().delete(name, &background),
            )
            .await
            .map(drop)
    }

    async fn branch(&self, _: &DatabaseSpec, _: &DatabaseSpec) -> Result<()> {
        Err(DriverError::new(
            FailureKind::Machine,
            "KubeBlocks databases cannot be branched; those of a region with databases.provider `postgres` can",
        ))
    }

    async fn inventory(&self) -> Result<Vec<String>> {
        let watches = self.watches().await?;
        let names = watches.clusters.state();
        Ok(names
            .iter()
            .filter_map(|cluster| ResourceName::parse(&cluster.name_any()).ok())
            .map(|name| role_of(&name))
            .collect())
    }
}
