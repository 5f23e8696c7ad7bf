//! What a pod's status means to the person who waits for it. Pure.

use fsa_model::{Failure, FailureKind};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerStatus, Pod},
};

use crate::{event_diagnosis::placeless, objects::CONTAINER};

/// What the cluster says is wrong with a pod, where it says something.
#[must_use]
pub fn failure(pod: &Pod) -> Option<Failure> {
    let status = pod.status.as_ref()?;
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    if let Some(found) = containers.filter_map(of_container).next() {
        return Some(found);
    }
    if status.reason.as_deref() == Some("Evicted") {
        return Some(said(
            FailureKind::Machine,
            "the cluster took the sandbox off its node, which ran short of something; it is started again",
            "Evicted",
            status.message.as_deref(),
        ));
    }
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    })?;
    Some(said(
        FailureKind::Machine,
        placeless(unscheduled.message.as_deref().unwrap_or_default()),
        "Unschedulable",
        unscheduled.message.as_deref(),
    ))
}

/// Why the cluster does not even make a pod, where it says so.
#[must_use]
pub fn podless(deployment: &Deployment) -> Option<Failure> {
    let failed = deployment
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let message = failed.message.as_deref();
    let words = if message.unwrap_or_default().contains("exceeded quota") {
        "the namespace's quota leaves no room for the sandbox; stop another one, choose a smaller size or have the \
         quota raised"
    } else {
        "the cluster refuses to make the sandbox's pod; its administrator finds the rule in what it says"
    };
    let reason = failed.reason.as_deref().unwrap_or("FailedCreate");
    Some(said(FailureKind::Machine, words, reason, message))
}

fn of_container(status: &ContainerStatus) -> Option<Failure> {
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
                return Some(said(
                    FailureKind::Input,
                    format!("`{image}` is not the name of an image; correct it"),
                    reason,
                    message,
                ));
            }
            "ErrImageNeverPull" => {
                return Some(said(
                    FailureKind::Input,
                    format!(
                        "the image {image} is not on the cluster's nodes, and the settings forbid to pull it"
                    ),
                    reason,
                    message,
                ));
            }
            "ErrImagePull" | "ImagePullBackOff" => return Some(of_pull(image, reason, message)),
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                return Some(said(
                    FailureKind::Machine,
                    "the sandbox's container could not be started; it is tried again",
                    reason,
                    message,
                ));
            }
            "CrashLoopBackOff" if ended.is_none() => {
                return Some(said(
                    FailureKind::Transient,
                    "the sandbox ends as soon as it is started; it is tried again",
                    reason,
                    message,
                ));
            }
            _ => {}
        }
    }
    // While it runs, how it ended before is history.
    if state.is_some_and(|state| state.running.is_some()) {
        return None;
    }
    let ended = ended?;
    if status.name != CONTAINER && ended.exit_code == 0 {
        return None;
    }
    let reason = ended.reason.as_deref().unwrap_or("Error");
    if reason == "OOMKilled" {
        return Some(said(
            FailureKind::Input,
            "the sandbox used more than its memory and was ended by the kernel; choose a larger size or a smaller program",
            reason,
            ended.message.as_deref(),
        ));
    }
    Some(said(
        FailureKind::Transient,
        format!(
            "the sandbox's first process ended by itself (code {}); it is started again",
            ended.exit_code
        ),
        reason,
        ended.message.as_deref(),
    ))
}

/// Only a registry that says no is the person's to mend; one that is silent may answer later.
pub fn of_pull(image: &str, reason: &str, message: Option<&str>) -> Failure {
    let text = message.unwrap_or_default().to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["unauthorized", "denied", "forbidden"]) {
        said(
            FailureKind::Input,
            format!(
                "the registry does not let the cluster have the image {image}: it does not exist, or needs a pull secret"
            ),
            reason,
            message,
        )
    } else if says(&[
        "not found",
        "manifest unknown",
        "name unknown",
        "no match for platform",
    ]) {
        said(
            FailureKind::Input,
            format!("the image {image} does not exist; correct its name or tag"),
            reason,
            message,
        )
    } else {
        said(
            FailureKind::Transient,
            format!(
                "the image {image} could not be pulled; the registry may be down, or its name may be wrong"
            ),
            reason,
            message,
        )
    }
}

/// A failure with what the cluster itself says.
pub fn said(kind: FailureKind, words: impl Into<String>, reason: &str, message: Option<&str>) -> Failure {
    let status: String = match message {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    };
    Failure {
        kubernetes_status: Some(status.chars().take(1000).collect()),
        ..Failure::new(kind, words)
    }
}

/// Whether waiting longer for this pod is of no use to the person who waits.
#[must_use]
pub fn is_final(failure: &Failure) -> bool {
    let status = failure.kubernetes_status.as_deref().unwrap_or_default();
    // A node may come, a volume may be let go of, a quota may be raised.
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

    fn told(status: Value) -> Option<Failure> {
        failure(&serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap())
    }

    fn container(state: Value, last: Value) -> Value {
        json!({"containerStatuses": [{
            "name": "sandbox", "image": "x:1", "imageID": "", "ready": false, "restartCount": 1,
            "state": state, "lastState": last,
        }]})
    }

    #[test]
    fn each_misfortune_has_words_a_person_can_act_on() {
        let waiting =
            |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        let ended = |reason: &str, code: i32| json!({"terminated": {"reason": reason, "exitCode": code}});
        for (status, kind, word) in [
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
                "not the name",
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
            let failure = told(status).unwrap();
            assert_eq!(failure.kind, kind, "{failure}");
            assert!(failure.message.contains(word), "{failure}");
            assert!(failure.kubernetes_status.is_some());
        }
    }

    #[test]
    fn a_pod_that_runs_or_is_on_its_way_has_no_failure() {
        assert_eq!(told(json!({})), None);
        assert_eq!(
            told(container(
                json!({"waiting": {"reason": "ContainerCreating"}}),
                json!({})
            )),
            None
        );
        assert_eq!(
            told(container(
                json!({"running": {}}),
                json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}})
            )),
            None
        );
    }
}
