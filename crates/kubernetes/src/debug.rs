//! Report of `fsa debug` on one project: the state of its objects, its pods with the cluster's own messages, events,
//! and the last lines that process 1 wrote. It contains no secrets.

use std::fmt::Write as _;

use fsa_driver::Result;
use fsa_model::ProjectId;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event, PersistentVolumeClaim, Pod},
    networking::v1::Ingress,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, LogParams},
};

use crate::{
    connection::{Cluster, call},
    objects::{CONTAINER, PROJECT_ID},
    pod_diagnosis,
};

/// Lines of a pod's log.
const LINES: i64 = 50;
/// Events that are shown, the newest.
const EVENTS: usize = 30;

/// Collects the report as text for people.
///
/// # Errors
/// The API's.
pub async fn collect(cluster: &Cluster, project: ProjectId) -> Result<String> {
    let mut text = String::new();
    let ours = ListParams::default().labels(&format!("{PROJECT_ID}={project}"));
    let client = || cluster.client.clone();
    let namespace = cluster.namespace.as_str();
    let deployments: Api<Deployment> = Api::namespaced(client(), namespace);
    let pods: Api<Pod> = Api::namespaced(client(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client(), namespace);
    let ingresses: Api<Ingress> = Api::namespaced(client(), namespace);
    let events: Api<Event> = Api::namespaced(client(), namespace);

    let _ = writeln!(text, "cluster {} namespace {namespace}", cluster.server);
    let mut names = Vec::new();
    for deployment in call("list deployments", deployments.list(&ours)).await? {
        let status = deployment.status.clone().unwrap_or_default();
        let replicas = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        let ready = status.ready_replicas.unwrap_or(0);
        let _ = writeln!(
            text,
            "deployment {}: {ready} of {replicas} ready",
            deployment.name_any()
        );
        names.push(deployment.name_any());
    }
    for claim in call("list volumes", claims.list(&ours)).await? {
        let phase = claim.status.as_ref().and_then(|status| status.phase.clone());
        let _ = writeln!(text, "volume {}: {}", claim.name_any(), phase.unwrap_or_default());
        names.push(claim.name_any());
    }
    for ingress in call("list ingresses", ingresses.list(&ours)).await? {
        let hosts = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
        let hosts: Vec<_> = hosts.filter_map(|rule| rule.host.clone()).collect();
        let _ = writeln!(text, "ingress {}: {}", ingress.name_any(), hosts.join(", "));
        names.push(ingress.name_any());
    }
    let all = call("list pods", pods.list(&ours)).await?;
    if all.items.is_empty() {
        let _ = writeln!(text, "no pod");
    }
    for pod in all {
        let status = pod.status.clone().unwrap_or_default();
        let _ = writeln!(
            text,
            "pod {}: {} on {} at {}",
            pod.name_any(),
            status.phase.unwrap_or_default(),
            pod.spec
                .as_ref()
                .and_then(|spec| spec.node_name.clone())
                .unwrap_or_else(|| "no node".into()),
            status.pod_ip.unwrap_or_else(|| "no address".into()),
        );
        if let Some(failure) = pod_diagnosis::failure(&pod) {
            let _ = writeln!(text, "  {failure}");
            let _ = writeln!(text, "  {}", failure.kubernetes_status.unwrap_or_default());
        }
        let parameters = LogParams {
            container: Some(CONTAINER.into()),
            tail_lines: Some(LINES),
            ..LogParams::default()
        };
        // A container that never ran has none.
        if let Ok(log) = call("read a log", pods.logs(&pod.name_any(), &parameters)).await {
            for line in log.lines() {
                let _ = writeln!(text, "  | {line}");
            }
        }
        names.push(pod.name_any());
    }
    // An event names its object, and does not have its labels.
    let mut recent: Vec<Event> = call("list events", events.list(&ListParams::default()))
        .await?
        .into_iter()
        .filter(|event| {
            let about = event.involved_object.name.as_deref().unwrap_or_default();
            names
                .iter()
                .any(|name| about == name || about.starts_with(&format!("{name}-")))
        })
        .collect();
    recent.sort_by_key(|event| event.last_timestamp.clone().map(|time| time.0));
    for event in recent.iter().rev().take(EVENTS).rev() {
        let _ = writeln!(
            text,
            "event {} {}: {}",
            event.involved_object.kind.as_deref().unwrap_or_default(),
            event.reason.as_deref().unwrap_or_default(),
            event.message.as_deref().unwrap_or_default().trim(),
        );
    }
    Ok(text)
}
