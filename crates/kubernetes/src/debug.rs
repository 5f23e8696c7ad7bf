//! What `fsa debug` collects of one project: its objects' state, its pods with the cluster's own
//! words, events and the last lines that process 1 wrote. No secrets are among it.

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
/// Events, the newest of which are shown.
const EVENTS: usize = 30;

/// Collects it as text for people.
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
    for found in call("list deployments", deployments.list(&ours)).await? {
        let status = found.status.clone().unwrap_or_default();
        let wanted = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = status.ready_replicas.unwrap_or(0);
        let _ = writeln!(text, "deployment {}: {ready} of {wanted} ready", found.name_any());
        names.push(found.name_any());
    }
    for found in call("list volumes", claims.list(&ours)).await? {
        let phase = found.status.as_ref().and_then(|status| status.phase.clone());
        let _ = writeln!(text, "volume {}: {}", found.name_any(), phase.unwrap_or_default());
        names.push(found.name_any());
    }
    for found in call("list ingresses", ingresses.list(&ours)).await? {
        let hosts = found.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
        let hosts: Vec<_> = hosts.filter_map(|rule| rule.host.clone()).collect();
        let _ = writeln!(text, "ingress {}: {}", found.name_any(), hosts.join(", "));
        names.push(found.name_any());
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
    // An event names its object, and carries none of its labels.
    let mut told: Vec<Event> = call("list events", events.list(&ListParams::default()))
        .await?
        .into_iter()
        .filter(|event| {
            let about = event.involved_object.name.as_deref().unwrap_or_default();
            names
                .iter()
                .any(|name| about == name || about.starts_with(&format!("{name}-")))
        })
        .collect();
    told.sort_by_key(|event| event.last_timestamp.clone().map(|time| time.0));
    for event in told.iter().rev().take(EVENTS).rev() {
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
