//! One change of a sandbox at a time in this process. Other processes are kept away by their
//! lease of its row; this keeps apart a step that nobody waits for any more and the next one.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use fsa_model::ResourceName;
use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Above so many, those that nobody holds are forgotten.
const KEPT: usize = 1024;

#[derive(Default)]
pub struct KeyedMutex(Mutex<HashMap<ResourceName, Weak<Turn<()>>>>);

impl KeyedMutex {
    /// Waits for its turn, which ends when what is returned is dropped.
    pub async fn take(&self, resource: &ResourceName) -> OwnedMutexGuard<()> {
        let turn = {
            let mut all = self.0.lock();
            if all.len() > KEPT {
                all.retain(|_, turn| turn.strong_count() > 0);
            }
            match all.get(resource).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(Turn::new(()));
                    all.insert(resource.clone(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }
}
