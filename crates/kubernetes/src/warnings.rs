//! Warnings of the cluster about our pods, from a watch of its events. The latest one explains why a sandbox does not
//! run; subscribers receive each warning once, and again when its count grows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use fsa_driver::Warning;
use fsa_model::Failure;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, Resource as _, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store},
        watcher::{self, Event as WatchEvent},
    },
};
use parking_lot::Mutex;
use tokio::{sync::broadcast, time::Instant};

use crate::{
    connection::Cluster,
    event_diagnosis::{self, Cause, EventWarning},
    objects,
    project_notify::ProjectNotify,
    watch_backoff::WatchBackoff,
};

/// Pods whose warnings are stored, at most. They are removed with their pod.
const MAX_PODS: usize = 10_000;
/// Warnings that a slow subscriber may fall behind by before it loses some.
const BUFFER: usize = 1024;
/// An event may arrive before its pod, which comes from another watch. At most this many wait for their pod, for at
/// most this long.
const MAX_PENDING: usize = 256;
const POD_TIMEOUT: Duration = Duration::from_secs(5);

/// The warnings of all pods.
#[derive(Clone)]
pub struct Warnings(Arc<Inner>);

struct Inner {
    pods: Mutex<HashMap<String, PodWarnings>>,
    warnings: broadcast::Sender<Warning>,
}

/// The warnings about one pod.
#[derive(Default)]
struct PodWarnings {
    latest: Option<Cause>,
    warnings: BTreeMap<Cause, Warning>,
}

impl Default for Warnings {
    fn default() -> Self {
        Self(Arc::new(Inner {
            pods: Mutex::default(),
            warnings: broadcast::Sender::new(BUFFER),
        }))
    }
}

impl Warnings {
    /// Records a warning about a pod of ours, and sends it to subscribers. Whether it is new.
    pub fn record(&self, pod: &Pod, warning: EventWarning) -> bool {
        let (Some(sandbox), Some(uid)) = (objects::owner(&pod.metadata), pod.uid()) else {
            return false;
        };
        let cause = warning.cause;
        let report = Warning {
            sandbox,
            source: uid.clone(),
            cause: cause.name(),
            failure: warning.failure,
            count: warning.count,
        };
        {
            let mut pods = self.0.pods.lock();
            if pods.len() >= MAX_PODS && !pods.contains_key(&uid) {
                pods.clear();
            }
            let recorded = pods.entry(uid).or_default();
            if recorded
                .warnings
                .get(&cause)
                .is_some_and(|earlier| earlier.count >= report.count && earlier.failure == report.failure)
            {
                return false;
            }
            recorded.latest = Some(cause);
            recorded.warnings.insert(cause, report.clone());
        }
        // An error means that there is no subscriber; a later one gets the recorded warnings.
        let _ = self.0.warnings.send(report);
        true
    }

    /// The latest warning about a pod.
    #[must_use]
    pub fn latest(&self, pod: &Pod) -> Option<Failure> {
        let pods = self.0.pods.lock();
        let recorded = pods.get(pod.metadata.uid.as_ref()?)?;
        recorded
            .warnings
            .get(&recorded.latest?)
            .map(|warning| warning.failure.clone())
    }

    /// Removes the warnings of a deleted pod.
    pub fn remove(&self, pod: &Pod) {
        if let Some(uid) = &pod.metadata.uid {
            self.0.pods.lock().remove(uid);
        }
    }

    /// The recorded warnings, and a receiver of later ones.
    #[must_use]
    pub fn subscribe(&self) -> (Vec<Warning>, broadcast::Receiver<Warning>) {
        let receiver = self.0.warnings.subscribe();
        let pods = self.0.pods.lock();
        let recorded = pods.values().flat_map(|pod| pod.warnings.values().cloned());
        (recorded.collect(), receiver)
    }
}

/// An event whose pod has not arrived yet.
struct PendingEvent {
    event: Event,
    until: Instant,
}

/// Watches the warning events of pods, without end. Changes of `pods` are notified through `project_notify`, and so
/// are new warnings.
pub async fn watch_events(
    cluster: Cluster,
    pods: Store<Pod>,
    warnings: Warnings,
    project_notify: Arc<ProjectNotify>,
) {
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    // Events do not have our labels; those about other pods are dropped below.
    let fields = format!("involvedObject.kind={},type=Warning", Pod::kind(&()));
    let events =
        watcher::watcher(api, watcher::Config::default().fields(&fields)).backoff(WatchBackoff::default());
    let mut events = Box::pin(events);
    let mut changes = project_notify.subscribe();
    let mut pending: Vec<PendingEvent> = Vec::new();
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(Ok(WatchEvent::Apply(event) | WatchEvent::InitApply(event))) => {
                    if event_diagnosis::warning(&event).is_none() || !may_be_ours(&event) {
                        continue;
                    }
                    pending.push(PendingEvent { event, until: Instant::now() + POD_TIMEOUT });
                    if pending.len() > MAX_PENDING {
                        pending.remove(0);
                    }
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    tracing::warn!(%error, "watch of the cluster's warnings failed; restarting it");
                    continue;
                }
            },
            changed = changes.changed(), if !pending.is_empty() => if changed.is_err() { return },
        }
        pending.retain(|PendingEvent { event, until }| {
            let about = &event.involved_object;
            let name = about.name.as_deref().unwrap_or_default();
            let pod = pods
                .get(&ObjectRef::new(name).within(&cluster.namespace))
                .filter(|pod| pod.uid() == about.uid);
            let Some(pod) = pod else {
                return Instant::now() < *until;
            };
            if let Some(warning) = event_diagnosis::warning(event)
                && warnings.record(&pod, warning)
            {
                project_notify.notify(objects::project(&pod.metadata));
            }
            false
        });
    }
}

/// Whether the pod's name has the form that a Deployment of ours gives. The pod's labels decide later.
fn may_be_ours(event: &Event) -> bool {
    let name = event.involved_object.name.as_deref().unwrap_or_default();
    let mut parts = name.rsplitn(3, '-');
    parts
        .nth(2)
        .is_some_and(|resource| fsa_model::ResourceName::parse(resource).is_ok())
}

#[cfg(test)]
mod tests {
    use fsa_model::FailureKind;
    use serde_json::json;

    use super::*;

    fn pod(uid: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": uid, "labels": {
            "app": "shop-agentruntime-abcdef",
            "sandbox.fullstackagent.io/id": "018f0000-0000-7000-8000-000000000001",
            "project.fullstackagent.io/id": "018f0000-0000-7000-8000-000000000002",
        }}}))
        .unwrap()
    }

    fn warning(cause: Cause, message: &str, count: u32) -> EventWarning {
        EventWarning {
            cause,
            failure: Failure::new(FailureKind::Machine, message),
            count,
        }
    }

    #[test]
    fn a_warning_is_new_once_and_when_its_count_grows_and_is_removed_with_its_pod() {
        let warnings = Warnings::default();
        assert!(warnings.record(&pod("1"), warning(Cause::Image, "no image", 1)));
        assert!(!warnings.record(&pod("1"), warning(Cause::Image, "no image", 1)));
        assert!(warnings.record(&pod("1"), warning(Cause::Image, "no image", 2)));
        assert!(warnings.record(&pod("1"), warning(Cause::Scheduling, "no room", 1)));
        assert_eq!(warnings.latest(&pod("1")).unwrap().message, "no room");
        assert_eq!(warnings.latest(&pod("2")), None);
        let (recorded, _) = warnings.subscribe();
        assert_eq!(
            recorded.iter().map(|warning| warning.count).collect::<Vec<_>>(),
            [1, 2]
        );
        warnings.remove(&pod("1"));
        assert_eq!(warnings.latest(&pod("1")), None);
        assert!(!warnings.record(&Pod::default(), warning(Cause::Image, "of others", 1)));
    }
}
