//! Pod diagnosis: turns the status of a pod or Deployment into a failure with a message for people. Pure.

use fsa_model::{Failure, FailureKind};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerStatus, Pod},
};

use crate::objects::CONTAINER;

/// The failure that a pod's status reports, if any.
#[must_use]
pub fn failure(pod: &Pod) -> Option<Failure> {
    let status = pod.status.as_ref()?;
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    if let Some(failure) = containers.filter_map(container_failure).next() {
        return Some(failure);
    }
    if status.reason.as_deref() == Some("Evicted") {
        return Some(with_cluster_status(
            FailureKind::Machine,
            "the cluster evicted the sandbox from its node, which was short of resources; it is started again",
            "Evicted",
            status.message.as_deref(),
        ));
    }
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    })?;
    Some(with_cluster_status(
        FailureKind::Machine,
        unschedulable_reason(unscheduled.message.as_deref().unwrap_or_default()),
        "Unschedulable",
        unscheduled.message.as_deref(),
    ))
}

/// Why the cluster does not create a Deployment's pod, if it reports a reason.
#[must_use]
pub fn pod_creation_failure(deployment: &Deployment) -> Option<Failure> {
    let failed = deployment
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let message = failed.message.as_deref();
    let text = if message.unwrap_or_default().contains("exceeded quota") {
        "the namespace's quota leaves no room for the sandbox; stop another one, choose a smaller size or have the \
         quota raised"
    } else {
        "the cluster refuses to create the sandbox's pod; its message names the rule for the cluster's administrator"
    };
    let reason = failed.reason.as_deref().unwrap_or("FailedCreate");
    Some(with_cluster_status(FailureKind::Machine, text, reason, message))
}

fn container_failure(status: &ContainerStatus) -> Option<Failure> {
    let state = status.state.as_ref();
    let last = status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let ended = state.and_then(|state| state.terminated.as_ref()).or(last);
    if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = waiting.message.as_deref();
        let image = &status.image;
        match reason {
            "InvalidImageName" => {
                return Some(with_cluster_status(
                    FailureKind::Input,
                    format!("`{image}` is not a valid image reference; correct it"),
                    reason,
                    message,
                ));
            }
            "ErrImageNeverPull" => {
                return Some(with_cluster_status(
                    FailureKind::Input,
                    format!(
                        "the image {image} is not on the cluster's nodes, and the setting image_pull_policy forbids pulling it"
                    ),
                    reason,
                    message,
                ));
            }
            "ErrImagePull" | "ImagePullBackOff" => return Some(image_pull_failure(image, reason, message)),
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                return Some(with_cluster_status(
                    FailureKind::Machine,
                    "the sandbox's container could not be started; it is retried",
                    reason,
                    message,
                ));
            }
            "CrashLoopBackOff" if ended.is_none() => {
                return Some(with_cluster_status(
                    FailureKind::Transient,
                    "the sandbox exits as soon as it is started; it is started again",
                    reason,
                    message,
                ));
            }
            _ => {}
        }
    }
    // A running container's earlier exit no longer matters.
    if state.is_some_and(|state| state.running.is_some()) {
        return None;
    }
    let ended = ended?;
    if status.name != CONTAINER && ended.exit_code == 0 {
        return None;
    }
    let reason = ended.reason.as_deref().unwrap_or("Error");
    if reason == "OOMKilled" {
        return Some(with_cluster_status(
            FailureKind::Input,
            "the sandbox exceeded its memory limit and was killed by the kernel; choose a larger size or a smaller program",
            reason,
            ended.message.as_deref(),
        ));
    }
    Some(with_cluster_status(
        FailureKind::Transient,
        format!(
            "the sandbox's process 1 exited (code {}); it is started again",
            ended.exit_code
        ),
        reason,
        ended.message.as_deref(),
    ))
}

/// The failure of an image pull. Only an error response of the registry is a user error; no answer is
/// transient.
pub fn image_pull_failure(image: &str, reason: &str, message: Option<&str>) -> Failure {
    let text = message.unwrap_or_default().to_ascii_lowercase();
    let contains = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if contains(&["unauthorized", "denied", "forbidden"]) {
        with_cluster_status(
            FailureKind::Input,
            format!(
                "the registry refuses the image {image} to the cluster: it does not exist, or needs a pull secret"
            ),
            reason,
            message,
        )
    } else if contains(&[
        "not found",
        "manifest unknown",
        "name unknown",
        "no match for platform",
    ]) {
        with_cluster_status(
            FailureKind::Input,
            format!("the image {image} does not exist; correct its name or tag"),
            reason,
            message,
        )
    } else {
        with_cluster_status(
            FailureKind::Transient,
            format!(
                "the image {image} could not be pulled; the registry may be down, or its name may be wrong"
            ),
            reason,
            message,
        )
    }
}

/// Why no node takes a pod, from the scheduler's message about all of them.
#[must_use]
pub fn unschedulable_reason(message: &str) -> &'static str {
    let contains = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    if contains(&[
        "unbound immediate PersistentVolumeClaim",
        "StorageClass",
        "storageclass",
    ]) {
        "the sandbox's home volume cannot be created; the region's storage class may be missing or out of space"
    } else if contains(&["volume node affinity", "had volume"]) {
        "the sandbox's home volume is on a node that does not take the sandbox; that node is full, cordoned or gone"
    } else {
        "no node of the cluster has room for the sandbox, or may take it; choose a smaller size, or add a node"
    }
}

/// A failure with the cluster's own reason and message, cut to 1000 characters.
pub fn with_cluster_status(
    kind: FailureKind,
    text: impl Into<String>,
    reason: &str,
    message: Option<&str>,
) -> Failure {
    let status: String = match message {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    };
    Failure {
        kubernetes_status: Some(status.chars().take(1000).collect()),
        ..Failure::new(kind, text)
    }
}

/// Whether this failure is permanent, so that waiting for the pod cannot help.
#[must_use]
pub fn is_final(failure: &Failure) -> bool {
    let status = failure.kubernetes_status.as_deref().unwrap_or_default();
    // A node may be added, a volume detached, a quota raised.
    ![
        "Unschedulable",
        "FailedScheduling",
        "FailedMount",
        "FailedAttachVolume",
        "FailedCreate",
    ]
    .iter()
    .any(|reason| status.starts_with(reason))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn diagnose(status: Value) -> Option<Failure> {
        failure(&serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap())
    }

    fn container(state: Value, last: Value) -> Value {
        json!({"containerStatuses": [{
            "name": "sandbox", "image": "x:1", "imageID": "", "ready": false, "restartCount": 1,
            "state": state, "lastState": last,
        }]})
    }

    #[test]
    fn each_failure_has_a_message_that_a_person_can_act_on() {
        let waiting =
            |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        let ended = |reason: &str, code: i32| json!({"terminated": {"reason": reason, "exitCode": code}});
        for (status, kind, part) in [
            (
                container(waiting("ErrImagePull", "x: not found"), json!({})),
                FailureKind::Input,
                "does not exist",
            ),
            (
                container(waiting("ImagePullBackOff", "dial tcp: i/o timeout"), json!({})),
                FailureKind::Transient,
                "could not be pulled",
            ),
            (
                container(waiting("InvalidImageName", ""), json!({})),
                FailureKind::Input,
                "not a valid image reference",
            ),
            (
                container(waiting("CrashLoopBackOff", "back-off"), ended("OOMKilled", 137)),
                FailureKind::Input,
                "memory",
            ),
            (
                container(waiting("CrashLoopBackOff", "back-off"), ended("Error", 3)),
                FailureKind::Transient,
                "code 3",
            ),
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": "0/1 nodes are available: 1 Insufficient memory."}]}),
                FailureKind::Machine,
                "room",
            ),
        ] {
            let failure = diagnose(status).unwrap();
            assert_eq!(failure.kind, kind, "{failure}");
            assert!(failure.message.contains(part), "{failure}");
            assert!(failure.kubernetes_status.is_some());
        }
    }

    #[test]
    fn a_pod_that_runs_or_is_being_created_has_no_failure() {
        assert_eq!(diagnose(json!({})), None);
        assert_eq!(
            diagnose(container(
                json!({"waiting": {"reason": "ContainerCreating"}}),
                json!({})
            )),
            None
        );
        assert_eq!(
            diagnose(container(
                json!({"running": {}}),
                json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}})
            )),
            None
        );
    }
}
