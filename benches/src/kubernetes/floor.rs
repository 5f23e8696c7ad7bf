//! Floor: the same objects as those of a sandbox, applied by kubectl under other names.

use std::{
    collections::HashSet,
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use fsa_model::api::{Project, Sandbox};
use fsa_tests::cluster::Namespace;
use serde_json::{Value, json};

const KINDS: &str = "persistentvolumeclaims,secrets,services,networkpolicies,ingresses,deployments";
const WAIT_TIMEOUT: &str = "120s";
/// Timeout for a thousand sandboxes.
const WATCH_TIMEOUT: &str = "600s";

/// The objects of one sandbox as text, with its names.
pub struct Objects {
    text: String,
    resource: String,
    project: String,
}

impl Objects {
    /// The objects of the only project in a namespace, without the fields that the cluster has written.
    #[must_use]
    pub fn of(namespace: &Namespace, project: &Project, sandbox: &Sandbox) -> Self {
        let text = namespace.kubectl(&[
            "get",
            KINDS,
            "-l",
            "app.kubernetes.io/managed-by=fullstackagent",
            "-o",
            "json",
        ]);
        let mut list: Value = serde_json::from_str(&text).expect("a list");
        let items = list["items"].as_array_mut().expect("items");
        items.iter_mut().for_each(remove_server_fields);
        assert!(items.len() >= 5, "{items:?}");
        Self {
            text: list.to_string(),
            resource: sandbox.name.to_string(),
            project: project.id.to_string(),
        }
    }

    fn named(&self, at: usize) -> String {
        self.text
            .replace(&self.resource, &name(at))
            .replace(&self.project, &format!("{at:08x}-0000-4000-8000-000000000000"))
    }

    /// Time until one sandbox is ready.
    pub fn apply_and_wait(&self, namespace: &Namespace, at: usize) -> Duration {
        let objects = self.named(at);
        let begun = Instant::now();
        apply(namespace, &objects);
        let deployment = format!("deployment/{}", name(at));
        namespace.kubectl(&[
            "wait",
            "--for=condition=Available",
            "--timeout",
            WAIT_TIMEOUT,
            "--request-timeout",
            "0",
            &deployment,
        ]);
        begun.elapsed()
    }

    pub fn delete(&self, namespace: &Namespace, at: usize) {
        let arguments = [
            "delete",
            "--timeout",
            WAIT_TIMEOUT,
            "--request-timeout",
            "0",
            "-f",
            "-",
        ];
        namespace.feed(&arguments, &self.named(at));
    }

    /// Time until `count` sandboxes are ready, applied by kubectls of which `at_once` run in parallel.
    pub fn apply_many(&self, namespace: &Namespace, count: usize, at_once: usize) -> Duration {
        let shares: Vec<String> = (0..at_once)
            .map(|share| {
                let items: Vec<Value> = (share..count)
                    .step_by(at_once)
                    .flat_map(|at| {
                        let list: Value = serde_json::from_str(&self.named(at)).expect("a list");
                        list["items"].as_array().expect("items").clone()
                    })
                    .collect();
                json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
            })
            .collect();
        let mut watch = namespace
            .command()
            .args([
                "get",
                "deployments",
                "--watch",
                "--no-headers",
                "--request-timeout",
                WATCH_TIMEOUT,
            ])
            .args([
                "-o",
                "custom-columns=N:.metadata.name,R:.status.availableReplicas",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        let lines = BufReader::new(watch.stdout.take().expect("its output")).lines();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for share in &shares {
                scope.spawn(move || apply(namespace, share));
            }
            let mut ready = HashSet::new();
            for line in lines {
                let line = line.expect("a line");
                if let Some((name, "1")) = line.split_once(' ').map(|(name, rest)| (name, rest.trim())) {
                    ready.insert(name.to_owned());
                }
                if ready.len() == count {
                    break;
                }
            }
        });
        let took = begun.elapsed();
        let _ = watch.kill();
        let _ = watch.wait();
        took
    }
}

/// Time of a kubectl that requests one object, which does not exist.
pub fn kubectl_baseline(namespace: &Namespace) -> Duration {
    let begun = Instant::now();
    namespace.kubectl(&["get", "configmap", "nothing", "--ignore-not-found"]);
    begun.elapsed()
}

fn apply(namespace: &Namespace, objects: &str) {
    let arguments = ["apply", "--server-side", "--request-timeout", "0", "-f", "-"];
    namespace.feed(&arguments, objects);
}

fn name(at: usize) -> String {
    format!("floor-{at}")
}

/// An object as it was applied, as far as that can be reconstructed.
fn remove_server_fields(object: &mut Value) {
    let object = object.as_object_mut().expect("an object");
    object.remove("status");
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    for field in [
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "managedFields",
        "finalizers",
    ] {
        metadata.remove(field);
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|name, _| !name.contains("kubernetes.io/"));
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        for field in ["clusterIP", "clusterIPs", "volumeName"] {
            spec.remove(field);
        }
    }
}
