//! What is kept of an object that a watch tells of: who it is, and the little that is asked of its kind. What it is
//! made of would, a thousand times, take more room than everything else in this process. Whether it is still as it was
//! asked for is found out once for each change, and not at each look.

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

use crate::{drift::is_as_asked, objects::DIGEST, pod_diagnosis};

/// A kind of which not everything is kept.
pub trait Keep: Resource {
    /// What is asked of its objects, beside who they are.
    type Of: Clone + Debug + PartialEq + Send + Sync + 'static;

    fn of(&self) -> Self::Of;
}

/// What is kept of an object.
#[derive(Clone, Debug)]
pub struct Kept<K: Keep> {
    /// Of its annotations, the digest alone.
    pub metadata: ObjectMeta,
    pub of: K::Of,
    kind: PhantomData<fn() -> K>,
}

/// Whether it still is what its note says that we asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsAsked(pub bool);

/// Of a Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    pub as_asked: bool,
    pub replicas: Option<i32>,
    /// Why the cluster does not even make its pod.
    pub podless: Option<Failure>,
}

impl<K: Keep> Kept<K> {
    /// Keeps what is worth it.
    #[must_use]
    pub fn new(mut object: K) -> Self {
        let of = object.of();
        let mut metadata = std::mem::take(object.meta_mut());
        metadata.managed_fields = None;
        metadata.annotations = metadata.annotations.and_then(|mut all| {
            let digest = all.remove_entry(DIGEST)?;
            Some([digest].into())
        });
        Self {
            metadata,
            of,
            kind: PhantomData,
        }
    }

    /// Whether a look would find something else than before: most of what a cluster's controllers write is of no
    /// concern here.
    #[must_use]
    pub fn is_news(&self, next: &Self) -> bool {
        let (was, is) = (&self.metadata, &next.metadata);
        let same = was.uid == is.uid
            && was.labels == is.labels
            && was.annotations == is.annotations
            && was.deletion_timestamp == is.deletion_timestamp;
        !same || self.of != next.of
    }
}

impl Keep for Deployment {
    type Of = Deployed;

    fn of(&self) -> Deployed {
        Deployed {
            as_asked: is_as_asked(&self.metadata, &self.spec),
            replicas: self.spec.as_ref().and_then(|spec| spec.replicas),
            podless: pod_diagnosis::podless(self),
        }
    }
}

macro_rules! as_asked {
    ($($kind:ty),*) => {$(
        impl Keep for $kind {
            type Of = AsAsked;

            fn of(&self) -> AsAsked {
                AsAsked(is_as_asked(&self.metadata, &self.spec))
            }
        }
    )*};
}

as_asked!(Service, NetworkPolicy, Ingress);

/// An HTTPRoute. What others' controllers write into it is its status.
impl Keep for DynamicObject {
    type Of = AsAsked;

    fn of(&self) -> AsAsked {
        AsAsked(is_as_asked(&self.metadata, &self.data["spec"]))
    }
}

/// Most of it cannot be changed, so nobody asks whether it was.
impl Keep for PersistentVolumeClaim {
    type Of = ();

    fn of(&self) {}
}

impl<K: Keep> Resource for Kept<K> {
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

/// The event of what is kept of its object.
pub fn each<K, S>(event: Event<K>, keep: impl Fn(K) -> S) -> Event<S> {
    match event {
        Event::Apply(object) => Event::Apply(keep(object)),
        Event::Delete(object) => Event::Delete(keep(object)),
        Event::InitApply(object) => Event::InitApply(keep(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{drift::with_note, objects::APPLIED};

    fn deployment(change: impl Fn(&mut serde_json::Value)) -> Kept<Deployment> {
        let asked = json!({
            "metadata": {"name": "a", "labels": {"of": "us"}, "annotations": {DIGEST: "d-1"}},
            "spec": {"replicas": 1, "selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
        });
        let mut live = with_note(&asked).unwrap();
        change(&mut live);
        Kept::new(serde_json::from_value::<Deployment>(live).unwrap())
    }

    #[test]
    fn of_a_deployment_it_is_kept_who_it_is_and_whether_it_is_as_asked() {
        let kept = deployment(|_| {});
        assert!(kept.of.as_asked);
        assert_eq!(
            (kept.of.replicas, kept.metadata.name.as_deref()),
            (Some(1), Some("a"))
        );
        assert_eq!(kept.metadata.labels.unwrap()["of"], "us");
        assert_eq!(
            kept.metadata.annotations.unwrap(),
            [(DIGEST.to_owned(), "d-1".to_owned())].into()
        );

        let edited =
            deployment(|live| live["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other"));
        assert!(!edited.of.as_asked);
    }

    #[test]
    fn what_the_clusters_controllers_write_is_no_news_and_what_a_look_would_find_is() {
        let before = deployment(|_| {});
        let written = deployment(|live| {
            live["metadata"]["resourceVersion"] = json!("2");
            live["status"] = json!({"readyReplicas": 1});
        });
        assert!(!before.is_news(&written));
        for (path, value) in [
            ("/spec/replicas", json!(0)),
            ("/spec/template/spec/containers/0/image", json!("other")),
            ("/metadata/labels/of", json!("another")),
        ] {
            let changed = deployment(|live| *live.pointer_mut(path).unwrap() = value.clone());
            assert!(before.is_news(&changed), "{path}");
        }
        let leaving =
            deployment(|live| live["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        assert!(before.is_news(&leaving));
        let podless = deployment(|live| {
            live["status"] = json!({"conditions": [{
                "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota",
            }]});
        });
        assert!(before.is_news(&podless));
    }

    #[test]
    fn the_note_of_what_was_asked_for_is_not_kept() {
        let noted =
            serde_json::from_value::<Service>(with_note(&json!({"metadata": {}, "spec": {}})).unwrap())
                .unwrap();
        assert!(noted.metadata.annotations.as_ref().unwrap().contains_key(APPLIED));
        assert_eq!(Kept::new(noted).metadata.annotations, None);
    }
}
