//! The promises of [`fsa_driver::Driver`], kept by a Kubernetes cluster.
//!
//! A look reads the watches' stores. A change is server-side apply with one field manager, done
//! in a task of its own that holds the sandbox's turn, so that a step which nobody waits for any
//! more cannot come after the one that follows it.

mod change;
pub mod look;
mod object;
mod reach;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use fsa_driver::{
    BoxConnection, BoxStream, Calls, Capabilities, Driver, DriverError, Endpoint, ExternalEndpoint, Observed,
    Requeue, Result, Warning, keyed_mutex::KeyedMutex,
};
use fsa_model::{
    FailureKind, Image, ProjectId, ResourceName, SandboxRef, SandboxSpec, api::ImageInfo,
    image_reference::is_registry_reference, sandboxd::Usage,
};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::{NamespaceResourceScope, api::networking::v1::NetworkPolicyPeer};
use kube::{Api, Resource};
use look::{Found, WaysIn, belongs};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::broadcast::error::RecvError;

use crate::{
    connection::Cluster,
    objects::{self, claim_name},
    reflectors::{Reflectors, named},
    settings::{Settings, Style},
};

/// Where a project's database is on the network, for the hole in its policy: by the name of its
/// role.
pub type DatabasePeer = Arc<dyn Fn(&str) -> Option<(NetworkPolicyPeer, u16)> + Send + Sync>;

/// The driver for a cluster.
#[derive(Clone)]
pub struct KubernetesDriver(Arc<Inner>);

struct Inner {
    cluster: Cluster,
    settings: Settings,
    watched: Reflectors,
    sandbox_locks: KeyedMutex<ResourceName>,
    /// Of sandboxes that this process has started or asked for; the cluster has them all.
    tokens: Mutex<HashMap<ResourceName, SecretString>>,
    database_peer: DatabasePeer,
}

impl KubernetesDriver {
    /// Begins to watch the cluster. It need not answer yet. Must be called in a tokio runtime.
    #[must_use]
    pub fn new(cluster: Cluster, settings: Settings, database_peer: DatabasePeer) -> Self {
        Self(Arc::new(Inner {
            watched: Reflectors::start(&cluster, &settings),
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

    fn ways_in(&self) -> WaysIn {
        match (&self.settings.expose.domain, self.settings.expose.style) {
            (None, _) => WaysIn::default(),
            (Some(_), Style::Ingress) => WaysIn {
                ingresses: 2,
                routes: 0,
            },
            (Some(_), Style::HttpRoute) => WaysIn {
                ingresses: 0,
                routes: if self.settings.expose.gateway.is_some() {
                    2
                } else {
                    0
                },
            },
        }
    }

    /// What the stores have of a sandbox.
    fn found(&self, sandbox: &SandboxRef) -> Found {
        let (watched, namespace) = (&self.watched, self.cluster.namespace.as_str());
        let name = sandbox.resource.as_str();
        let mut pods = watched.pods.named(namespace, &sandbox.resource);
        pods.retain(|o| belongs(&o.metadata, sandbox));
        let ways_in = [name.to_owned(), format!("{name}-terminal")];
        Found {
            deployment: named(&watched.deployments, namespace, name)
                .filter(|o| belongs(&o.metadata, sandbox)),
            secret: named(&watched.secrets, namespace, name).filter(|o| belongs(&o.metadata, sandbox)),
            service: named(&watched.services, namespace, name).filter(|o| belongs(&o.metadata, sandbox)),
            policy: named(&watched.policies, namespace, name).filter(|o| belongs(&o.metadata, sandbox)),
            ingresses: ways_in
                .iter()
                .filter_map(|name| named(&watched.ingresses, namespace, name))
                .filter(|o| belongs(&o.metadata, sandbox))
                .collect(),
            routes: ways_in
                .iter()
                .filter_map(|name| watched.route(namespace, name))
                .filter(|o| belongs(&o.metadata, sandbox))
                .collect(),
            warned: look::newest(&pods).and_then(|pod| watched.warnings.latest(pod)),
            pods,
            volume: named(&watched.claims, namespace, &claim_name(sandbox.project))
                .is_some_and(|claim| claim.metadata.deletion_timestamp.is_none()),
        }
    }

    /// The image that a spec asks for, in the cluster's words.
    fn image(&self, spec: &SandboxSpec) -> Result<String> {
        let wrong = |message: String| DriverError::new(FailureKind::Input, message);
        let Some(image) = objects::image(spec, &self.settings) else {
            let Image::Template(name) = &spec.image else {
                return Err(wrong("the project has no image".into()));
            };
            return Err(wrong(format!(
                "the template `{name}` is of one machine and not to be had on a cluster; choose `web` or an image"
            )));
        };
        if is_registry_reference(image) {
            Ok(image.to_owned())
        } else {
            Err(wrong(format!(
                "`{image}` is not the name of an image, such as registry.example/name:tag"
            )))
        }
    }

    /// Every sandbox that any object names.
    fn inventory(&self) -> Vec<SandboxRef> {
        let watched = &self.watched;
        let mut all: HashMap<ResourceName, SandboxRef> = HashMap::new();
        let mut add = |metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            if let Some(owner) = objects::owner(metadata) {
                all.insert(owner.resource.clone(), owner);
            }
        };
        watched.deployments.state().iter().for_each(|o| add(&o.metadata));
        watched.services.state().iter().for_each(|o| add(&o.metadata));
        watched.policies.state().iter().for_each(|o| add(&o.metadata));
        watched.secrets.state().iter().for_each(|o| add(&o.metadata));
        watched.ingresses.state().iter().for_each(|o| add(&o.metadata));
        watched.pods.store.state().iter().for_each(|o| add(&o.metadata));
        if let Some(routes) = &watched.routes {
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
            // The kubelet's podPidsLimit is its administrator's to set.
            enforces_pids: false,
            isolates_network: true,
            imports_images: false,
            keeps_root_files: false,
            restarts_by_itself: true,
            // Its process may run before it listens.
            listens_at_start: false,
            works_elsewhere: true,
        }
    }

    async fn observe(&self, sandbox: &SandboxRef) -> Result<Observed> {
        self.0.watched.ready().await?;
        Ok(look::observed(&self.0.found(sandbox), self.0.ways_in()))
    }

    async fn ensure_network(&self, spec: &SandboxSpec) -> Result<()> {
        self.apply_network(spec).await
    }

    async fn ensure_container(&self, spec: &SandboxSpec) -> Result<()> {
        self.apply_container(spec).await
    }

    async fn await_serving(&self, sandbox: &SandboxRef) -> Result<()> {
        self.until_ready(sandbox).await;
        Ok(())
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<()> {
        self.stop_pod(sandbox).await
    }

    async fn destroy(&self, sandbox: &SandboxRef) -> Result<()> {
        self.remove(sandbox).await
    }

    async fn remove_volume(&self, project: ProjectId) -> Result<()> {
        self.remove_claim(project).await
    }

    async fn connect(&self, sandbox: &SandboxRef, endpoint: Endpoint) -> Result<BoxConnection> {
        match endpoint {
            Endpoint::Control => self.reach(sandbox, objects::CONTROL_PORT).await,
            Endpoint::Port(port) => self.reach_loopback(sandbox, port).await,
        }
    }

    fn changes(&self) -> BoxStream<Requeue> {
        let requeues = self.0.watched.requeues();
        // The driver is held, so that the stream ends only with it.
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
        let (known, later) = self.0.watched.warnings.subscribe();
        // The driver is held, so that the stream ends only with it.
        let later = stream::unfold((later, self.clone()), |(mut later, driver)| async move {
            loop {
                match later.recv().await {
                    Ok(warning) => return Some((warning, (later, driver))),
                    Err(RecvError::Lagged(lost)) => {
                        tracing::warn!(lost, "the cluster warns of more than can be told");
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        stream::iter(known).chain(later).boxed()
    }

    async fn usage(&self, sandbox: &SandboxRef) -> Result<Usage> {
        self.ask_usage(sandbox).await
    }

    async fn inventory(&self) -> Result<Vec<SandboxRef>> {
        self.0.watched.ready().await?;
        Ok(self.0.inventory())
    }

    async fn images(&self) -> Result<Vec<ImageInfo>> {
        Ok(Vec::new())
    }

    async fn import_image(&self, _: &str, _: BoxStream<std::io::Result<Bytes>>) -> Result<ImageInfo> {
        Err(DriverError::new(
            FailureKind::Input,
            "this region takes its images from registries; push the image to one and use its name",
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
            .find(|way| way.port == port)
            .map(|way| ExternalEndpoint {
                host: way.host.to_ascii_lowercase(),
                secure: expose.tls_secret.is_some(),
            })
    }

    fn calls(&self) -> Vec<Calls> {
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
    fn what_cannot_be_an_image_is_found_out_before_anybody_waits_for_it() {
        for right in [
            "web",
            "fsa.test/tools:1",
            "localhost:5000/a/b:Tag_1",
            "registry.example/x@sha256:0123abcd",
        ] {
            assert!(is_registry_reference(right), "{right}");
        }
        for wrong in ["", "no such image", "Web", "http://x y", "a/:", "-x", "x:"] {
            assert!(!is_registry_reference(wrong), "{wrong}");
        }
    }
}
