//! What is seen of a sandbox, from the objects that are there. Pure.

use std::sync::Arc;

use fsa_driver::Observed;
use fsa_model::{ContainerState, Failure, SandboxRef};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Secret, Service},
    networking::v1::{Ingress, NetworkPolicy},
};
use kube::{
    ResourceExt as _,
    core::{DynamicObject, PartialObjectMeta},
};

use crate::{
    cached_object::CachedObject,
    objects::{self, CONTAINER, DIGEST},
    pod_diagnosis,
};

/// The objects of one sandbox.
#[derive(Default)]
pub struct Found {
    pub deployment: Option<Arc<CachedObject<Deployment>>>,
    pub secret: Option<Arc<PartialObjectMeta<Secret>>>,
    pub service: Option<Arc<CachedObject<Service>>>,
    pub policy: Option<Arc<CachedObject<NetworkPolicy>>>,
    pub ingresses: Vec<Arc<CachedObject<Ingress>>>,
    pub routes: Vec<Arc<CachedObject<DynamicObject>>>,
    pub pods: Vec<Arc<Pod>>,
    /// What the cluster said last of the pod that counts.
    pub warned: Option<Failure>,
    pub volume: bool,
}

/// How many ways in from outside there should be.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaysIn {
    pub ingresses: usize,
    pub routes: usize,
}

#[must_use]
pub fn observed(found: &Found, ways: WaysIn) -> Observed {
    let service = found.service.as_ref().is_some_and(|service| service.summary.0);
    let policy = found.policy.as_ref().is_some_and(|policy| policy.summary.0);
    let ingresses = found.ingresses.iter().filter(|ingress| ingress.summary.0).count();
    let routes = found.routes.iter().filter(|route| route.summary.0).count();
    let pod = newest(&found.pods);
    Observed {
        container: container(found, pod),
        digest: digest(found),
        network: service && policy && ingresses >= ways.ingresses && routes >= ways.routes,
        failure: failure(found, pod),
        volume: found.volume,
    }
}

/// Why there are no processes, where there are none and something is known.
pub fn failure(found: &Found, pod: Option<&Arc<Pod>>) -> Option<Failure> {
    match pod {
        Some(pod) if runs(pod) => None,
        Some(pod) => pod_diagnosis::failure(pod).or_else(|| found.warned.clone()),
        None => found
            .deployment
            .as_ref()
            .and_then(|deployment| deployment.summary.pod_creation_failure.clone()),
    }
}

/// The pod that counts: the newest of those that are not on their way out.
#[must_use]
pub fn newest(pods: &[Arc<Pod>]) -> Option<&Arc<Pod>> {
    pods.iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .max_by_key(|pod| pod.creation_timestamp().map(|time| time.0))
}

/// What the container of a sandbox does.
#[must_use]
pub fn container(found: &Found, pod: Option<&Arc<Pod>>) -> ContainerState {
    let Some(deployment) = &found.deployment else {
        return ContainerState::Absent;
    };
    let replicas = deployment.summary.replicas.unwrap_or(1);
    match pod {
        Some(pod) if replicas > 0 && runs(pod) => {
            if is_ready(pod) {
                ContainerState::Running
            } else {
                ContainerState::Starting
            }
        }
        // A pod that waits for a node or an image has no process.
        _ => ContainerState::Stopped,
    }
}

/// The digest that the container was started with, where everything that makes it is as it was
/// asked for.
fn digest(found: &Found) -> Option<String> {
    let deployment = found.deployment.as_ref()?;
    let digest = deployment.annotations().get(DIGEST)?;
    let secret = found.secret.as_ref()?;
    let stopped = deployment.summary.replicas == Some(0);
    let right =
        stopped || (secret.annotations().get(DIGEST) == Some(digest) && deployment.summary.matches_applied);
    right.then(|| digest.clone())
}

/// Whether the person's container has processes.
#[must_use]
pub fn runs(pod: &Pod) -> bool {
    status_of(pod).is_some_and(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

fn is_ready(pod: &Pod) -> bool {
    status_of(pod).is_some_and(|status| status.ready)
}

fn status_of(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::ContainerStatus> {
    pod.status
        .as_ref()?
        .container_statuses
        .as_ref()?
        .iter()
        .find(|status| status.name == CONTAINER)
}

/// Whether an object belongs to this very sandbox, and not to another of its name.
#[must_use]
pub fn belongs(
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    sandbox: &SandboxRef,
) -> bool {
    objects::owner(metadata)
        .is_some_and(|owner| owner.resource == sandbox.resource && owner.project == sandbox.project)
}
