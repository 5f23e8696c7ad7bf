//! How the watches behave when the cluster does not answer.

use std::time::Duration;

use fsa_kubernetes::watch_backoff::{MAX_PAUSE, WatchBackoff};

#[test]
fn a_watch_is_tried_again_without_end_and_never_after_a_long_pause() {
    let pauses: Vec<Duration> = WatchBackoff::default().take(50).collect();
    assert_eq!(pauses.len(), 50, "it gives up");
    assert!(pauses.iter().all(|pause| *pause <= MAX_PAUSE), "{pauses:?}");
    assert!(
        pauses[0] < MAX_PAUSE,
        "a short outage is waited for as long as a long one"
    );
}
