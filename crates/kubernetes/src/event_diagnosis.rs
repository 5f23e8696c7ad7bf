//! What the cluster's own warnings about a pod mean to the person who waits for it. Pure.

use fsa_model::{Failure, FailureKind};
use k8s_openapi::api::core::v1::{Event, Pod};

use crate::pod_diagnosis::{of_pull, said};

/// What a warning is about. Of one pod, each is told once and counted from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    Place,
    Volume,
    Image,
    Network,
    Start,
    Memory,
    Ended,
    Node,
}

impl Cause {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Volume => "volume",
            Self::Image => "image",
            Self::Network => "network",
            Self::Start => "start",
            Self::Memory => "memory",
            Self::Ended => "ended",
            Self::Node => "node",
        }
    }
}

/// One warning, however often it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventWarning {
    pub cause: Cause,
    pub failure: Failure,
    pub count: u32,
}

/// What an event about a pod says, unless it is nothing that a person could act on.
#[must_use]
pub fn warning(event: &Event) -> Option<EventWarning> {
    let reason = event.reason.as_deref()?;
    let message = event.message.as_deref().unwrap_or_default().trim();
    let (cause, kind, words) = match reason {
        "FailedScheduling" => (Cause::Place, FailureKind::Machine, placeless(message).to_owned()),
        "Preempted" | "Preempting" => (
            Cause::Place,
            FailureKind::Machine,
            "the sandbox had to leave its node to something of a higher priority; it is started elsewhere when there is room"
                .to_owned(),
        ),
        "Evicted" => (
            Cause::Node,
            FailureKind::Machine,
            "the cluster took the sandbox off its node, which ran short of something; it is started again".to_owned(),
        ),
        "NodeNotReady" => (
            Cause::Node,
            FailureKind::Machine,
            "the sandbox's node does not answer; the sandbox is started on another one when the cluster has given this \
             one up"
                .to_owned(),
        ),
        "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => (
            Cause::Volume,
            FailureKind::Machine,
            "a volume of the sandbox cannot be mounted on its node; it may still be in use on another node, or what it \
             is made from is missing"
                .to_owned(),
        ),
        "FailedCreatePodSandBox" => (
            Cause::Network,
            FailureKind::Machine,
            "the node cannot set up the sandbox's network; the cluster's administrator finds the reason in the node's \
             log"
            .to_owned(),
        ),
        "Failed" | "BackOff" | "ErrImageNeverPull" | "InspectFailed" => {
            return of_container(event, reason, message);
        }
        _ => return None,
    };
    Some(made(event, cause, said(kind, words, reason, Some(message))))
}

/// Kubelet has few reasons for many things, and says which one in the message.
fn of_container(event: &Event, reason: &str, message: &str) -> Option<EventWarning> {
    if message.contains("restarting failed container") {
        let failure = said(
            FailureKind::Transient,
            "the sandbox ends soon after each start, so the cluster waits longer and longer between two starts; its logs \
             may say why",
            reason,
            Some(message),
        );
        return Some(made(event, Cause::Ended, failure));
    }
    if message.contains("pull") || message.contains("image \"") {
        // In quotes, where it is named at all.
        let image = message.split('"').nth(1)?;
        return Some(made(event, Cause::Image, of_pull(image, reason, Some(message))));
    }
    // `Error: ErrImagePull` repeats what another event says with its cause.
    let repeats = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"];
    (!repeats.iter().any(|word| message.contains(word))).then(|| {
        let failure = said(
            FailureKind::Machine,
            "the sandbox's container could not be started; it is tried again",
            reason,
            Some(message),
        );
        made(event, Cause::Start, failure)
    })
}

fn made(event: &Event, cause: Cause, failure: Failure) -> EventWarning {
    let series = event.series.as_ref().and_then(|series| series.count);
    let count = event.count.into_iter().chain(series).max().unwrap_or(1);
    EventWarning {
        cause,
        failure,
        count: u32::try_from(count).unwrap_or(1).max(1),
    }
}

/// Why no node takes a pod, from what the scheduler says of all of them.
#[must_use]
pub fn placeless(message: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&[
        "unbound immediate PersistentVolumeClaim",
        "StorageClass",
        "storageclass",
    ]) {
        "the sandbox's home volume cannot be made; the region's storage class may be missing or out of space"
    } else if says(&["volume node affinity", "had volume"]) {
        "the sandbox's home volume is on a node that does not take the sandbox; that node is full, closed or gone"
    } else {
        "no node of the cluster has room for the sandbox, or may take it; choose a smaller size, or add a node"
    }
}

/// How the sandbox's container ended the last time, where that is something to be told. The cluster has no event
/// for a program that is ended by the kernel.
#[must_use]
pub fn ended(pod: &Pod) -> Option<EventWarning> {
    let status = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .find(|status| status.name == crate::objects::CONTAINER)?;
    let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    let last = status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let ended = now.or(last)?;
    (ended.reason.as_deref() == Some("OOMKilled")).then(|| EventWarning {
        cause: Cause::Memory,
        failure: said(
            FailureKind::Input,
            "the sandbox used more than its memory and was ended by the kernel; choose a larger size or a smaller program",
            "OOMKilled",
            ended.message.as_deref(),
        ),
        count: u32::try_from(status.restart_count)
            .unwrap_or(0)
            .saturating_add(u32::from(now.is_some()))
            .max(1),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(reason: &str, message: &str) -> Option<EventWarning> {
        let event = json!({
            "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"},
            "reason": reason, "message": message, "count": 3,
        });
        warning(&serde_json::from_value(event).unwrap())
    }

    #[test]
    fn each_warning_has_a_cause_and_words_and_the_clusters_own() {
        for (reason, message, cause, kind, word) in [
            (
                "FailedScheduling",
                "0/1 nodes are available: 1 Insufficient memory.",
                Cause::Place,
                FailureKind::Machine,
                "room",
            ),
            (
                "FailedScheduling",
                "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
                Cause::Place,
                FailureKind::Machine,
                "storage class",
            ),
            (
                "FailedMount",
                "MountVolume.SetUp failed for volume \"boot\" : secret \"x\" not found",
                Cause::Volume,
                FailureKind::Machine,
                "mounted",
            ),
            (
                "Failed",
                "Failed to pull image \"a/b:1\": rpc error: code = NotFound: a/b:1: not found",
                Cause::Image,
                FailureKind::Input,
                "a/b:1 does not exist",
            ),
            (
                "BackOff",
                "Back-off pulling image \"a/b:1\"",
                Cause::Image,
                FailureKind::Transient,
                "could not be pulled",
            ),
            (
                "BackOff",
                "Back-off restarting failed container sandbox in pod p_ns(1)",
                Cause::Ended,
                FailureKind::Transient,
                "logs",
            ),
            (
                "Failed",
                "Error: failed to create containerd container: no such device",
                Cause::Start,
                FailureKind::Machine,
                "started",
            ),
            (
                "NodeNotReady",
                "Node is not ready",
                Cause::Node,
                FailureKind::Machine,
                "node",
            ),
        ] {
            let warning = told(reason, message).unwrap();
            assert_eq!(
                (warning.cause, warning.failure.kind, warning.count),
                (cause, kind, 3),
                "{warning:?}"
            );
            assert!(warning.failure.message.contains(word), "{warning:?}");
            let status = warning.failure.kubernetes_status.unwrap();
            assert!(status.starts_with(reason) && status.contains(message), "{status}");
        }
    }

    #[test]
    fn what_says_nothing_new_or_nothing_to_act_on_is_left_out() {
        assert_eq!(told("Unhealthy", "Readiness probe failed"), None);
        assert_eq!(told("Failed", "Error: ImagePullBackOff"), None);
    }

    #[test]
    fn a_container_that_was_ended_for_its_memory_is_told_although_it_runs_again() {
        let pod = |last: serde_json::Value| {
            let status = json!({"containerStatuses": [{
                "name": "sandbox", "image": "x", "imageID": "", "ready": true, "restartCount": 2,
                "state": {"running": {}}, "lastState": last,
            }]});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
        };
        let warning = ended(&pod(
            json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}}),
        ))
        .unwrap();
        assert_eq!((warning.cause, warning.count), (Cause::Memory, 2));
        assert_eq!(
            ended(&pod(json!({"terminated": {"reason": "Error", "exitCode": 1}}))),
            None
        );
        assert_eq!(ended(&pod(json!({}))), None);
    }
}
