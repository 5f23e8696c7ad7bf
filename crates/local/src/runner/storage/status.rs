//! Size and fill of the storage pool, as the kernel counts them (`/sys/fs/btrfs`). Readable by any
//! process, whether the pool is mounted in its namespace or not.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{
    FREE_MIN, FREE_MIN_PART, POOL_FILE,
    record::{Record, Source},
};
use crate::protocol::{StorageBackend, StorageStatus};

/// Unit of the size of a block device (kernel documentation, "stat").
const SECTOR: u64 = 512;

/// The status of the pool of a runner's folder.
///
/// # Errors
/// The folder or its file system cannot be read.
pub fn of_folder(runner: &Path) -> io::Result<StorageStatus> {
    let (size_bytes, free_bytes) = of_file_system(runner)?;
    let Some(Record::Btrfs { source, fsid }) = Record::read(runner)? else {
        return Ok(StorageStatus {
            backend: StorageBackend::Copy,
            path: runner.join("volumes"),
            mounted: true,
            size_bytes,
            free_bytes,
            metadata_bytes: 0,
            // Its disk is not the pool's alone, and nothing is reserved on it.
            full: false,
            device_errors: 0,
            lacking_bytes: 0,
        });
    };
    let space = space(fsid);
    let path = match &source {
        Source::Folder => runner.to_owned(),
        Source::File => runner.join(POOL_FILE),
        Source::Device(device) => device.clone(),
    };
    let lacking_bytes = match source {
        Source::File => {
            let file = fs::metadata(&path)?;
            file.len()
                .saturating_sub(file.blocks() * SECTOR)
                .saturating_sub(free_bytes)
        }
        Source::Folder | Source::Device(_) => 0,
    };
    let mounted = space.is_some();
    let space = space.unwrap_or_default();
    Ok(StorageStatus {
        backend: StorageBackend::Btrfs,
        path,
        mounted,
        size_bytes: space.size,
        free_bytes: space.free(),
        metadata_bytes: space.metadata_used,
        full: mounted && space.free() < required(space.size),
        device_errors: space.device_errors,
        lacking_bytes,
    })
}

/// Bytes that are kept free in a pool of this size.
#[must_use]
pub fn required(size: u64) -> u64 {
    FREE_MIN.min(size / FREE_MIN_PART)
}

/// Size and free bytes of the file system that holds a folder.
pub fn of_file_system(folder: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

/// Bytes used and limit of a quota group, by its number: the level in the highest 16 bits. `None` where
/// there is none.
#[must_use]
pub fn quota(fsid: Uuid, group: u64) -> Option<(u64, Option<u64>)> {
    let (level, id) = (group >> 48, group & 0xffff_ffff_ffff);
    let group = sysfs(fsid).join(format!("qgroups/{level}_{id}"));
    let limit = number(&group.join("max_referenced"))?;
    // What is written and has no blocks on the disk yet.
    let reserved = number(&group.join("rsv_data")).unwrap_or(0);
    let used = number(&group.join("referenced"))? + reserved;
    Some((used, (limit > 0).then_some(limit)))
}

/// Whether bytes are charged to the subvolume that wrote them.
#[must_use]
pub fn has_simple_quotas(fsid: Uuid) -> bool {
    fs::read_to_string(sysfs(fsid).join("qgroups/mode")).is_ok_and(|mode| mode.trim() == "squota")
}

fn sysfs(fsid: Uuid) -> PathBuf {
    Path::new("/sys/fs/btrfs").join(fsid.to_string())
}

/// Space of a mounted btrfs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Space {
    size: u64,
    /// On devices, for data and metadata with their copies.
    allocated: u64,
    data: u64,
    data_used: u64,
    metadata_used: u64,
    device_errors: u64,
}

impl Space {
    /// What data may still fill: the rest of its allocation, and what is allocated for nothing.
    fn free(&self) -> u64 {
        self.size.saturating_sub(self.allocated) + self.data.saturating_sub(self.data_used)
    }
}

/// `None` where the file system is not mounted.
fn space(fsid: Uuid) -> Option<Space> {
    let folder = sysfs(fsid);
    let mut space = Space::default();
    for device in fs::read_dir(folder.join("devices")).ok()?.flatten() {
        space.size += number(&device.path().join("size"))? * SECTOR;
    }
    for kind in ["data", "metadata", "system", "mixed"] {
        // A file system has data and metadata, or both mixed.
        let bytes = |name| number(&folder.join("allocation").join(kind).join(name)).unwrap_or(0);
        space.allocated += bytes("disk_total");
        match kind {
            "data" | "mixed" => {
                space.data += bytes("total_bytes");
                space.data_used += bytes("bytes_used");
            }
            "metadata" => space.metadata_used += bytes("bytes_used"),
            _ => {}
        }
    }
    // Linux 5.14.
    for device in fs::read_dir(folder.join("devinfo"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let counts = fs::read_to_string(device.path().join("error_stats")).unwrap_or_default();
        space.device_errors += errors(&counts);
    }
    Some(space)
}

/// The sum of a device's counters, each on a line after its name (`write_errs 0`).
fn errors(counts: &str) -> u64 {
    counts
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allocated_is_free_and_so_is_the_rest_of_the_data() {
        let space = Space {
            size: 1000,
            allocated: 400,
            data: 200,
            data_used: 150,
            ..Space::default()
        };
        assert_eq!(space.free(), 650);
    }

    #[test]
    fn the_errors_of_a_device_are_summed() {
        let counts = "write_errs 1\nread_errs 20\nflush_errs 0\ncorruption_errs 300\ngeneration_errs 0\n";
        assert_eq!(errors(counts), 321);
        assert_eq!(errors(""), 0);
    }

    #[test]
    fn a_folder_without_a_record_has_the_space_of_its_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let status = of_folder(folder.path()).unwrap();
        assert_eq!(status.backend, StorageBackend::Copy);
        assert!(status.mounted && status.size_bytes > 0, "{status:?}");
    }

    #[test]
    fn a_pool_that_is_not_mounted_is_reported_as_such() {
        let folder = tempfile::tempdir().unwrap();
        Record::Btrfs {
            source: Source::Device("/dev/vdb".into()),
            fsid: Uuid::nil(),
        }
        .write(folder.path())
        .unwrap();
        let status = of_folder(folder.path()).unwrap();
        assert!(!status.mounted, "{status:?}");
        assert_eq!(status.path, Path::new("/dev/vdb"));
    }
}
