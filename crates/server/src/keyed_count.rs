//! Keyed count: how many of something each key has at the same time, up to a maximum.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;

/// Counts per key. A key without any takes no memory. Cheap to clone.
pub(crate) struct KeyedCount<K>(Arc<Mutex<HashMap<K, usize>>>);

/// Counts as one of its key until it is dropped.
pub(crate) struct Permit<K: Hash + Eq> {
    key: K,
    counts: KeyedCount<K>,
}

impl<K> Clone for KeyedCount<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for KeyedCount<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Hash + Eq + Clone> KeyedCount<K> {
    /// A permit for one more of `key`; `None` if it has `max` already.
    pub(crate) fn acquire(&self, key: K, max: usize) -> Option<Permit<K>> {
        let mut counts = self.0.lock();
        let count = counts.get(&key).copied().unwrap_or_default();
        if count >= max {
            return None;
        }
        counts.insert(key.clone(), count + 1);
        Some(Permit {
            key,
            counts: self.clone(),
        })
    }
}

impl<K: Hash + Eq> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_a_maximum_and_unused_keys_take_no_memory() {
        let counts = KeyedCount::default();
        let first = counts.acquire("here", 2).unwrap();
        let second = counts.acquire("here", 2).unwrap();
        assert!(counts.acquire("here", 2).is_none());
        assert!(counts.acquire("there", 2).is_some());
        drop(first);
        assert!(counts.acquire("here", 2).is_some());
        drop(second);
        assert!(counts.0.lock().is_empty());
        assert!(counts.acquire("never", 0).is_none());
        assert!(counts.0.lock().is_empty());
    }
}
