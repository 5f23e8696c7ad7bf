//! Check of the storage pool: its backend, size and fill.

use std::{io::ErrorKind, process::Command, process::Stdio};

use fsa_local::{
    protocol::{StorageBackend, StorageStatus},
    runner::{Storage, storage::status},
};
use fsa_model::system::{Check, CheckState};

use crate::config::ServeConfig;

const NAME: &str = "storage";
/// Parts of the pool that are free, below which the check warns or fails: a tenth and a twentieth. Below the last one
/// no sandbox is started.
const FREE_WANTED: u64 = 10;
const FREE_NEEDED: u64 = 20;

/// The pool that the data folder has, or would get. `None` if this user has no permission to read it.
pub fn check_storage(config: &ServeConfig) -> Option<Check> {
    match status::of_folder(&config.data_dir.join("runner")) {
        // A folder without a pool on btrfs gets one at the first start.
        Ok(status) if status.backend == StorageBackend::Btrfs => Some(storage_check(&status)),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        Ok(_) | Err(_) if matches!(config.storage, Some(Storage::Btrfs | Storage::Device(_))) => {
            Some(program())
        }
        Ok(status) => Some(storage_check(&status)),
        Err(error) if error.kind() == ErrorKind::NotFound => Some(Check::good(
            NAME,
            match config.storage {
                Some(Storage::Auto) => {
                    "the first start makes a pool on btrfs if it can, else plain folders (copy)"
                }
                _ => "plain folders (copy), without disk limits",
            },
        )),
        Err(error) => Some(Check::new(
            NAME,
            CheckState::Bad,
            format!("it cannot be inspected: {error}"),
        )),
    }
}

/// What is needed to make a pool on btrfs.
fn program() -> Check {
    let found = Command::new("mkfs.btrfs")
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match found {
        Ok(status) if status.success() => Check::good(NAME, "btrfs: the next start creates the pool"),
        _ => Check::new(
            NAME,
            CheckState::Bad,
            "mkfs.btrfs is missing: install btrfs-progs (Debian: apt-get install btrfs-progs)",
        ),
    }
}

/// Judges the pool in use.
pub fn storage_check(status: &StorageStatus) -> Check {
    let megabytes = |bytes| bytes / 1_000_000;
    let path = status.path.display();
    if status.backend == StorageBackend::Copy {
        // How full it is, the check of the data folder's disk says.
        return Check::good(
            NAME,
            format!("plain folders (copy) in {path}, without disk limits"),
        );
    }
    if !status.mounted {
        return Check::good(NAME, format!("btrfs on {path}, not mounted: no server uses it"));
    }
    let message = format!(
        "btrfs on {path}, disk limits enforced, {} of {} MB free",
        megabytes(status.free_bytes),
        megabytes(status.size_bytes)
    );
    if status.free_bytes < status.size_bytes / FREE_NEEDED {
        return Check::new(
            NAME,
            CheckState::Bad,
            format!("{message}: delete projects or files, or enlarge it (--storage-size-mib)"),
        );
    }
    if status.device_errors > 0 {
        return Check::new(
            NAME,
            CheckState::Warning,
            format!(
                "{message}: btrfs has counted {} errors of its disk: the kernel's log (dmesg) has them; back up the \
                 data folder",
                status.device_errors
            ),
        );
    }
    if status.lacking_bytes > 0 {
        return Check::new(
            NAME,
            CheckState::Warning,
            format!(
                "{message}: its file may grow by {} MB more than its disk has free; free some space there",
                megabytes(status.lacking_bytes)
            ),
        );
    }
    if status.free_bytes < status.size_bytes / FREE_WANTED {
        return Check::new(NAME, CheckState::Warning, format!("{message}: it is almost full"));
    }
    Check::good(NAME, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> StorageStatus {
        StorageStatus {
            backend: StorageBackend::Btrfs,
            path: "/data/runner/pool.btrfs".into(),
            mounted: true,
            size_bytes: 100_000_000_000,
            free_bytes: 50_000_000_000,
            metadata_bytes: 1_000_000_000,
            full: false,
            device_errors: 0,
            lacking_bytes: 0,
        }
    }

    #[test]
    fn a_pool_is_checked_by_its_fill_and_by_the_room_of_its_file() {
        let full = StorageStatus {
            free_bytes: 1_000_000_000,
            ..pool()
        };
        let almost_full = StorageStatus {
            free_bytes: 7_000_000_000,
            ..pool()
        };
        let sparse = StorageStatus {
            lacking_bytes: 3_000_000_000,
            ..pool()
        };
        let faulty = StorageStatus {
            device_errors: 3,
            ..pool()
        };
        let idle = StorageStatus {
            mounted: false,
            size_bytes: 0,
            free_bytes: 0,
            ..pool()
        };
        let folders = StorageStatus {
            backend: StorageBackend::Copy,
            free_bytes: 0,
            ..pool()
        };
        for (status, state, text) in [
            (pool(), CheckState::Good, "50000 of 100000 MB free"),
            (full, CheckState::Bad, "--storage-size-mib"),
            (almost_full, CheckState::Warning, "almost full"),
            (sparse, CheckState::Warning, "3000 MB more"),
            (faulty, CheckState::Warning, "3 errors"),
            (idle, CheckState::Good, "not mounted"),
            (folders, CheckState::Good, "without disk limits"),
        ] {
            let check = storage_check(&status);
            assert_eq!(
                (check.state, check.message.contains(text)),
                (state, true),
                "{}",
                check.message
            );
        }
    }
}
