//! One at a time for each layer.

use std::{collections::HashSet, sync::Arc};

use parking_lot::{Condvar, Mutex};

use crate::images::DiffId;

/// Who works on which layer. A clone shares it.
#[derive(Clone, Default)]
pub(super) struct KeyedMutex(Arc<(Mutex<HashSet<DiffId>>, Condvar)>);

/// The right to work on one layer, until it is dropped.
pub(super) struct KeyedMutexGuard {
    layer_locks: KeyedMutex,
    layer: DiffId,
}

impl KeyedMutex {
    /// Waits until nobody else works on `layer`: as long as unpacking it takes.
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
