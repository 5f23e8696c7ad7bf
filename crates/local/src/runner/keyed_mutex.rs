//! Blocking keyed mutex: one thread at a time per key, such as a layer or a volume.
//!
//! Not [`fsa_driver::keyed_mutex`]: the runner has threads and no asynchronous runtime, and a
//! thread holds this mutex for as long as a layer takes to unpack.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use parking_lot::{Condvar, Mutex};

/// One mutex per key. Clones share it.
pub struct KeyedMutex<K>(Arc<(Mutex<HashSet<K>>, Condvar)>);

/// Holds the mutex of one key until it is dropped.
pub struct KeyedMutexGuard<K: Copy + Eq + Hash> {
    locks: KeyedMutex<K>,
    key: K,
}

impl<K> Clone for KeyedMutex<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for KeyedMutex<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Copy + Eq + Hash> KeyedMutex<K> {
    /// Blocks until no other guard of `key` exists.
    #[must_use]
    pub fn take(&self, key: K) -> KeyedMutexGuard<K> {
        let (busy, idle) = &*self.0;
        let mut busy = busy.lock();
        while !busy.insert(key) {
            idle.wait(&mut busy);
        }
        KeyedMutexGuard {
            locks: self.clone(),
            key,
        }
    }
}

impl<K: Copy + Eq + Hash> Drop for KeyedMutexGuard<K> {
    fn drop(&mut self) {
        let (busy, idle) = &*self.locks.0;
        busy.lock().remove(&self.key);
        idle.notify_all();
    }
}
