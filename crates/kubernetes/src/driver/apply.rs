//! Changes: apply, scale and delete the objects of a sandbox. Each change waits until the watches have observed it, so
//! that the next observation includes it.

use std::{sync::Arc, time::Duration};

use fsa_driver::{DriverError, Result};
use fsa_model::{ContainerState, FailureKind, ProjectId, SandboxRef, SandboxSpec, VolumeId};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{PersistentVolumeClaim, Pod, Secret, Service},
    networking::v1::{Ingress, NetworkPolicy},
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    Inner, KubernetesDriver,
    object::is_observed,
    observe::{belongs, container, failure, newest, runs},
};
use crate::{
    drift,
    objects::{self, DIGEST, FIELD_MANAGER, claim_name},
    pod_diagnosis,
    reflectors::named,
};

/// For a pod to run: its image may have to be pulled. The caller's own timeout is longer.
const START_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a pod may stay unscheduled or fail in other ways that may be transient, before that is reported as the failure.
const SCHEDULING_GRACE: Duration = Duration::from_secs(20);
/// For pods and objects to be deleted: more than a pod's termination grace period.
const DELETE_TIMEOUT: Duration = Duration::from_secs(45);

impl KubernetesDriver {
    pub(super) async fn apply_network(&self, spec: &SandboxSpec) -> Result<()> {
        let settings = &self.0.settings;
        let database = spec
            .database_role
            .as_deref()
            .and_then(|role| (self.0.database_peer)(role));
        let service =
            drift::with_applied_annotation(&objects::service(spec, settings)).map_err(not_serializable)?;
        let policy = drift::with_applied_annotation(&objects::network_policy::network_policy(
            spec, settings, database,
        ))
        .map_err(not_serializable)?;
        let ingresses = objects::ingresses(spec, settings)
            .iter()
            .map(drift::with_applied_annotation)
            .collect::<serde_json::Result<Vec<_>>>()
            .map_err(not_serializable)?;
        let routes = objects::http_routes(spec, settings)
            .iter()
            .map(drift::with_applied_annotation)
            .collect::<serde_json::Result<Vec<_>>>()
            .map_err(not_serializable)?;
        let sandbox = spec.sandbox.clone();
        self.locked(&spec.sandbox, move |inner| async move {
            inner.check_ownership(&sandbox)?;
            // The policy first, so that the sandbox is never reachable without it.
            let policy = inner
                .apply::<NetworkPolicy>("create a network policy", policy)
                .await?;
            let service = inner.apply::<Service>("create a service", service).await?;
            let mut applied_ingresses = Vec::new();
            for ingress in ingresses {
                applied_ingresses.push(inner.apply::<Ingress>("create an ingress", ingress).await?);
            }
            let mut applied_routes = Vec::new();
            for route in routes {
                applied_routes.push(inner.apply_route(route).await?);
            }
            let (reflectors, namespace) = (&inner.reflectors, &inner.cluster.namespace);
            reflectors
                .wait_until_observed(sandbox.project, || {
                    is_observed(
                        &policy,
                        named(&reflectors.policies, namespace, &policy.name_any()),
                    ) && is_observed(
                        &service,
                        named(&reflectors.services, namespace, &service.name_any()),
                    ) && applied_ingresses.iter().all(|object| {
                        is_observed(
                            object,
                            named(&reflectors.ingresses, namespace, &object.name_any()),
                        )
                    }) && applied_routes
                        .iter()
                        .all(|object| is_observed(object, reflectors.route(namespace, &object.name_any())))
                })
                .await;
            Ok(())
        })
        .await
    }

    pub(super) async fn apply_container(&self, spec: &SandboxSpec) -> Result<()> {
        let image = self.0.image(spec)?;
        self.cache_token(spec);
        let settings = &self.0.settings;
        let claim = serde_json::to_value(objects::claim(spec, settings)).map_err(not_serializable)?;
        let secret = serde_json::to_value(objects::secret(spec, settings)).map_err(not_serializable)?;
        let deployment = drift::with_applied_annotation(&objects::deployment(spec, settings, &image))
            .map_err(not_serializable)?;
        let sandbox = spec.sandbox.clone();
        self.locked(&spec.sandbox, move |inner| async move {
            inner.check_ownership(&sandbox)?;
            let name = claim_name(sandbox.volume);
            let (reflectors, namespace) = (&inner.reflectors, &inner.cluster.namespace);
            // Most of a claim is immutable, and one that is being deleted must be gone before it is created again.
            match named(&reflectors.claims, namespace, &name) {
                Some(claim) if claim.metadata.deletion_timestamp.is_some() => {
                    return Err(DriverError::new(
                        FailureKind::Transient,
                        "the home volume is being deleted; the sandbox is started when it is gone",
                    ));
                }
                Some(_) => {}
                None => {
                    inner
                        .apply::<PersistentVolumeClaim>("create a home volume", claim)
                        .await?;
                }
            }
            let secret = inner.apply::<Secret>("create a secret", secret).await?;
            let deployment = inner
                .apply::<Deployment>("create a deployment", deployment)
                .await?;
            reflectors
                .wait_until_observed(sandbox.project, || {
                    named(&reflectors.claims, namespace, &name).is_some()
                        && is_observed(
                            &deployment,
                            named(&reflectors.deployments, namespace, &deployment.name_any()),
                        )
                        && named(&reflectors.secrets, namespace, &secret.name_any()).is_some_and(|cached| {
                            cached.annotations().get(DIGEST) == secret.annotations().get(DIGEST)
                        })
                })
                .await;
            Ok(())
        })
        .await?;
        self.wait_until_running(spec).await
    }

    /// Waits until the pod of this very spec runs, or returns why it will not.
    async fn wait_until_running(&self, spec: &SandboxSpec) -> Result<()> {
        let digest = spec.digest();
        let reflectors = &self.0.reflectors;
        let pod = || {
            let pods = self.0.cached(&spec.sandbox).pods;
            newest(&pods)
                .filter(|pod| pod.annotations().get(DIGEST) == Some(&digest))
                .cloned()
        };
        let settled = reflectors.until(spec.sandbox.project, || {
            let pod = pod()?;
            if runs(&pod) {
                return Some(Ok(()));
            }
            pod_diagnosis::failure(&pod)
                .filter(pod_diagnosis::is_final)
                .map(Err)
        });
        let not_started = async {
            tokio::time::sleep(SCHEDULING_GRACE).await;
            reflectors
                .until(spec.sandbox.project, || {
                    let cached = self.0.cached(&spec.sandbox);
                    let pod = newest(&cached.pods);
                    failure(
                        &cached,
                        pod.filter(|pod| pod.annotations().get(DIGEST) == Some(&digest)),
                    )
                })
                .await
        };
        let outcome = timeout(START_TIMEOUT, async {
            tokio::select! {
                settled = settled => settled,
                failure = not_started => Err(failure),
            }
        })
        .await;
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(failure.into()),
            Err(_) => Err(DriverError::new(
                FailureKind::Transient,
                format!(
                    "the cluster has not started the sandbox within {} minutes; `fsa debug` shows why",
                    START_TIMEOUT.as_secs() / 60
                ),
            )),
        }
    }

    /// Waits until the kubelet reports the pod as ready: a Service sends requests to ready pods only.
    pub(super) async fn wait_until_ready(&self, sandbox: &SandboxRef) {
        self.0
            .reflectors
            .wait_until_observed(sandbox.project, || {
                let cached = self.0.cached(sandbox);
                container(&cached, newest(&cached.pods)) == ContainerState::Running
            })
            .await;
    }

    pub(super) async fn scale_to_zero(&self, sandbox: &SandboxRef) -> Result<()> {
        self.0.reflectors.ready().await?;
        let target = sandbox.clone();
        self.locked(sandbox, move |inner| async move {
            let (reflectors, namespace) = (&inner.reflectors, &inner.cluster.namespace);
            let name = target.resource.as_str();
            let Some(deployment) = named(&reflectors.deployments, namespace, name)
                .filter(|object| belongs(&object.metadata, &target))
            else {
                return Ok(());
            };
            if deployment.summary.replicas != Some(0) {
                let params = PatchParams {
                    field_manager: Some(FIELD_MANAGER.into()),
                    ..PatchParams::default()
                };
                let patch = Patch::Merge(json!({"spec": {"replicas": 0}}));
                let api = inner.api::<Deployment>();
                match inner
                    .cluster
                    .change_if_present("stop a deployment", api.patch(name, &params, &patch))
                    .await?
                {
                    None => return Ok(()),
                    Some(stopped) => {
                        reflectors
                            .wait_until_observed(target.project, || {
                                is_observed(&stopped, named(&reflectors.deployments, namespace, name))
                            })
                            .await;
                    }
                }
            }
            Ok(())
        })
        .await?;
        self.wait_until_deleted(sandbox, || self.0.cached(sandbox).pods.is_empty())
            .await
    }

    pub(super) async fn delete_objects(&self, sandbox: &SandboxRef) -> Result<()> {
        self.0.reflectors.ready().await?;
        self.0.tokens.lock().remove(&sandbox.resource);
        let target = sandbox.clone();
        self.locked(sandbox, move |inner| async move {
            let cached = inner.cached(&target);
            let name = target.resource.as_str();
            let terminal = format!("{name}-terminal");
            let at = |name: &str, exists: bool| exists.then(|| name.to_owned());
            // Concurrently. An object that is not in a store is not ours and is not deleted.
            let ingress = |name: &str| cached.ingresses.iter().any(|object| object.name_any() == name);
            tokio::try_join!(
                inner.delete::<Deployment>(at(name, cached.deployment.is_some())),
                inner.delete::<Service>(at(name, cached.service.is_some())),
                inner.delete::<Secret>(at(name, cached.secret.is_some())),
                inner.delete::<NetworkPolicy>(at(name, cached.policy.is_some())),
                inner.delete::<Ingress>(at(name, ingress(name))),
                inner.delete::<Ingress>(at(&terminal, ingress(&terminal))),
                inner.delete_routes(&cached.routes),
            )?;
            Ok(())
        })
        .await?;
        self.wait_until_deleted(sandbox, || {
            let cached = self.0.cached(sandbox);
            cached.deployment.is_none()
                && cached.service.is_none()
                && cached.secret.is_none()
                && cached.policy.is_none()
                && cached.ingresses.is_empty()
                && cached.routes.is_empty()
                && cached.pods.is_empty()
        })
        .await
    }

    /// Waits until the deleted objects are gone. The pods of a node that does not answer stay: they are force-deleted,
    /// which is safe because the home's volume stays attached to that node until the node answers again.
    async fn wait_until_deleted(&self, sandbox: &SandboxRef, gone: impl Fn() -> bool) -> Result<()> {
        let reflectors = &self.0.reflectors;
        if timeout(
            DELETE_TIMEOUT,
            reflectors.until(sandbox.project, || gone().then_some(())),
        )
        .await
        .is_ok()
        {
            return Ok(());
        }
        let api = self.0.api::<Pod>();
        for pod in self.0.cached(sandbox).pods {
            let params = DeleteParams::default().grace_period(0);
            self.0
                .cluster
                .change_if_present(
                    "delete a pod whose node does not answer",
                    api.delete(&pod.name_any(), &params),
                )
                .await?;
        }
        timeout(
            DELETE_TIMEOUT,
            reflectors.until(sandbox.project, || gone().then_some(())),
        )
        .await
        .map_err(|_| {
            DriverError::new(
                FailureKind::Transient,
                "the cluster has not deleted the sandbox's pod yet; it is retried",
            )
        })
    }

    pub(super) async fn delete_claim(&self, volume: VolumeId) -> Result<()> {
        self.0.reflectors.ready().await?;
        let (reflectors, namespace) = (&self.0.reflectors, &self.0.cluster.namespace);
        let name = claim_name(volume);
        let Some(claim) = named(&reflectors.claims, namespace, &name) else {
            return Ok(());
        };
        // A claim without the label is of a main branch: it was made by hand, under our name.
        let project = objects::project(&claim.metadata).unwrap_or(ProjectId(volume.0));
        self.0.delete::<PersistentVolumeClaim>(Some(name.clone())).await?;
        timeout(
            DELETE_TIMEOUT,
            reflectors.until(project, || {
                named(&reflectors.claims, namespace, &name)
                    .is_none()
                    .then_some(())
            }),
        )
        .await
        .map_err(|_| {
            DriverError::new(
                FailureKind::Transient,
                "the cluster has not deleted the home volume yet, which may still be in use; it is retried",
            )
        })
    }

    /// Does a change under the sandbox's mutex, in a task that completes even if the caller is dropped.
    async fn locked<F, Fut>(&self, sandbox: &SandboxRef, work: F) -> Result<()>
    where
        F: FnOnce(Arc<Inner>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send,
    {
        let lock = self.0.sandbox_locks.lock(&sandbox.resource).await;
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let done = work(inner).await;
            drop(lock);
            done
        })
        .await
        .unwrap_or_else(|error| {
            Err(DriverError::new(
                FailureKind::Internal,
                "the task of a change in the cluster failed",
            )
            .because(error))
        })
    }

    fn cache_token(&self, spec: &SandboxSpec) {
        self.0
            .tokens
            .lock()
            .insert(spec.sandbox.resource.clone(), spec.control_token.clone());
    }
}

fn not_serializable(error: serde_json::Error) -> DriverError {
    DriverError::new(FailureKind::Internal, "an object could not be written as JSON").because(error)
}
