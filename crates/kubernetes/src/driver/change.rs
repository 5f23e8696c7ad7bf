//! Changes: objects are applied, scaled and deleted, and each change waits until the watches have
//! seen it, so that the next look sees it too.

use std::{sync::Arc, time::Duration};

use fsa_driver::{DriverError, Result};
use fsa_model::{ContainerState, FailureKind, ProjectId, SandboxRef, SandboxSpec};
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
    look::{belongs, container, failure, newest, runs},
    object::is_seen,
};
use crate::{
    drift,
    objects::{self, DIGEST, FIELD_MANAGER, claim_name},
    pod_diagnosis,
    reflectors::named,
};

/// For a pod to run: its image may have to be pulled. The caller's own patience is longer.
const RUN: Duration = Duration::from_secs(600);
/// For a place on a node, before the person is told that there is none.
const PLACE: Duration = Duration::from_secs(20);
/// For pods and objects to go: the grace of a pod, and some.
const GONE: Duration = Duration::from_secs(45);

impl KubernetesDriver {
    pub(super) async fn apply_network(&self, spec: &SandboxSpec) -> Result<()> {
        let settings = &self.0.settings;
        let database = spec
            .database_role
            .as_deref()
            .and_then(|role| (self.0.database_peer)(role));
        let service =
            drift::with_applied_annotation(&objects::service(spec, settings)).map_err(unwritable)?;
        let policy = drift::with_applied_annotation(&objects::network_policy::network_policy(
            spec, settings, database,
        ))
        .map_err(unwritable)?;
        let ingresses = objects::ingresses(spec, settings)
            .iter()
            .map(drift::with_applied_annotation)
            .collect::<serde_json::Result<Vec<_>>>()
            .map_err(unwritable)?;
        let routes = objects::http_routes(spec, settings)
            .iter()
            .map(drift::with_applied_annotation)
            .collect::<serde_json::Result<Vec<_>>>()
            .map_err(unwritable)?;
        let sandbox = spec.sandbox.clone();
        self.in_turn(&spec.sandbox, move |inner| async move {
            inner.not_foreign(&sandbox)?;
            // The policy first: nothing of it is ever open.
            let policy = inner
                .put::<NetworkPolicy>("make a network policy", policy)
                .await?;
            let service = inner.put::<Service>("make a service", service).await?;
            let mut made = Vec::new();
            for ingress in ingresses {
                made.push(inner.put::<Ingress>("make an ingress", ingress).await?);
            }
            let mut led = Vec::new();
            for route in routes {
                led.push(inner.put_route(route).await?);
            }
            let (watched, namespace) = (&inner.watched, &inner.cluster.namespace);
            watched
                .wait_until_observed(sandbox.project, || {
                    is_seen(&policy, named(&watched.policies, namespace, &policy.name_any()))
                        && is_seen(&service, named(&watched.services, namespace, &service.name_any()))
                        && made
                            .iter()
                            .all(|one| is_seen(one, named(&watched.ingresses, namespace, &one.name_any())))
                        && led
                            .iter()
                            .all(|one| is_seen(one, watched.route(namespace, &one.name_any())))
                })
                .await;
            Ok(())
        })
        .await
    }

    pub(super) async fn apply_container(&self, spec: &SandboxSpec) -> Result<()> {
        let image = self.0.image(spec)?;
        self.remember(spec);
        let settings = &self.0.settings;
        let claim = serde_json::to_value(objects::claim(spec, settings)).map_err(unwritable)?;
        let secret = serde_json::to_value(objects::secret(spec, settings)).map_err(unwritable)?;
        let deployment = drift::with_applied_annotation(&objects::deployment(spec, settings, &image))
            .map_err(unwritable)?;
        let sandbox = spec.sandbox.clone();
        self.in_turn(&spec.sandbox, move |inner| async move {
            inner.not_foreign(&sandbox)?;
            let name = claim_name(sandbox.project);
            let (watched, namespace) = (&inner.watched, &inner.cluster.namespace);
            // Most of a claim cannot be changed, and one that is going has to be gone first.
            match named(&watched.claims, namespace, &name) {
                Some(claim) if claim.metadata.deletion_timestamp.is_some() => {
                    return Err(DriverError::new(
                        FailureKind::Transient,
                        "the project's home volume is being removed; the sandbox is started when it is gone",
                    ));
                }
                Some(_) => {}
                None => {
                    inner
                        .put::<PersistentVolumeClaim>("make a home volume", claim)
                        .await?;
                }
            }
            let secret = inner.put::<Secret>("make a secret", secret).await?;
            let deployment = inner.put::<Deployment>("make a deployment", deployment).await?;
            watched
                .wait_until_observed(sandbox.project, || {
                    named(&watched.claims, namespace, &name).is_some()
                        && is_seen(
                            &deployment,
                            named(&watched.deployments, namespace, &deployment.name_any()),
                        )
                        && named(&watched.secrets, namespace, &secret.name_any()).is_some_and(|seen| {
                            seen.annotations().get(DIGEST) == secret.annotations().get(DIGEST)
                        })
                })
                .await;
            Ok(())
        })
        .await?;
        self.until_it_runs(spec).await
    }

    /// Waits until the pod of this very spec has its process, or says why it will not.
    async fn until_it_runs(&self, spec: &SandboxSpec) -> Result<()> {
        let digest = spec.digest();
        let watched = &self.0.watched;
        let pod = || {
            let pods = self.0.found(&spec.sandbox).pods;
            newest(&pods)
                .filter(|pod| pod.annotations().get(DIGEST) == Some(&digest))
                .cloned()
        };
        let settled = watched.until(spec.sandbox.project, || {
            let pod = pod()?;
            if runs(&pod) {
                return Some(Ok(()));
            }
            pod_diagnosis::failure(&pod)
                .filter(pod_diagnosis::is_final)
                .map(Err)
        });
        let placeless = async {
            tokio::time::sleep(PLACE).await;
            watched
                .until(spec.sandbox.project, || {
                    let found = self.0.found(&spec.sandbox);
                    let pod = newest(&found.pods);
                    failure(
                        &found,
                        pod.filter(|pod| pod.annotations().get(DIGEST) == Some(&digest)),
                    )
                })
                .await
        };
        let outcome = timeout(RUN, async {
            tokio::select! {
                settled = settled => settled,
                failure = placeless => Err(failure),
            }
        })
        .await;
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(failure.into()),
            Err(_) => Err(DriverError::new(
                FailureKind::Transient,
                format!(
                    "the cluster has not started the sandbox within {} minutes; `fsa debug` shows what it waits for",
                    RUN.as_secs() / 60
                ),
            )),
        }
    }

    /// Waits until the kubelet says that the pod is ready: a Service sends requests to no other.
    pub(super) async fn until_ready(&self, sandbox: &SandboxRef) {
        self.0
            .watched
            .wait_until_observed(sandbox.project, || {
                let found = self.0.found(sandbox);
                container(&found, newest(&found.pods)) == ContainerState::Running
            })
            .await;
    }

    pub(super) async fn stop_pod(&self, sandbox: &SandboxRef) -> Result<()> {
        self.0.watched.ready().await?;
        let target = sandbox.clone();
        self.in_turn(sandbox, move |inner| async move {
            let (watched, namespace) = (&inner.watched, &inner.cluster.namespace);
            let name = target.resource.as_str();
            let Some(deployment) =
                named(&watched.deployments, namespace, name).filter(|one| belongs(&one.metadata, &target))
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
                        watched
                            .wait_until_observed(target.project, || {
                                is_seen(&stopped, named(&watched.deployments, namespace, name))
                            })
                            .await;
                    }
                }
            }
            Ok(())
        })
        .await?;
        self.until_gone(sandbox, || self.0.found(sandbox).pods.is_empty())
            .await
    }

    pub(super) async fn remove(&self, sandbox: &SandboxRef) -> Result<()> {
        self.0.watched.ready().await?;
        self.0.tokens.lock().remove(&sandbox.resource);
        let target = sandbox.clone();
        self.in_turn(sandbox, move |inner| async move {
            let found = inner.found(&target);
            let name = target.resource.as_str();
            let terminal = format!("{name}-terminal");
            let at = |name: &str, there: bool| there.then(|| name.to_owned());
            // Side by side; what a store does not have is not ours to delete.
            let ingress = |wanted: &str| found.ingresses.iter().any(|one| one.name_any() == wanted);
            tokio::try_join!(
                inner.delete::<Deployment>(at(name, found.deployment.is_some())),
                inner.delete::<Service>(at(name, found.service.is_some())),
                inner.delete::<Secret>(at(name, found.secret.is_some())),
                inner.delete::<NetworkPolicy>(at(name, found.policy.is_some())),
                inner.delete::<Ingress>(at(name, ingress(name))),
                inner.delete::<Ingress>(at(&terminal, ingress(&terminal))),
                inner.delete_routes(&found.routes),
            )?;
            Ok(())
        })
        .await?;
        self.until_gone(sandbox, || {
            let found = self.0.found(sandbox);
            found.deployment.is_none()
                && found.service.is_none()
                && found.secret.is_none()
                && found.policy.is_none()
                && found.ingresses.is_empty()
                && found.routes.is_empty()
                && found.pods.is_empty()
        })
        .await
    }

    /// Waits until what was deleted is gone. A node that does not answer keeps its pods: then they
    /// are taken off the books, which is safe because a home's volume stays with its node until
    /// the node is heard of again.
    async fn until_gone(&self, sandbox: &SandboxRef, gone: impl Fn() -> bool) -> Result<()> {
        let watched = &self.0.watched;
        if timeout(GONE, watched.until(sandbox.project, || gone().then_some(())))
            .await
            .is_ok()
        {
            return Ok(());
        }
        let api = self.0.api::<Pod>();
        for pod in self.0.found(sandbox).pods {
            let params = DeleteParams::default().grace_period(0);
            self.0
                .cluster
                .change_if_present(
                    "remove a pod whose node does not answer",
                    api.delete(&pod.name_any(), &params),
                )
                .await?;
        }
        timeout(GONE, watched.until(sandbox.project, || gone().then_some(())))
            .await
            .map_err(|_| {
                DriverError::new(
                    FailureKind::Transient,
                    "the cluster has not removed the sandbox's pod yet; it is tried again",
                )
            })
    }

    pub(super) async fn remove_claim(&self, project: ProjectId) -> Result<()> {
        self.0.watched.ready().await?;
        let (watched, namespace) = (&self.0.watched, &self.0.cluster.namespace);
        let name = claim_name(project);
        if named(&watched.claims, namespace, &name).is_none() {
            return Ok(());
        }
        self.0.delete::<PersistentVolumeClaim>(Some(name.clone())).await?;
        timeout(
            GONE,
            watched.until(project, || {
                named(&watched.claims, namespace, &name).is_none().then_some(())
            }),
        )
        .await
        .map_err(|_| {
            DriverError::new(
                FailureKind::Transient,
                "the cluster has not removed the home volume yet; it may still be in use, and is tried again",
            )
        })
    }

    /// Does a change in the sandbox's turn, to its end, whoever waits for it.
    async fn in_turn<F, Fut>(&self, sandbox: &SandboxRef, work: F) -> Result<()>
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
            Err(DriverError::new(FailureKind::Internal, "a change in the cluster broke off").because(error))
        })
    }

    fn remember(&self, spec: &SandboxSpec) {
        self.0
            .tokens
            .lock()
            .insert(spec.sandbox.resource.clone(), spec.control_token.clone());
    }
}

fn unwritable(error: serde_json::Error) -> DriverError {
    DriverError::new(FailureKind::Internal, "an object cannot be written as JSON").because(error)
}
