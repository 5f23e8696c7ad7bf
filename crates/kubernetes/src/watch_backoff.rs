//! Backoff of watches: the library's exponential backoff with jitter, capped so that a cluster that is back is noticed
//! within seconds.

use std::time::Duration;

use kube::runtime::{utils::Backoff, watcher};

/// The longest pause before a broken watch is restarted; there are eight watches at most.
pub const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The pauses before a broken watch is restarted. The library's own grow to half a minute.
#[derive(Default)]
pub struct WatchBackoff(watcher::DefaultBackoff);

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(MAX_PAUSE))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.0.reset();
    }
}
