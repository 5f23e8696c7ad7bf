//! Blocking keyed mutex: one thread at a time per layer.
//!
//! Not [`fsa_driver::keyed_mutex`]: the runner has threads and no asynchronous runtime, and a
//! thread holds this mutex for as long as a layer takes to unpack.

use std::{collections::HashSet, sync::Arc};

use parking_lot::{Condvar, Mutex};

use crate::images::DiffId;

/// One mutex per layer. Clones share it.
#[derive(Clone, Default)]
pub(super) struct KeyedMutex(Arc<(Mutex<HashSet<DiffId>>, Condvar)>);

/// Holds the mutex of one layer until it is dropped.
pub(super) struct KeyedMutexGuard {
    layer_locks: KeyedMutex,
    layer: DiffId,
}

impl KeyedMutex {
    /// Blocks until no other guard of `layer` exists.
    pub fn take(&self, layer: DiffId) -> KeyedMutexGuard {
        let (busy, idle) = &*self.0;
        let mut busy = busy.lock();
        while !busy.insert(layer) {
            idle.wait(&mut busy);
        }
        KeyedMutexGuard {
            layer_locks: self.clone(),
            layer,
        }
    }
}

impl Drop for KeyedMutexGuard {
    fn drop(&mut self) {
        let (busy, idle) = &*self.layer_locks.0;
        busy.lock().remove(&self.layer);
        idle.notify_all();
    }
}
