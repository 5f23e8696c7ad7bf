//! Watch of the storage pool: measures it periodically, for metrics, and logs when it is almost full and when there is
//! room again.

use std::{sync::Arc, time::Duration};

use fsa_driver::StoragePoolStatus;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::Client;
use crate::protocol::StorageStatus;

/// The kernel has no event for it. A measurement reads a few files of sysfs.
const INTERVAL: Duration = Duration::from_secs(15);
/// From this fill on, in percent, administrators are warned; `fsa doctor` warns then too.
const WARNING_PERCENT: u64 = 90;

/// Measures until it is dropped.
pub(super) async fn run(client: Arc<Client>, latest: Arc<Mutex<Option<StoragePoolStatus>>>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was = Fill::Room;
    loop {
        ticks.tick().await;
        match client.storage().await {
            Ok(status) => {
                let fill = Fill::of(&status);
                if fill != was {
                    report(fill, &status);
                    was = fill;
                }
                *latest.lock() = Some(StoragePoolStatus {
                    size_bytes: status.size_bytes,
                    free_bytes: status.free_bytes,
                    metadata_bytes: status.metadata_bytes,
                    full: status.full,
                    device_errors: status.device_errors,
                });
            }
            Err(error) => tracing::debug!(%error, "the storage pool was not measured"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    Room,
    AlmostFull,
    Full,
}

impl Fill {
    fn of(status: &StorageStatus) -> Self {
        let used = status.size_bytes.saturating_sub(status.free_bytes);
        if status.full {
            Self::Full
        } else if status.size_bytes > 0 && used * 100 >= status.size_bytes * WARNING_PERCENT {
            Self::AlmostFull
        } else {
            Self::Room
        }
    }
}

fn report(fill: Fill, status: &StorageStatus) {
    let (free_mb, size_mb) = (status.free_bytes / 1_000_000, status.size_bytes / 1_000_000);
    match fill {
        Fill::Full => tracing::error!(
            free_mb,
            size_mb,
            "the storage pool is full, so nothing is started: delete projects or files, or enlarge it"
        ),
        Fill::AlmostFull => tracing::warn!(
            free_mb,
            size_mb,
            "the storage pool is almost full: delete projects or files, or enlarge it"
        ),
        Fill::Room => tracing::info!(free_mb, size_mb, "the storage pool has room again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::StorageBackend;

    #[test]
    fn a_pool_is_almost_full_from_nine_tenths_on() {
        let fill = |free_bytes, full| {
            Fill::of(&StorageStatus {
                backend: StorageBackend::Btrfs,
                path: "/data".into(),
                mounted: true,
                size_bytes: 1000,
                free_bytes,
                metadata_bytes: 0,
                full,
                device_errors: 0,
                lacking_bytes: 0,
            })
        };
        assert_eq!(fill(101, false), Fill::Room);
        assert_eq!(fill(100, false), Fill::AlmostFull);
        assert_eq!(fill(10, true), Fill::Full);
    }
}
