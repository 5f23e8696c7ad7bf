//! Keyed mutex: one holder at a time per key, such as one change at a time per sandbox.
//!
//! It serializes work within this process; the lease on a sandbox's row excludes other processes. Waiters get the mutex
//! in order. A waiter that is dropped leaves the queue. Above [`RETAINED_MAX`] keys, the next lock drops the keys
//! without holders and waiters.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Maximum size of the map before a lock scans it for unused keys.
const RETAINED_MAX: usize = 1024;

/// One mutex per key.
#[derive(Debug)]
pub struct KeyedMutex<K>(Mutex<HashMap<K, Weak<AsyncMutex<()>>>>);

/// Holds the mutex of one key until it is dropped.
pub type KeyedMutexGuard = OwnedMutexGuard<()>;

impl<K> Default for KeyedMutex<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> KeyedMutex<K> {
    /// Waits until no other guard of `key` exists.
    pub async fn lock(&self, key: &K) -> KeyedMutexGuard {
        let mutex = {
            let mut mutexes = self.0.lock();
            if mutexes.len() > RETAINED_MAX {
                mutexes.retain(|_, mutex| mutex.strong_count() > 0);
            }
            match mutexes.get(key).and_then(Weak::upgrade) {
                Some(mutex) => mutex,
                None => {
                    let mutex = Arc::new(AsyncMutex::new(()));
                    mutexes.insert(key.clone(), Arc::downgrade(&mutex));
                    mutex
                }
            }
        };
        mutex.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_key_has_one_holder_at_a_time_and_does_not_block_other_keys() {
        let mutex = KeyedMutex::default();
        let first = mutex.lock(&"one").await;
        assert!(mutex.lock(&"one").now_or_never().is_none());
        assert!(mutex.lock(&"two").now_or_never().is_some());
        drop(first);
        assert!(mutex.lock(&"one").now_or_never().is_some());
    }

    #[tokio::test]
    async fn keys_without_a_holder_are_dropped() {
        let mutex = KeyedMutex::default();
        let held = mutex.lock(&0).await;
        for key in 1..3 * RETAINED_MAX {
            drop(mutex.lock(&key).await);
        }
        assert!(mutex.0.lock().len() <= RETAINED_MAX + 1);
        assert!(mutex.lock(&0).now_or_never().is_none());
        drop(held);
    }
}
