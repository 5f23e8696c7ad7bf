//! The pods of our sandboxes as their watch tells them, found by their sandbox: whoever waits for one looks again and
//! again, so a look must not read them all.

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
    names: Names,
}

type BySandbox = HashMap<String, BTreeSet<String>>;

/// The names of the pods of each sandbox, by its resource name.
#[derive(Clone, Default)]
pub struct Names(Arc<RwLock<Known>>);

#[derive(Default)]
struct Known {
    names: BySandbox,
    /// What a list that is under way has told. Until its end the store has what was there before.
    listed: BySandbox,
}

impl Pods {
    #[must_use]
    pub const fn new(store: Store<Pod>, names: Names) -> Self {
        Self { store, names }
    }

    /// Those that bear the name of a sandbox. Whether they are of this very sandbox is the caller's question.
    #[must_use]
    pub fn named(&self, namespace: &str, sandbox: &ResourceName) -> Vec<Arc<Pod>> {
        let known = self.names.0.read();
        let names = known.names.get(sandbox.as_str()).into_iter().flatten();
        names
            .filter_map(|name| self.store.get(&ObjectRef::new(name).within(namespace)))
            .collect()
    }
}

impl Names {
    /// Takes what the watch tells, once it is in the store.
    pub fn take(&self, event: &Event<Pod>) {
        let mut known = self.0.write();
        match event {
            Event::Init => known.listed.clear(),
            Event::Apply(pod) => add(&mut known.names, pod),
            Event::InitApply(pod) => {
                add(&mut known.names, pod);
                add(&mut known.listed, pod);
            }
            Event::InitDone => known.names = std::mem::take(&mut known.listed),
            Event::Delete(pod) => remove(&mut known.names, pod),
        }
    }
}

fn add(all: &mut BySandbox, pod: &Pod) {
    let Some(sandbox) = of(pod) else { return };
    let name = pod.name_any();
    match all.get_mut(sandbox) {
        Some(names) => _ = names.insert(name),
        None => _ = all.insert(sandbox.to_owned(), BTreeSet::from([name])),
    }
}

fn remove(all: &mut BySandbox, pod: &Pod) {
    let Some(sandbox) = of(pod) else { return };
    if let Some(names) = all.get_mut(sandbox) {
        names.remove(&pod.name_any());
        if names.is_empty() {
            all.remove(sandbox);
        }
    }
}

fn of(pod: &Pod) -> Option<&str> {
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

    fn names(names: &Names, sandbox: &str) -> Vec<String> {
        let known = names.0.read();
        known.names.get(sandbox).into_iter().flatten().cloned().collect()
    }

    #[test]
    fn pods_come_and_go_under_their_sandboxs_name() {
        let all = Names::default();
        for (sandbox, name) in [("a", "a-1"), ("b", "b-1"), ("a", "a-2")] {
            all.take(&Event::Apply(pod(sandbox, name)));
        }
        assert_eq!(names(&all, "a"), ["a-1", "a-2"]);
        all.take(&Event::Delete(pod("a", "a-1")));
        assert_eq!(names(&all, "a"), ["a-2"]);
        all.take(&Event::Delete(pod("a", "a-2")));
        assert!(!all.0.read().names.contains_key("a"));
    }

    #[test]
    fn a_new_list_takes_nothing_away_until_it_is_complete() {
        let all = Names::default();
        all.take(&Event::Apply(pod("a", "old")));
        all.take(&Event::Init);
        all.take(&Event::InitApply(pod("a", "new")));
        assert_eq!(names(&all, "a"), ["new", "old"]);
        all.take(&Event::InitDone);
        assert_eq!(names(&all, "a"), ["new"]);
    }
}
