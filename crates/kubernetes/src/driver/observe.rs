//! Observed state of a sandbox, computed from its cached objects. Pure.

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

/// The cached objects of one sandbox.
#[derive(Default)]
pub struct SandboxObjects {
    pub deployment: Option<Arc<CachedObject<Deployment>>>,
    pub secret: Option<Arc<PartialObjectMeta<Secret>>>,
    pub service: Option<Arc<CachedObject<Service>>>,
    pub policy: Option<Arc<CachedObject<NetworkPolicy>>>,
    pub ingresses: Vec<Arc<CachedObject<Ingress>>>,
    pub routes: Vec<Arc<CachedObject<DynamicObject>>>,
    pub pods: Vec<Arc<Pod>>,
    /// The latest warning about the [`newest`] pod.
    pub warning: Option<Failure>,
    /// Whether the home volume exists and is not being deleted.
    pub volume: bool,
}

/// How many Ingresses and HTTPRoutes a sandbox should have.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteCounts {
    pub ingresses: usize,
    pub routes: usize,
}

#[must_use]
pub fn observed(cached: &SandboxObjects, expected: RouteCounts) -> Observed {
    let service = cached.service.as_ref().is_some_and(|service| service.summary.0);
    let policy = cached.policy.as_ref().is_some_and(|policy| policy.summary.0);
    let ingresses = cached
        .ingresses
        .iter()
        .filter(|ingress| ingress.summary.0)
        .count();
    let routes = cached.routes.iter().filter(|route| route.summary.0).count();
    let pod = newest(&cached.pods);
    Observed {
        container: container(cached, pod),
        digest: digest(cached),
        network: service && policy && ingresses >= expected.ingresses && routes >= expected.routes,
        failure: failure(cached, pod),
        volume: cached.volume,
    }
}

/// Why no process runs, if none does and the cluster reports a reason.
pub fn failure(cached: &SandboxObjects, pod: Option<&Arc<Pod>>) -> Option<Failure> {
    match pod {
        Some(pod) if runs(pod) => None,
        Some(pod) => pod_diagnosis::failure(pod).or_else(|| cached.warning.clone()),
        None => cached
            .deployment
            .as_ref()
            .and_then(|deployment| deployment.summary.pod_creation_failure.clone()),
    }
}

/// The current pod: the newest of those that are not being deleted.
#[must_use]
pub fn newest(pods: &[Arc<Pod>]) -> Option<&Arc<Pod>> {
    pods.iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .max_by_key(|pod| pod.creation_timestamp().map(|time| time.0))
}

/// The state of a sandbox's container.
#[must_use]
pub fn container(cached: &SandboxObjects, pod: Option<&Arc<Pod>>) -> ContainerState {
    let Some(deployment) = &cached.deployment else {
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
        // A pod that waits for a node or an image has no process yet.
        _ => ContainerState::Stopped,
    }
}

/// The digest that the container was started with, if its Secret and Deployment match what was applied.
fn digest(cached: &SandboxObjects) -> Option<String> {
    let deployment = cached.deployment.as_ref()?;
    let digest = deployment.annotations().get(DIGEST)?;
    let secret = cached.secret.as_ref()?;
    let stopped = deployment.summary.replicas == Some(0);
    let is_current =
        stopped || (secret.annotations().get(DIGEST) == Some(digest) && deployment.summary.matches_applied);
    is_current.then(|| digest.clone())
}

/// Whether the user's container has processes.
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

/// Whether an object belongs to this very sandbox, and not to another one with the same name.
#[must_use]
pub fn belongs(
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    sandbox: &SandboxRef,
) -> bool {
    objects::owner(metadata)
        .is_some_and(|owner| owner.resource == sandbox.resource && owner.project == sandbox.project)
}
