//! Event diagnosis: turns the cluster's warning events about a pod into a failure with a message for people. Pure.

use fsa_model::{Failure, FailureKind};
use k8s_openapi::api::core::v1::{Event, Pod};

use crate::pod_diagnosis::{image_pull_failure, unschedulable_reason, with_cluster_status};

/// Cause of a warning. Each cause is reported once per pod, and later occurrences are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    Scheduling,
    Volume,
    Image,
    Network,
    Start,
    Memory,
    CrashLoop,
    Node,
}

impl Cause {
    /// Its stable name in a project's events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduling => "place",
            Self::Volume => "volume",
            Self::Image => "image",
            Self::Network => "network",
            Self::Start => "start",
            Self::Memory => "memory",
            Self::CrashLoop => "ended",
            Self::Node => "node",
        }
    }
}

/// A warning, with the number of its reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventWarning {
    pub cause: Cause,
    pub failure: Failure,
    pub count: u32,
}

/// The warning in an event about a pod; `None` if users cannot act on it.
#[must_use]
pub fn warning(event: &Event) -> Option<EventWarning> {
    let reason = event.reason.as_deref()?;
    let message = event.message.as_deref().unwrap_or_default().trim();
    let (cause, kind, text) = match reason {
        "FailedScheduling" => (
            Cause::Scheduling,
            FailureKind::Machine,
            unschedulable_reason(message).to_owned(),
        ),
        "Preempted" | "Preempting" => (
            Cause::Scheduling,
            FailureKind::Machine,
            "the sandbox was preempted on its node by a pod of higher priority; it is started elsewhere when there is room"
                .to_owned(),
        ),
        "Evicted" => (
            Cause::Node,
            FailureKind::Machine,
            "the cluster evicted the sandbox from its node, which was short of resources; it is started again"
                .to_owned(),
        ),
        "NodeNotReady" => (
            Cause::Node,
            FailureKind::Machine,
            "the sandbox's node does not answer; the sandbox is started on another node once the cluster evicts it from \
             this one"
                .to_owned(),
        ),
        "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => (
            Cause::Volume,
            FailureKind::Machine,
            "a volume of the sandbox cannot be mounted on its node; it may still be in use on another node, or its \
             source (claim, secret) is missing"
                .to_owned(),
        ),
        "FailedCreatePodSandBox" => (
            Cause::Network,
            FailureKind::Machine,
            "the node cannot set up the sandbox's network; the node's log has the reason for the cluster's administrator"
            .to_owned(),
        ),
        "Failed" | "BackOff" | "ErrImageNeverPull" | "InspectFailed" => {
            return container_warning(event, reason, message);
        }
        _ => return None,
    };
    let failure = with_cluster_status(kind, text, reason, Some(message));
    Some(event_warning(event, cause, failure))
}

/// The kubelet uses few reasons for many failures; the message distinguishes them.
fn container_warning(event: &Event, reason: &str, message: &str) -> Option<EventWarning> {
    if message.contains("restarting failed container") {
        let failure = with_cluster_status(
            FailureKind::Transient,
            "the sandbox exits soon after each start, so the cluster backs off between starts; its logs may say why",
            reason,
            Some(message),
        );
        return Some(event_warning(event, Cause::CrashLoop, failure));
    }
    if message.contains("pull") || message.contains("image \"") {
        // The image is in quotes, if it is named at all.
        let image = message.split('"').nth(1)?;
        let failure = image_pull_failure(image, reason, Some(message));
        return Some(event_warning(event, Cause::Image, failure));
    }
    // `Error: ErrImagePull` repeats another event that has the cause.
    let repeats = ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"];
    (!repeats.iter().any(|reason| message.contains(reason))).then(|| {
        let failure = with_cluster_status(
            FailureKind::Machine,
            "the sandbox's container could not be started; it is retried",
            reason,
            Some(message),
        );
        event_warning(event, Cause::Start, failure)
    })
}

fn event_warning(event: &Event, cause: Cause, failure: Failure) -> EventWarning {
    let series = event.series.as_ref().and_then(|series| series.count);
    let count = event.count.into_iter().chain(series).max().unwrap_or(1);
    EventWarning {
        cause,
        failure,
        count: u32::try_from(count).unwrap_or(1).max(1),
    }
}

/// The warning for a container that the kernel killed for its memory, from the pod's status: the cluster has no event
/// for that.
#[must_use]
pub fn out_of_memory(pod: &Pod) -> Option<EventWarning> {
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
        failure: with_cluster_status(
            FailureKind::Input,
            "the sandbox exceeded its memory limit and was killed by the kernel; choose a larger size or a smaller program",
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

    fn diagnose(reason: &str, message: &str) -> Option<EventWarning> {
        let event = json!({
            "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"},
            "reason": reason, "message": message, "count": 3,
        });
        warning(&serde_json::from_value(event).unwrap())
    }

    #[test]
    fn each_warning_has_a_cause_a_message_and_the_clusters_own_status() {
        for (reason, message, cause, kind, part) in [
            (
                "FailedScheduling",
                "0/1 nodes are available: 1 Insufficient memory.",
                Cause::Scheduling,
                FailureKind::Machine,
                "room",
            ),
            (
                "FailedScheduling",
                "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
                Cause::Scheduling,
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
                Cause::CrashLoop,
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
            let warning = diagnose(reason, message).unwrap();
            assert_eq!(
                (warning.cause, warning.failure.kind, warning.count),
                (cause, kind, 3),
                "{warning:?}"
            );
            assert!(warning.failure.message.contains(part), "{warning:?}");
            let status = warning.failure.kubernetes_status.unwrap();
            assert!(status.starts_with(reason) && status.contains(message), "{status}");
        }
    }

    #[test]
    fn an_event_that_repeats_another_or_needs_no_action_is_ignored() {
        assert_eq!(diagnose("Unhealthy", "Readiness probe failed"), None);
        assert_eq!(diagnose("Failed", "Error: ImagePullBackOff"), None);
    }

    #[test]
    fn a_container_that_was_killed_for_its_memory_is_reported_although_it_runs_again() {
        let pod = |last: serde_json::Value| {
            let status = json!({"containerStatuses": [{
                "name": "sandbox", "image": "x", "imageID": "", "ready": true, "restartCount": 2,
                "state": {"running": {}}, "lastState": last,
            }]});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
        };
        let warning = out_of_memory(&pod(
            json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}}),
        ))
        .unwrap();
        assert_eq!((warning.cause, warning.count), (Cause::Memory, 2));
        assert_eq!(
            out_of_memory(&pod(json!({"terminated": {"reason": "Error", "exitCode": 1}}))),
            None
        );
        assert_eq!(out_of_memory(&pod(json!({}))), None);
    }
}
