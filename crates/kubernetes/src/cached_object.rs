//! Cached objects: a reflector stores the identity of an object and a summary of its kind. The full specs of a thousand
//! sandboxes would need more memory than the rest of the process. Drift is computed once per change of an object, not
//! at each observation.

use std::{borrow::Cow, fmt::Debug, marker::PhantomData};

use fsa_model::Failure;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{PersistentVolumeClaim, Service},
        networking::v1::{Ingress, NetworkPolicy},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, core::DynamicObject, runtime::watcher::Event};

use crate::{drift::matches_applied, objects::DIGEST, pod_diagnosis};

/// A kind that is cached as a summary.
pub trait Summarize: Resource {
    /// The part of an object that the driver reads, beside its metadata.
    type Summary: Clone + Debug + PartialEq + Send + Sync + 'static;

    fn summarize(&self) -> Self::Summary;
}

/// The cached part of an object.
#[derive(Clone, Debug)]
pub struct CachedObject<K: Summarize> {
    /// With one annotation only, the digest.
    pub metadata: ObjectMeta,
    pub summary: K::Summary,
    kind: PhantomData<fn() -> K>,
}

/// Whether the object has all the values that we applied: no drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatchesApplied(pub bool);

/// The summary of a Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentSummary {
    /// See [`MatchesApplied`].
    pub matches_applied: bool,
    pub replicas: Option<i32>,
    /// Why the cluster does not create its pod.
    pub pod_creation_failure: Option<Failure>,
}

impl<K: Summarize> CachedObject<K> {
    #[must_use]
    pub fn new(mut object: K) -> Self {
        let summary = object.summarize();
        let mut metadata = std::mem::take(object.meta_mut());
        metadata.managed_fields = None;
        metadata.annotations = metadata.annotations.and_then(|mut all| {
            let digest = all.remove_entry(DIGEST)?;
            Some([digest].into())
        });
        Self {
            metadata,
            summary,
            kind: PhantomData,
        }
    }

    /// Whether an observation of `next` would differ from one of `self`. Most writes of a cluster's controllers do not
    /// change it.
    #[must_use]
    pub fn differs_from(&self, next: &Self) -> bool {
        let (was, is) = (&self.metadata, &next.metadata);
        let same = was.uid == is.uid
            && was.labels == is.labels
            && was.annotations == is.annotations
            && was.deletion_timestamp == is.deletion_timestamp;
        !same || self.summary != next.summary
    }
}

impl Summarize for Deployment {
    type Summary = DeploymentSummary;

    fn summarize(&self) -> DeploymentSummary {
        DeploymentSummary {
            matches_applied: matches_applied(&self.metadata, &self.spec),
            replicas: self.spec.as_ref().and_then(|spec| spec.replicas),
            pod_creation_failure: pod_diagnosis::pod_creation_failure(self),
        }
    }
}

macro_rules! summarize_as_matches_applied {
    ($($kind:ty),*) => {$(
        impl Summarize for $kind {
            type Summary = MatchesApplied;

            fn summarize(&self) -> MatchesApplied {
                MatchesApplied(matches_applied(&self.metadata, &self.spec))
            }
        }
    )*};
}

summarize_as_matches_applied!(Service, NetworkPolicy, Ingress);

/// An HTTPRoute. Controllers write into its status, which is not compared.
impl Summarize for DynamicObject {
    type Summary = MatchesApplied;

    fn summarize(&self) -> MatchesApplied {
        MatchesApplied(matches_applied(&self.metadata, &self.data["spec"]))
    }
}

/// Most of a claim is immutable, so its drift is not checked.
impl Summarize for PersistentVolumeClaim {
    type Summary = ();

    fn summarize(&self) {}
}

impl<K: Summarize> Resource for CachedObject<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Maps the object in a watch event.
pub fn map_event<K, S>(event: Event<K>, map: impl Fn(K) -> S) -> Event<S> {
    match event {
        Event::Apply(object) => Event::Apply(map(object)),
        Event::Delete(object) => Event::Delete(map(object)),
        Event::InitApply(object) => Event::InitApply(map(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{drift::with_applied_annotation, objects::APPLIED};

    fn deployment(change: impl Fn(&mut serde_json::Value)) -> CachedObject<Deployment> {
        let applied = json!({
            "metadata": {"name": "a", "labels": {"of": "us"}, "annotations": {DIGEST: "d-1"}},
            "spec": {"replicas": 1, "selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
        });
        let mut live = with_applied_annotation(&applied).unwrap();
        change(&mut live);
        CachedObject::new(serde_json::from_value::<Deployment>(live).unwrap())
    }

    #[test]
    fn a_cached_deployment_has_its_identity_and_whether_it_matches_what_was_applied() {
        let cached = deployment(|_| {});
        assert!(cached.summary.matches_applied);
        assert_eq!(
            (cached.summary.replicas, cached.metadata.name.as_deref()),
            (Some(1), Some("a"))
        );
        assert_eq!(cached.metadata.labels.unwrap()["of"], "us");
        assert_eq!(
            cached.metadata.annotations.unwrap(),
            [(DIGEST.to_owned(), "d-1".to_owned())].into()
        );

        let edited =
            deployment(|live| live["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other"));
        assert!(!edited.summary.matches_applied);
    }

    #[test]
    fn writes_of_controllers_make_no_difference_and_changes_of_spec_or_metadata_do() {
        let before = deployment(|_| {});
        let written = deployment(|live| {
            live["metadata"]["resourceVersion"] = json!("2");
            live["status"] = json!({"readyReplicas": 1});
        });
        assert!(!before.differs_from(&written));
        for (path, value) in [
            ("/spec/replicas", json!(0)),
            ("/spec/template/spec/containers/0/image", json!("other")),
            ("/metadata/labels/of", json!("another")),
        ] {
            let changed = deployment(|live| *live.pointer_mut(path).unwrap() = value.clone());
            assert!(before.differs_from(&changed), "{path}");
        }
        let deleting =
            deployment(|live| live["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        assert!(before.differs_from(&deleting));
        let without_pod = deployment(|live| {
            live["status"] = json!({"conditions": [{
                "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota",
            }]});
        });
        assert!(before.differs_from(&without_pod));
    }

    #[test]
    fn the_annotation_with_the_applied_values_is_not_cached() {
        let live = with_applied_annotation(&json!({"metadata": {}, "spec": {}})).unwrap();
        let service: Service = serde_json::from_value(live).unwrap();
        assert!(
            service
                .metadata
                .annotations
                .as_ref()
                .unwrap()
                .contains_key(APPLIED)
        );
        assert_eq!(CachedObject::new(service).metadata.annotations, None);
    }
}
