//! Databases as KubeBlocks clusters, one each. KubeBlocks makes the server; the project's own
//! role and database in it are ours, so that no program in a sandbox is ever its superuser.
//!
//! Clusters are known from a watch, so existence is verified without asking for it.

mod inside;
pub mod objects;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fsa_driver::{BoxStream, Databases, DriverError, ObservedDatabase, Requeue, Result};
use fsa_model::{DatabaseSpec, Failure, FailureKind, ResourceName, spec::Credentials, spec::role_of};
use inside::Memory;
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
use sqlx::Connection as _;
use tokio::{sync::OnceCell, task::JoinSet, time::timeout};

use super::{
    postgres::failure,
    server::{self, State},
};
use crate::{
    connection::{Cluster, PATIENCE, call},
    objects::network_policy::pods,
    reflectors::{Told, follow, stream_of},
    settings::Settings,
};

/// KubeBlocks makes a volume and pulls an image first.
const RUNNING: Duration = Duration::from_secs(540);
const GONE: Duration = Duration::from_secs(100);
/// For one sign-in, with the way to the pod.
const SIGN_IN: Duration = Duration::from_secs(15);
const PORT: u16 = 5432;
/// The pods that KubeBlocks has made.
const PODS: &str = "app.kubernetes.io/managed-by=kubeblocks";

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
    told: Told,
    known: OnceCell<Known>,
    memory: Memory,
}

/// What is known once the cluster has answered.
struct Known {
    version: Version,
    clusters: Store<DynamicObject>,
    /// Of all clusters, since KubeBlocks gives them labels of its own.
    pods: Store<Pod>,
    told: Told,
    _watch: JoinSet<()>,
}

impl KubeBlocks {
    #[must_use]
    pub fn new(cluster: Cluster, settings: Settings) -> Self {
        Self {
            cluster,
            told: Told::new(&settings),
            settings,
            known: OnceCell::new(),
            memory: Memory::default(),
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
                        FailureKind::Machine,
                        "the cluster has no KubeBlocks (the CRD clusters.apps.kubeblocks.io is missing): install it, or set \
                         databases.provider = \"postgres\" for this region",
                    )
                })?;
                let told = self.told.clone();
                let mut watch = JoinSet::new();
                let api = self.clusters_of(version);
                let clusters = follow(&mut watch, &told, api, version.resource());
                let pods = follow(&mut watch, &told.selecting(PODS), self.api::<Pod>(), ());
                Ok::<_, DriverError>(Known {
                    version,
                    clusters,
                    pods,
                    told,
                    _watch: watch,
                })
            })
            .await?;
        let ready = async {
            known.clusters.wait_until_ready().await.is_ok() && known.pods.wait_until_ready().await.is_ok()
        };
        match timeout(PATIENCE, ready).await {
            Ok(true) => Ok(known),
            _ => Err(DriverError::new(
                FailureKind::Transient,
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

    async fn make(&self, database: &DatabaseSpec) -> Result<()> {
        let known = self.known().await?;
        // One that somebody deletes is beyond saving, and has to be gone before there can be another.
        let gone = known.told.until(database.project, || {
            self.find(known, database)
                .is_none_or(|cluster| !is_going(&cluster))
                .then_some(())
        });
        timeout(GONE, gone).await.map_err(|_| {
            DriverError::new(
                FailureKind::Transient,
                "the database's cluster is being deleted and not gone yet; a new one is made when it is",
            )
        })?;
        let settings = &self.settings;
        let name = database.resource.as_str();
        let account = objects::account(database, settings);
        self.cluster
            .apply(
                "make a service account",
                self.api::<ServiceAccount>(),
                name,
                account,
            )
            .await?;
        let role = objects::role(database, settings);
        self.cluster
            .apply("make a role", self.api::<Role>(), name, role)
            .await?;
        let binding = objects::binding(database, settings, &self.cluster.namespace);
        self.cluster
            .apply("make a role binding", self.api::<RoleBinding>(), name, binding)
            .await?;
        let cluster = objects::cluster(database, settings, known.version);
        self.cluster
            .apply(
                "make a database cluster",
                self.clusters_of(known.version),
                name,
                cluster,
            )
            .await?;
        let running = known.told.until(database.project, || {
            let cluster = self.find(known, database)?;
            match phase(&cluster) {
                "Running" if !is_going(&cluster) => Some(Ok(cluster)),
                "Failed" | "Abnormal" => Some(Err(failed(&cluster))),
                _ => None,
            }
        });
        let cluster = timeout(RUNNING, running).await.unwrap_or_else(|_| {
            let phase = self
                .find(known, database)
                .map_or_else(|| "gone".to_owned(), |cluster| phase(&cluster).to_owned());
            Err(DriverError::new(
                FailureKind::Transient,
                format!(
                    "KubeBlocks has not made the database within {} minutes (its phase is {phase}); it is tried again",
                    RUNNING.as_secs() / 60
                ),
            ))
        })?;
        let account = self.superuser(&cluster, database).await?;
        let mut connection = self
            .sign_in(database, &account.user, &account.password, "postgres")
            .await?;
        if server::look(&mut connection, database).await.map_err(failure)? == State::Foreign {
            return Err(DriverError::new(
                FailureKind::Machine,
                format!(
                    "the database's server has a role {} that is not ours",
                    database.role()
                ),
            ));
        }
        server::make(&mut connection, database, None)
            .await
            .map_err(failure)?;
        let _ = connection.close().await;
        Ok(())
    }
}

/// Whether somebody has deleted it.
fn is_going(cluster: &DynamicObject) -> bool {
    cluster.metadata.deletion_timestamp.is_some()
}

fn failed(cluster: &DynamicObject) -> DriverError {
    let message = cluster
        .data
        .pointer("/status/message")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    let failure = Failure {
        kubernetes_status: Some(format!("{}: {message}", phase(cluster))),
        ..Failure::new(
            FailureKind::Machine,
            "KubeBlocks could not make the database; its status has the reason",
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
        let known = self.known().await?;
        // What is in one that is being deleted is lost already.
        match self.find(known, database).filter(|cluster| !is_going(cluster)) {
            None => {
                self.memory.forget(&database.resource);
                Ok(ObservedDatabase::Absent)
            }
            Some(cluster) if phase(&cluster) != "Running" => Ok(ObservedDatabase::Partial),
            Some(cluster) => self.inside(known, &cluster, database).await,
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
        let gone = || {
            DriverError::new(
                FailureKind::Transient,
                "the database is not there; it is made again",
            )
        };
        let cluster = self.find(known, database).ok_or_else(gone)?;
        let host = match self.memory.host(&database.resource, &cluster) {
            Some(host) => host,
            None => self.superuser(&cluster, database).await?.host,
        };
        Ok(Credentials {
            host: host.unwrap_or_else(|| known.version.host(database.resource.as_str())),
            port: PORT,
            user: database.role(),
            password: database.password.clone(),
            database: database.role(),
        })
    }

    fn known_ahead(&self) -> bool {
        false
    }

    fn changes(&self) -> BoxStream<Requeue> {
        stream_of(self.told.requeues())
    }

    async fn drop(&self, database: &DatabaseSpec) -> Result<()> {
        let known = self.known().await?;
        self.memory.forget(&database.resource);
        let name = database.resource.as_str();
        let background = DeleteParams::background();
        if self.find(known, database).is_some() {
            self.cluster
                .change_if_there(
                    "delete a database cluster",
                    self.clusters_of(known.version).delete(name, &background),
                )
                .await?;
            let gone = known.told.until(database.project, || {
                self.find(known, database).is_none().then_some(())
            });
            timeout(GONE, gone).await.map_err(|_| {
                DriverError::new(
                    FailureKind::Transient,
                    "KubeBlocks has not removed the database yet; it is tried again",
                )
            })?;
        }
        self.cluster
            .change_if_there(
                "delete a role binding",
                self.api::<RoleBinding>().delete(name, &background),
            )
            .await?;
        self.cluster
            .change_if_there("delete a role", self.api::<Role>().delete(name, &background))
            .await?;
        self.cluster
            .change_if_there(
                "delete a service account",
                self.api::<ServiceAccount>().delete(name, &background),
            )
            .await
            .map(drop)
    }

    async fn branch(&self, _: &DatabaseSpec, _: &DatabaseSpec) -> Result<()> {
        Err(DriverError::new(
            FailureKind::Machine,
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
