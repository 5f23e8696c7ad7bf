//! A node that is not ready any more. Simulated nodes of the test's own: the API server, the controllers and the
//! scheduler are real, and the test says in the place of kubelet what runs.

use std::time::Duration;

use fsa_driver::Driver as _;
use fsa_kubernetes::settings::Reach;
use fsa_model::{ContainerState, SandboxSpec};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::json;

use crate::{
    faults::{spec, until},
    world::{Place, exported},
};

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// The nodes and the volume, which belong to no namespace.
struct Simulated<'a> {
    place: &'a Place,
    nodes: Api<Node>,
}

impl<'a> Simulated<'a> {
    async fn new(place: &'a Place, spec: &SandboxSpec) -> Self {
        let client = &place.cluster.client;
        let volumes: Api<PersistentVolume> = Api::all(client.clone());
        let simulated = Self {
            place,
            nodes: Api::all(client.clone()),
        };
        let namespace = &place.cluster.namespace;
        for name in simulated.names() {
            let node = json!({
                "metadata": {"name": name, "labels": {
                    "fsa.test/place": namespace,
                    // A zone in which too much is down is left alone, so these are in one of their own.
                    "topology.kubernetes.io/region": namespace, "topology.kubernetes.io/zone": namespace,
                }},
                "spec": {"taints": [{"key": "fsa.test/simulated", "value": namespace, "effect": "NoSchedule"}]},
            });
            let node = serde_json::from_value(node).unwrap();
            simulated
                .nodes
                .create(&PostParams::default(), &node)
                .await
                .unwrap();
            simulated.set_ready(&name, "True").await;
        }
        // One that is on no node, as those of a storage on the network are.
        let volume = json!({
            "metadata": {"name": namespace},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": namespace,
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp/nowhere"},
                "claimRef": {"namespace": namespace, "name": format!("home-{}", spec.sandbox.project)},
            },
        });
        let volume = serde_json::from_value(volume).unwrap();
        volumes.create(&PostParams::default(), &volume).await.unwrap();
        simulated
    }

    fn names(&self) -> [String; 2] {
        ["a", "b"].map(|name| format!("{}-{name}", self.place.cluster.namespace))
    }

    async fn set_ready(&self, name: &str, ready: &str) {
        let room = json!({"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi"});
        let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": [{
            "type": "Ready", "status": ready, "reason": "Simulated", "message": "",
            "lastHeartbeatTime": now(), "lastTransitionTime": now(),
        }]}});
        self.nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
    }

    /// The sandbox's pod that the scheduler has given a node, said to run there.
    async fn run(&self, spec: &SandboxSpec, not_on: &str) -> Pod {
        let pods: Api<Pod> = self.place.api();
        let selector = ListParams::default().labels(&format!("app={}", spec.sandbox.resource));
        let placed = async {
            loop {
                let found = pods.list(&selector).await.unwrap().into_iter().find(|pod| {
                    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                    pod.metadata.deletion_timestamp.is_none() && node.is_some_and(|node| node != not_on)
                });
                if let Some(pod) = found {
                    return pod;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let pod = tokio::time::timeout(Duration::from_secs(60), placed)
            .await
            .expect("the scheduler finds a node");
        let status = json!({"status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now()}],
            "containerStatuses": [{"name": "sandbox", "image": "x", "imageID": "", "ready": true, "started": true,
                "restartCount": 0, "state": {"running": {"startedAt": now()}}}],
        }});
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap()
    }

    /// Ends a pod that is on its way out.
    async fn end(&self, pod: &Pod) {
        let pods: Api<Pod> = self.place.api();
        let name = pod.name_any();
        let going = await_condition(pods.clone(), &name, |pod: Option<&Pod>| {
            pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
        });
        tokio::time::timeout(Duration::from_secs(60), going)
            .await
            .expect("the pod is deleted")
            .unwrap();
        let at_once = DeleteParams::default().grace_period(0);
        // The controllers may have been quicker.
        let _ = pods.delete(&name, &at_once).await;
    }
}

impl Drop for Simulated<'_> {
    #[allow(
        clippy::disallowed_methods,
        reason = "there is no runtime to wait in any more; the command is awaited"
    )]
    fn drop(&mut self) {
        let volume = format!("persistentvolume/{}", self.place.cluster.namespace);
        let nodes = self.names().map(|name| format!("node/{name}"));
        let deleted = std::process::Command::new(exported("FSA_TEST_KUBECTL"))
            .args(["--kubeconfig", &exported("FSA_TEST_KUBECONFIG")])
            .args(["delete", "--wait=false", "--ignore-not-found", &volume])
            .args(nodes)
            .output();
        if let Ok(output) = deleted
            && !output.status.success()
        {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[tokio::test]
async fn a_sandbox_whose_node_is_not_ready_is_seen_to_be_gone_and_comes_up_on_another() {
    let place = Place::with(Reach::Direct, |settings, namespace| {
        settings.node_selector = [("fsa.test/place".to_owned(), namespace.to_owned())].into();
        settings.storage_class = Some(namespace.to_owned());
        settings.tolerations = serde_json::from_value(json!([
            {"key": "fsa.test/simulated", "operator": "Exists"},
            // How long a node is waited for is a setting like any other.
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2},
        ]))
        .unwrap();
    })
    .await;
    let spec = spec("moved");
    let simulated = Simulated::new(&place, &spec).await;
    let start = || place.driver.ensure_container(&spec);
    let (started, first) = tokio::join!(start(), simulated.run(&spec, ""));
    started.unwrap();
    let lost = first.spec.as_ref().unwrap().node_name.clone().unwrap();
    until(&place, &spec, |seen| seen.container == ContainerState::Running).await;

    simulated.set_ready(&lost, "False").await;

    until(&place, &spec, |seen| seen.container != ContainerState::Running).await;
    let (started, second) = tokio::join!(start(), simulated.run(&spec, &lost));
    started.unwrap();
    assert_ne!(second.uid(), first.uid());
    until(&place, &spec, |seen| seen.container == ContainerState::Running).await;

    // Nobody on a silent node says that a pod has ended, so the test does.
    let (destroyed, ()) = tokio::join!(place.driver.destroy(&spec.sandbox), async {
        simulated.end(&first).await;
        simulated.end(&second).await;
    });
    destroyed.unwrap();
}
