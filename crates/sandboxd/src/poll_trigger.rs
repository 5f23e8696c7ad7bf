//! Poll trigger: reports activity to the poll scheduler.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Activity that may have opened a port or written a file.
#[derive(Debug, Default)]
pub struct PollTrigger {
    triggered: AtomicBool,
    wake: Notify,
}

impl PollTrigger {
    /// Reports an activity. Costs almost nothing, so it can be called for each piece of a terminal's output.
    pub fn notify(&self) {
        if !self.triggered.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Waits for an activity.
    pub async fn notified(&self) {
        self.wake.notified().await;
    }

    /// Whether there was an activity since the last call.
    pub fn take(&self) -> bool {
        self.triggered.swap(false, Ordering::Relaxed)
    }
}
