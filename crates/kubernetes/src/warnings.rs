//! The cluster's warnings about our pods, by a watch: kept for whoever asks why a sandbox does not run, and told
//! once each to whoever listens. A warning that is repeated is counted.

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
        reflector::Store,
        watcher::{self, Event as Watched},
    },
};
use parking_lot::Mutex;
use tokio::{sync::broadcast, time::Instant};

use crate::{
    connection::Cluster,
    event_diagnosis::{self, Cause, EventWarning},
    objects,
    project_notify::Changes,
    reflectors::{Patience, named},
};

/// Pods with warnings that are kept. Each is forgotten with its pod.
const PODS: usize = 10_000;
/// Warnings that a slow listener may be behind by before it loses some.
const REMARKS: usize = 1024;
/// An event may come before its pod does, by another watch. So many wait for that, for so long.
const EARLY: usize = 256;
const PATIENCE: Duration = Duration::from_secs(5);

/// The warnings of all pods.
#[derive(Clone)]
pub struct Warnings(Arc<Inner>);

struct Inner {
    pods: Mutex<HashMap<String, Told>>,
    warnings: broadcast::Sender<Warning>,
}

/// What was said of one pod, the newest last.
#[derive(Default)]
struct Told {
    newest: Option<Cause>,
    warnings: BTreeMap<Cause, Warning>,
}

impl Default for Warnings {
    fn default() -> Self {
        Self(Arc::new(Inner {
            pods: Mutex::default(),
            warnings: broadcast::Sender::new(REMARKS),
        }))
    }
}

impl Warnings {
    /// Takes a warning of a pod of ours. Whether it is news.
    pub fn take(&self, pod: &Pod, warning: EventWarning) -> bool {
        let (Some(sandbox), Some(uid)) = (objects::owner(&pod.metadata), pod.uid()) else {
            return false;
        };
        let cause = warning.cause;
        let report = Warning {
            sandbox,
            source: uid.clone(),
            cause: cause.word(),
            failure: warning.failure,
            count: warning.count,
        };
        {
            let mut pods = self.0.pods.lock();
            if pods.len() >= PODS && !pods.contains_key(&uid) {
                pods.clear();
            }
            let told = pods.entry(uid).or_default();
            if told
                .warnings
                .get(&cause)
                .is_some_and(|known| known.count >= report.count && known.failure == report.failure)
            {
                return false;
            }
            told.newest = Some(cause);
            told.warnings.insert(cause, report.clone());
        }
        // Nobody listens: whoever comes later is told what is known.
        let _ = self.0.warnings.send(report);
        true
    }

    /// What was said last of a pod.
    #[must_use]
    pub fn newest(&self, pod: &Pod) -> Option<Failure> {
        let pods = self.0.pods.lock();
        let told = pods.get(pod.metadata.uid.as_ref()?)?;
        told.warnings
            .get(&told.newest?)
            .map(|warning| warning.failure.clone())
    }

    /// The pod is gone.
    pub fn forget(&self, pod: &Pod) {
        if let Some(uid) = &pod.metadata.uid {
            self.0.pods.lock().remove(uid);
        }
    }

    /// What is known, and from then on what is new.
    #[must_use]
    pub fn listen(&self) -> (Vec<Warning>, broadcast::Receiver<Warning>) {
        let receiver = self.0.warnings.subscribe();
        let pods = self.0.pods.lock();
        let known = pods.values().flat_map(|told| told.warnings.values().cloned());
        (known.collect(), receiver)
    }
}

/// An event whose pod is not known yet.
struct Early {
    event: Event,
    until: Instant,
}

/// Watches the warnings about pods, for ever. `changes` tells of changes of the pods, and is told of news.
pub async fn follow(cluster: Cluster, pods: Store<Pod>, warnings: Warnings, changes: Arc<Changes>) {
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    // Events have none of our labels; those of others' pods are dropped when they come.
    let fields = format!("involvedObject.kind={},type=Warning", Pod::kind(&()));
    let events =
        watcher::watcher(api, watcher::Config::default().fields(&fields)).backoff(Patience::default());
    let mut events = Box::pin(events);
    let mut seen = changes.any();
    let mut early: Vec<Early> = Vec::new();
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(Ok(Watched::Apply(event) | Watched::InitApply(event))) => {
                    if event_diagnosis::warning(&event).is_none() || !may_be_ours(&event) {
                        continue;
                    }
                    early.push(Early { event, until: Instant::now() + PATIENCE });
                    if early.len() > EARLY {
                        early.remove(0);
                    }
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    tracing::warn!(%error, "the watch of the cluster's warnings broke off; it is begun again");
                    continue;
                }
            },
            told = seen.changed(), if !early.is_empty() => if told.is_err() { return },
        }
        early.retain(|Early { event, until }| {
            let about = &event.involved_object;
            let pod = named(
                &pods,
                &cluster.namespace,
                about.name.as_deref().unwrap_or_default(),
            )
            .filter(|pod| pod.uid() == about.uid);
            let Some(pod) = pod else {
                return Instant::now() < *until;
            };
            if let Some(warning) = event_diagnosis::warning(event)
                && warnings.take(&pod, warning)
            {
                changes.tell(objects::project(&pod.metadata));
            }
            false
        });
    }
}

/// Whether a pod's name is one that a Deployment of ours would give; the pod itself says whether it is.
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
    fn a_warning_is_news_once_and_when_it_is_said_again_and_goes_with_its_pod() {
        let warnings = Warnings::default();
        assert!(warnings.take(&pod("1"), warning(Cause::Image, "no image", 1)));
        assert!(!warnings.take(&pod("1"), warning(Cause::Image, "no image", 1)));
        assert!(warnings.take(&pod("1"), warning(Cause::Image, "no image", 2)));
        assert!(warnings.take(&pod("1"), warning(Cause::Place, "no room", 1)));
        assert_eq!(warnings.newest(&pod("1")).unwrap().message, "no room");
        assert_eq!(warnings.newest(&pod("2")), None);
        let (known, _) = warnings.listen();
        assert_eq!(
            known.iter().map(|warning| warning.count).collect::<Vec<_>>(),
            [1, 2]
        );
        warnings.forget(&pod("1"));
        assert_eq!(warnings.newest(&pod("1")), None);
        assert!(!warnings.take(&Pod::default(), warning(Cause::Image, "of others", 1)));
    }
}
