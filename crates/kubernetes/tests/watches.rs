//! Backoff of watches when the cluster does not answer.

use std::time::Duration;

use fsa_kubernetes::watch_backoff::{MAX_PAUSE, WatchBackoff};

#[test]
fn a_watch_is_restarted_without_end_and_never_after_a_long_pause() {
    let pauses: Vec<Duration> = WatchBackoff::default().take(50).collect();
    assert_eq!(pauses.len(), 50, "it gives up");
    assert!(pauses.iter().all(|pause| *pause <= MAX_PAUSE), "{pauses:?}");
    assert!(pauses[0] < MAX_PAUSE, "the first pause is as long as the longest");
}
