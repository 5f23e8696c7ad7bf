//! Who may start, stop or destroy a sandbox right now: one at a time for each, because the control
//! socket that is left must be the one of the start that came through.

use std::{collections::HashMap, sync::Arc};

use fsa_model::ResourceName;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// One turn a sandbox. Those that nobody has or waits for are forgotten.
#[derive(Default)]
pub struct KeyedMutex(Mutex<HashMap<ResourceName, Arc<AsyncMutex<()>>>>);

/// Held for as long as something is done to the sandbox.
pub type Turn = OwnedMutexGuard<()>;

impl KeyedMutex {
    /// Waits until nobody else has the sandbox's turn. Dropped, it is out of the queue.
    pub async fn take(&self, resource: &ResourceName) -> Turn {
        let turn = {
            let mut turns = self.0.lock();
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(resource.clone()).or_default())
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use fsa_model::ProjectName;
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_turn_is_one_sandboxs_and_what_nobody_holds_is_forgotten() {
        let turns = KeyedMutex::default();
        let [one, two] =
            ["one", "two"].map(|name| ResourceName::generate(&ProjectName::parse(name).unwrap()));
        let first = turns.take(&one).await;
        assert!(turns.take(&one).now_or_never().is_none());
        assert!(turns.take(&two).now_or_never().is_some());
        drop(first);
        assert!(turns.take(&one).now_or_never().is_some());
        assert_eq!(turns.0.lock().len(), 1);
    }
}
