//! Pods of our sandboxes, cached from a watch and indexed by sandbox. A waiter reads them after each change, so a read
//! must not scan all pods.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use fsa_model::ResourceName;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt as _,
    runtime::{
        reflector::{ObjectRef, Store},
        watcher::Event,
    },
};
use parking_lot::RwLock;

use crate::objects;

/// The store, with an index beside it.
pub struct Pods {
    pub store: Store<Pod>,
    names: PodNames,
}

type BySandbox = HashMap<String, BTreeSet<String>>;

/// The names of the pods of each sandbox, by its resource name.
#[derive(Clone, Default)]
pub struct PodNames(Arc<RwLock<Index>>);

#[derive(Default)]
struct Index {
    names: BySandbox,
    /// From the list in progress. Until the list is complete the store has the earlier objects.
    listed: BySandbox,
}

impl Pods {
    #[must_use]
    pub const fn new(store: Store<Pod>, names: PodNames) -> Self {
        Self { store, names }
    }

    /// The pods with the resource name of a sandbox. The caller checks that they belong to this very sandbox.
    #[must_use]
    pub fn named(&self, namespace: &str, sandbox: &ResourceName) -> Vec<Arc<Pod>> {
        let index = self.names.0.read();
        let names = index.names.get(sandbox.as_str()).into_iter().flatten();
        names
            .filter_map(|name| self.store.get(&ObjectRef::new(name).within(namespace)))
            .collect()
    }
}

impl PodNames {
    /// Updates the index from a watch event, once the store has it.
    pub fn update(&self, event: &Event<Pod>) {
        let mut index = self.0.write();
        match event {
            Event::Init => index.listed.clear(),
            Event::Apply(pod) => add(&mut index.names, pod),
            Event::InitApply(pod) => {
                add(&mut index.names, pod);
                add(&mut index.listed, pod);
            }
            Event::InitDone => index.names = std::mem::take(&mut index.listed),
            Event::Delete(pod) => remove(&mut index.names, pod),
        }
    }
}

fn add(all: &mut BySandbox, pod: &Pod) {
    let Some(sandbox) = sandbox_name(pod) else { return };
    let name = pod.name_any();
    match all.get_mut(sandbox) {
        Some(names) => _ = names.insert(name),
        None => _ = all.insert(sandbox.to_owned(), BTreeSet::from([name])),
    }
}

fn remove(all: &mut BySandbox, pod: &Pod) {
    let Some(sandbox) = sandbox_name(pod) else { return };
    if let Some(names) = all.get_mut(sandbox) {
        names.remove(&pod.name_any());
        if names.is_empty() {
            all.remove(sandbox);
        }
    }
}

fn sandbox_name(pod: &Pod) -> Option<&str> {
    pod.labels().get(objects::APP).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn pod(sandbox: &str, name: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                labels: Some([(objects::APP.to_owned(), sandbox.to_owned())].into()),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        }
    }

    fn names(names: &PodNames, sandbox: &str) -> Vec<String> {
        let index = names.0.read();
        index.names.get(sandbox).into_iter().flatten().cloned().collect()
    }

    #[test]
    fn pods_are_added_and_removed_under_the_name_of_their_sandbox() {
        let all = PodNames::default();
        for (sandbox, name) in [("a", "a-1"), ("b", "b-1"), ("a", "a-2")] {
            all.update(&Event::Apply(pod(sandbox, name)));
        }
        assert_eq!(names(&all, "a"), ["a-1", "a-2"]);
        all.update(&Event::Delete(pod("a", "a-1")));
        assert_eq!(names(&all, "a"), ["a-2"]);
        all.update(&Event::Delete(pod("a", "a-2")));
        assert!(!all.0.read().names.contains_key("a"));
    }

    #[test]
    fn a_new_list_removes_nothing_until_it_is_complete() {
        let all = PodNames::default();
        all.update(&Event::Apply(pod("a", "old")));
        all.update(&Event::Init);
        all.update(&Event::InitApply(pod("a", "new")));
        assert_eq!(names(&all, "a"), ["new", "old"]);
        all.update(&Event::InitDone);
        assert_eq!(names(&all, "a"), ["new"]);
    }
}
