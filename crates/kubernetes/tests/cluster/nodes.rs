//! A node that stops answering, with simulated nodes: the API server, the controllers and the scheduler are real, and
//! the test reports the status of nodes and pods instead of a kubelet.

use std::{collections::BTreeMap, time::Duration};

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
use tokio::sync::Mutex;

use crate::{
    faults::{spec, until},
    world::{Fixture, exported},
};

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// Simulated nodes and a volume, which are cluster-scoped.
struct Simulated<'a> {
    fixture: &'a Fixture,
    nodes: Api<Node>,
    /// The `Ready` condition of each node.
    ready: Mutex<BTreeMap<String, &'static str>>,
}

impl<'a> Simulated<'a> {
    async fn new(fixture: &'a Fixture, spec: &SandboxSpec) -> Self {
        let client = &fixture.cluster.client;
        let volumes: Api<PersistentVolume> = Api::all(client.clone());
        let simulated = Self {
            fixture,
            nodes: Api::all(client.clone()),
            ready: Mutex::default(),
        };
        let namespace = &fixture.cluster.namespace;
        for name in simulated.names() {
            let node = json!({
                "metadata": {"name": name, "labels": {
                    "fsa.test/place": namespace,
                    // The controllers evict no pods from a zone with too many failed nodes, so these have their own.
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
        // A volume that is bound to no node, like network storage.
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
        ["a", "b"].map(|name| format!("{}-{name}", self.fixture.cluster.namespace))
    }

    async fn set_ready(&self, name: &str, ready: &'static str) {
        let mut all = self.ready.lock().await;
        all.insert(name.to_owned(), ready);
        self.report(name, ready).await;
    }

    /// Reports the status of the nodes repeatedly: the controllers treat a node without reports as lost.
    async fn heartbeats(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let all = self.ready.lock().await;
            for (name, ready) in &*all {
                self.report(name, ready).await;
            }
        }
    }

    async fn report(&self, name: &str, ready: &str) {
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

    /// Reports the sandbox's pod as running, once the scheduler has assigned it to a node.
    async fn run(&self, spec: &SandboxSpec, not_on: &str) -> Pod {
        let pods: Api<Pod> = self.fixture.api();
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
        let pod = tokio::time::timeout(Duration::from_secs(240), placed)
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

    /// Ends a pod once it is being deleted.
    async fn end(&self, pod: &Pod) {
        let pods: Api<Pod> = self.fixture.api();
        let name = pod.name_any();
        let deleting = await_condition(pods.clone(), &name, |pod: Option<&Pod>| {
            pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
        });
        tokio::time::timeout(Duration::from_secs(240), deleting)
            .await
            .expect("the pod is deleted")
            .unwrap();
        let at_once = DeleteParams::default().grace_period(0);
        // An error means that the controllers were faster.
        let _ = pods.delete(&name, &at_once).await;
    }
}

impl Drop for Simulated<'_> {
    #[allow(
        clippy::disallowed_methods,
        reason = "there is no runtime to wait in any more; the command is awaited"
    )]
    fn drop(&mut self) {
        let volume = format!("persistentvolume/{}", self.fixture.cluster.namespace);
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
async fn a_sandbox_whose_node_is_not_ready_stops_running_and_starts_on_another() {
    let fixture = Fixture::with(Reach::Direct, |settings, namespace| {
        settings.node_selector = [("fsa.test/place".to_owned(), namespace.to_owned())].into();
        settings.storage_class = Some(namespace.to_owned());
        settings.tolerations = serde_json::from_value(json!([
            {"key": "fsa.test/simulated", "operator": "Exists"},
            // How long the cluster waits for a node is a setting like any other.
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2},
        ]))
        .unwrap();
    })
    .await;
    let spec = spec("moved");
    let simulated = Simulated::new(&fixture, &spec).await;
    tokio::select! {
        () = simulated.heartbeats() => {}
        () = moves(&fixture, &spec, &simulated) => {}
    }
}

async fn moves(fixture: &Fixture, spec: &SandboxSpec, simulated: &Simulated<'_>) {
    let start = || fixture.driver.ensure_container(spec);
    let (started, first) = tokio::join!(start(), simulated.run(spec, ""));
    started.unwrap();
    let lost = first.spec.as_ref().unwrap().node_name.clone().unwrap();
    until(fixture, spec, |observed| {
        observed.container == ContainerState::Running
    })
    .await;

    simulated.set_ready(&lost, "False").await;

    until(fixture, spec, |observed| {
        observed.container != ContainerState::Running
    })
    .await;
    let (started, second) = tokio::join!(start(), simulated.run(spec, &lost));
    started.unwrap();
    assert_ne!(second.uid(), first.uid());
    until(fixture, spec, |observed| {
        observed.container == ContainerState::Running
    })
    .await;

    // No kubelet reports that a pod on a silent node has ended, so the test does.
    let (destroyed, ()) = tokio::join!(fixture.driver.destroy(&spec.sandbox), async {
        simulated.end(&first).await;
        simulated.end(&second).await;
    });
    destroyed.unwrap();
}
