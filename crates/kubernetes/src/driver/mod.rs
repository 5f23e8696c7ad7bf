//! [`fsa_driver::Driver`] for a Kubernetes cluster.
//!
//! An observation reads the reflectors' stores. A change is server-side apply with one field manager, in a separate
//! task that holds the sandbox's mutex: if the caller stops waiting, the change still completes before the next one
//! starts.

mod apply;
mod connect;
mod object;
pub mod observe;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use fsa_driver::{
    BoxConnection, BoxStream, Capabilities, Driver, DriverError, Endpoint, ExternalEndpoint, Observed,
    RequestCount, Requeue, Result, Warning, keyed_mutex::KeyedMutex,
};
use fsa_model::{
    FailureKind, Image, ResourceName, SandboxRef, SandboxSpec, VolumeId, api::ImageInfo,
    image_reference::is_registry_reference, sandboxd::Usage,
};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::{NamespaceResourceScope, api::networking::v1::NetworkPolicyPeer};
use kube::{Api, Resource};
use observe::{RouteCounts, SandboxObjects, belongs};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::broadcast::error::RecvError;

use crate::{
    connection::Cluster,
    objects::{self, claim_name},
    reflectors::{Reflectors, named},
    settings::{Settings, Style},
};

/// The network peer and port of a project's database, from the name of its role, for the sandbox's policy.
pub type DatabasePeer = Arc<dyn Fn(&str) -> Option<(NetworkPolicyPeer, u16)> + Send + Sync>;

/// The driver of a region in a cluster.
#[derive(Clone)]
pub struct KubernetesDriver(Arc<Inner>);

struct Inner {
    cluster: Cluster,
    settings: Settings,
    reflectors: Reflectors,
    sandbox_locks: KeyedMutex<ResourceName>,
    /// A cache of control tokens; the sandboxes' Secrets have all of them.
    tokens: Mutex<HashMap<ResourceName, SecretString>>,
    database_peer: DatabasePeer,
}

impl KubernetesDriver {
    /// Starts to watch the cluster, which need not answer yet. Must be called in a tokio runtime.
    #[must_use]
    pub fn new(cluster: Cluster, settings: Settings, database_peer: DatabasePeer) -> Self {
        Self(Arc::new(Inner {
            reflectors: Reflectors::start(&cluster, &settings),
            cluster,
            settings,
            sandbox_locks: KeyedMutex::default(),
            tokens: Mutex::default(),
            database_peer,
        }))
    }

    /// The cluster that it uses.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }
}

impl Inner {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace)
    }

    /// How many Ingresses and HTTPRoutes a sandbox should have.
    fn expected_routes(&self) -> RouteCounts {
        match (&self.settings.expose.domain, self.settings.expose.style) {
            (None, _) => RouteCounts::default(),
            (Some(_), Style::Ingress) => RouteCounts {
                ingresses: 2,
                routes: 0,
            },
            (Some(_), Style::HttpRoute) => RouteCounts {
                ingresses: 0,
                routes: if self.settings.expose.gateway.is_some() {
                    2
                } else {
                    0
                },
            },
        }
    }

    /// The objects of a sandbox in the stores.
    fn cached(&self, sandbox: &SandboxRef) -> SandboxObjects {
        let (reflectors, namespace) = (&self.reflectors, self.cluster.namespace.as_str());
        let name = sandbox.resource.as_str();
        let mut pods = reflectors.pods.named(namespace, &sandbox.resource);
        pods.retain(|o| belongs(&o.metadata, sandbox));
        let route_names = [name.to_owned(), format!("{name}-terminal")];
        SandboxObjects {
            deployment: named(&reflectors.deployments, namespace, name)
                .filter(|o| belongs(&o.metadata, sandbox)),
            secret: named(&reflectors.secrets, namespace, name).filter(|o| belongs(&o.metadata, sandbox)),
            service: named(&reflectors.services, namespace, name).filter(|o| belongs(&o.metadata, sandbox)),
            policy: named(&reflectors.policies, namespace, name).filter(|o| belongs(&o.metadata, sandbox)),
            ingresses: route_names
                .iter()
                .filter_map(|name| named(&reflectors.ingresses, namespace, name))
                .filter(|o| belongs(&o.metadata, sandbox))
                .collect(),
            routes: route_names
                .iter()
                .filter_map(|name| reflectors.route(namespace, name))
                .filter(|o| belongs(&o.metadata, sandbox))
                .collect(),
            warning: observe::newest(&pods).and_then(|pod| reflectors.warnings.latest(pod)),
            pods,
            volume: named(&reflectors.claims, namespace, &claim_name(sandbox.volume))
                .is_some_and(|claim| claim.metadata.deletion_timestamp.is_none()),
        }
    }

    /// The reference of the spec's image.
    fn image(&self, spec: &SandboxSpec) -> Result<String> {
        let invalid = |message: String| DriverError::new(FailureKind::Input, message);
        let Some(image) = objects::image(spec, &self.settings) else {
            let Image::Template(name) = &spec.image else {
                return Err(invalid("the project has no image".into()));
            };
            return Err(invalid(format!(
                "the template `{name}` is not available on a cluster; choose `web` or an image"
            )));
        };
        if is_registry_reference(image) {
            Ok(image.to_owned())
        } else {
            Err(invalid(format!(
                "`{image}` is not a valid image reference, such as registry.example/name:tag"
            )))
        }
    }

    /// Every sandbox that an object of ours names.
    fn inventory(&self) -> Vec<SandboxRef> {
        let reflectors = &self.reflectors;
        let mut all: HashMap<ResourceName, SandboxRef> = HashMap::new();
        let mut add = |metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            if let Some(owner) = objects::owner(metadata) {
                all.insert(owner.resource.clone(), owner);
            }
        };
        reflectors
            .deployments
            .state()
            .iter()
            .for_each(|o| add(&o.metadata));
        reflectors.services.state().iter().for_each(|o| add(&o.metadata));
        reflectors.policies.state().iter().for_each(|o| add(&o.metadata));
        reflectors.secrets.state().iter().for_each(|o| add(&o.metadata));
        reflectors.ingresses.state().iter().for_each(|o| add(&o.metadata));
        reflectors
            .pods
            .store
            .state()
            .iter()
            .for_each(|o| add(&o.metadata));
        if let Some(routes) = &reflectors.routes {
            routes.state().iter().for_each(|o| add(&o.metadata));
        }
        all.into_values().collect()
    }
}

#[async_trait]
impl Driver for KubernetesDriver {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            driver: "kubernetes",
            enforces_memory: true,
            enforces_cpu: true,
            // The administrator sets the kubelet's podPidsLimit.
            enforces_pids: false,
            isolates_network: true,
            imports_images: false,
            keeps_root_files: false,
            restarts_by_itself: true,
            // Its process may run before it listens.
            listens_at_start: false,
            snapshots: false,
            shares_snapshots: false,
            is_remote: true,
        }
    }

    async fn observe(&self, sandbox: &SandboxRef) -> Result<Observed> {
        self.0.reflectors.ready().await?;
        Ok(observe::observed(
            &self.0.cached(sandbox),
            self.0.expected_routes(),
        ))
    }

    async fn ensure_network(&self, spec: &SandboxSpec) -> Result<()> {
        self.apply_network(spec).await
    }

    async fn ensure_container(&self, spec: &SandboxSpec) -> Result<()> {
        self.apply_container(spec).await
    }

    async fn await_serving(&self, sandbox: &SandboxRef) -> Result<()> {
        self.wait_until_ready(sandbox).await;
        Ok(())
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<()> {
        self.scale_to_zero(sandbox).await
    }

    async fn destroy(&self, sandbox: &SandboxRef) -> Result<()> {
        self.delete_objects(sandbox).await
    }

    async fn remove_volume(&self, volume: VolumeId) -> Result<()> {
        self.delete_claim(volume).await
    }

    async fn connect(&self, sandbox: &SandboxRef, endpoint: Endpoint) -> Result<BoxConnection> {
        match endpoint {
            Endpoint::Control => self.connect_pod(sandbox, objects::CONTROL_PORT).await,
            Endpoint::Port(port) => self.connect_loopback(sandbox, port).await,
        }
    }

    fn changes(&self) -> BoxStream<Requeue> {
        let requeues = self.0.reflectors.requeues();
        // The stream holds the driver, so that the watches live as long as it.
        stream::unfold((requeues, self.clone()), |(mut requeues, driver)| async move {
            match requeues.recv().await {
                Ok(requeue) => Some((requeue, (requeues, driver))),
                Err(RecvError::Lagged(_)) => Some((Requeue::Everything, (requeues, driver))),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }

    fn warnings(&self) -> BoxStream<Warning> {
        let (recorded, later) = self.0.reflectors.warnings.subscribe();
        // The stream holds the driver, so that the watches live as long as it.
        let later = stream::unfold((later, self.clone()), |(mut later, driver)| async move {
            loop {
                match later.recv().await {
                    Ok(warning) => return Some((warning, (later, driver))),
                    Err(RecvError::Lagged(lost)) => {
                        tracing::warn!(lost, "too many warnings of the cluster; some are not reported");
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        stream::iter(recorded).chain(later).boxed()
    }

    async fn usage(&self, sandbox: &SandboxRef) -> Result<Usage> {
        self.read_usage(sandbox).await
    }

    async fn inventory(&self) -> Result<Vec<SandboxRef>> {
        self.0.reflectors.ready().await?;
        Ok(self.0.inventory())
    }

    async fn images(&self) -> Result<Vec<ImageInfo>> {
        Ok(Vec::new())
    }

    async fn import_image(&self, _: &str, _: BoxStream<std::io::Result<Bytes>>) -> Result<ImageInfo> {
        Err(DriverError::new(
            FailureKind::Input,
            "this region pulls its images from registries; push the image to a registry and use its reference",
        ))
    }

    async fn check_image(&self, spec: &SandboxSpec) -> Result<()> {
        self.0.image(spec).map(drop)
    }

    fn external_endpoint(&self, sandbox: &SandboxRef, port: u16) -> Option<ExternalEndpoint> {
        let expose = &self.0.settings.expose;
        let domain = expose
            .domain
            .as_ref()
            .filter(|_| expose.style == Style::Ingress)?;
        objects::hosts(&sandbox.resource, domain)
            .into_iter()
            .find(|host| host.port == port)
            .map(|host| ExternalEndpoint {
                host: host.host.to_ascii_lowercase(),
                secure: expose.tls_secret.is_some(),
            })
    }

    fn request_counts(&self) -> Vec<RequestCount> {
        self.0.cluster.request_metrics.snapshot()
    }

    async fn terminal_token(&self, sandbox: &SandboxRef) -> Result<SecretString> {
        Ok(objects::terminal_token(&self.token(sandbox).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_image_reference_is_refused_before_a_pull() {
        for valid in [
            "web",
            "fsa.test/tools:1",
            "localhost:5000/a/b:Tag_1",
            "registry.example/x@sha256:0123abcd",
        ] {
            assert!(is_registry_reference(valid), "{valid}");
        }
        for invalid in ["", "no such image", "Web", "http://x y", "a/:", "-x", "x:"] {
            assert!(!is_registry_reference(invalid), "{invalid}");
        }
    }
}
