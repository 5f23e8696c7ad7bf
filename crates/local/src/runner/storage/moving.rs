//! Move of the volumes of a data folder from plain folders into a pool on btrfs, when the pool is opened.
//!
//! One volume after the other: its parts are copied into a new subvolume, compared with their copies and written to the
//! disk; the rename of the subvolume to the volume's name is the moment at which the volume has moved. Its snapshots
//! follow in the same way, and only then are its plain folders deleted. So after an interruption each volume is complete
//! in one of the two places, and the next start goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use fsa_model::{ResourceName, SnapshotId, VolumeId};

use super::{
    btrfs::BtrfsPool, copy::CopyPool, copy_tree::copy_tree, ioctl, make_home, same_tree::check_same,
};
use crate::runner::{
    database, deferred_delete,
    layout::Layout,
    state::{BOOT, Process, State},
};

/// The subvolume that is being filled, in the pool's folder.
const STAGING: &str = "moving";
/// Entries that are counted for the size of a volume: enough for any.
const ENTRIES: u32 = u32::MAX;
/// Bytes that must stay free on the disk of the pool's file, and in the pool.
const MARGIN: u64 = 256 << 20;

/// Volumes in plain folders, with the sandboxes that have changes of the root file system there.
#[derive(Debug, Default)]
pub struct PlainVolumes(BTreeMap<VolumeId, BTreeSet<ResourceName>>);

impl PlainVolumes {
    /// # Errors
    /// The folders cannot be read.
    pub fn find(layout: &Layout) -> io::Result<Self> {
        let mut found = BTreeMap::<_, BTreeSet<_>>::new();
        for folder in [layout.volumes(), layout.databases(), layout.snapshots()] {
            for entry in fs::read_dir(folder)?.flatten() {
                if let Some(volume) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                    found.entry(volume).or_default();
                }
            }
        }
        for state in states(layout) {
            if layout.sandbox(&state.sandbox.resource).join("upper").is_dir() {
                let resources = found.entry(state.sandbox.volume).or_default();
                resources.insert(state.sandbox.resource);
            }
        }
        Ok(Self(found))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes on disk of each volume with its snapshots.
    fn sizes(&self, plain: &CopyPool) -> Vec<u64> {
        let bytes = |path: &Path| deferred_delete::disk_bytes(path, ENTRIES);
        self.0
            .iter()
            .map(|(volume, resources)| {
                parts(plain, *volume, resources)
                    .iter()
                    .map(|part| bytes(&part.from))
                    .sum::<u64>()
                    + bytes(&plain.snapshots_of(*volume))
            })
            .collect()
    }
}

/// Refuses a move while something runs whose files would be left behind.
///
/// # Errors
/// What runs, and what to do.
pub fn check_nothing_runs(layout: &Layout) -> Result<(), String> {
    let runs = |boot: &str, process: Option<Process>| {
        boot == BOOT.as_str() && process.is_none_or(|process| Process::now(process.pid) == Some(process))
    };
    let sandboxes = states(layout)
        .filter(|state| state.run.as_ref().is_some_and(|run| runs(&run.boot, run.process)))
        .count();
    let servers = database::state::running(&layout.servers())
        .filter(|state| runs(&state.boot, state.process))
        .count();
    if sandboxes + servers == 0 {
        return Ok(());
    }
    Err(format!(
        "the projects' files cannot be moved to btrfs while {sandboxes} sandboxes and {servers} databases run: stop \
         them with `fsa halt`, and start the server again"
    ))
}

/// Refuses a move for which there is no room. `pool` and `below` are the free bytes of the pool, and of the disk of its
/// file, which gets the blocks of each volume back when that has moved.
///
/// # Errors
/// The figures, and what to do.
pub fn check_room(
    volumes: &PlainVolumes,
    plain: &CopyPool,
    pool: u64,
    below: Option<u64>,
) -> Result<(), String> {
    room(&volumes.sizes(plain), pool, below)
}

fn room(sizes: &[u64], pool: u64, below: Option<u64>) -> Result<(), String> {
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    let (sum, largest) = (
        sizes.iter().sum::<u64>(),
        sizes.iter().copied().max().unwrap_or(0),
    );
    if sum + MARGIN > pool {
        return Err(format!(
            "the projects' files have {} MB, and the storage pool has {} MB free: give a larger --storage-size-mib",
            megabytes(sum),
            megabytes(pool)
        ));
    }
    match below {
        Some(free) if largest + MARGIN > free => Err(format!(
            "the largest project has {} MB, and {} MB are free on the disk of the pool's file, where both copies of it \
             must fit: free some space there",
            megabytes(largest),
            megabytes(free)
        )),
        _ => Ok(()),
    }
}

/// A folder of a volume, and where it is in the volume's subvolume.
struct Part {
    from: PathBuf,
    to: PathBuf,
}

fn parts(plain: &CopyPool, volume: VolumeId, resources: &BTreeSet<ResourceName>) -> Vec<Part> {
    let mut parts = vec![
        Part {
            from: plain.layout.volume(volume),
            to: "home".into(),
        },
        Part {
            from: plain.database(volume),
            to: "database".into(),
        },
    ];
    parts.extend(resources.iter().map(|resource| Part {
        from: plain.layout.sandbox(resource).join("upper"),
        to: Path::new("root").join(resource.as_str()).join("upper"),
    }));
    parts
}

fn states(layout: &Layout) -> impl Iterator<Item = State> {
    fs::read_dir(layout.sandboxes())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| State::read(&entry.path().join("state.json")))
}

/// Moves all volumes.
///
/// # Errors
/// A copy failed or differs. Nothing is lost; the next attempt goes on.
pub fn move_all(plain: &CopyPool, pool: &BtrfsPool, volumes: &PlainVolumes) -> io::Result<()> {
    let total = volumes.0.len();
    for (number, (volume, resources)) in volumes.0.iter().enumerate() {
        tracing::info!(%volume, number = number + 1, total, "moving a project's files to the storage pool");
        plain.finish_restore(*volume)?;
        move_volume(plain, pool, *volume, resources)
            .map_err(|error| io::Error::new(error.kind(), format!("volume {volume}: {error}")))?;
    }
    // They are made again in the pool.
    plain.remove(&plain.templates())
}

fn move_volume(
    plain: &CopyPool,
    pool: &BtrfsPool,
    volume: VolumeId,
    resources: &BTreeSet<ResourceName>,
) -> io::Result<()> {
    let parts = parts(plain, volume, resources);
    if !pool.volume(volume).exists() {
        let staging = make_staging(pool)?;
        fs::create_dir(staging.join("root"))?;
        fs::create_dir(staging.join("trash"))?;
        for part in &parts {
            copy_part(&part.from, &staging.join(&part.to))?;
        }
        make_home(&staging.join("home"))?;
        rustix::fs::syncfs(File::open(&staging)?)?;
        fs::rename(&staging, pool.volume(volume))?;
        rustix::fs::syncfs(File::open(&pool.folder)?)?;
    }
    for snapshot in snapshots(plain, volume)? {
        move_snapshot(plain, pool, volume, snapshot)?;
    }
    plain.remove(&plain.snapshots_of(volume))?;
    for resource in resources {
        let sandbox = plain.layout.sandbox(resource);
        plain.remove(&sandbox.join("work"))?;
        plain.remove(&sandbox.join("upper"))?;
    }
    plain.remove(&plain.database(volume))?;
    plain.remove(&plain.layout.volume(volume))
}

fn snapshots(plain: &CopyPool, volume: VolumeId) -> io::Result<Vec<SnapshotId>> {
    match fs::read_dir(plain.snapshots_of(volume)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()),
    }
}

fn move_snapshot(
    plain: &CopyPool,
    pool: &BtrfsPool,
    volume: VolumeId,
    snapshot: SnapshotId,
) -> io::Result<()> {
    let folder = pool.snapshots_of(volume);
    let name = snapshot.to_string();
    if folder.join(&name).exists() {
        return Ok(());
    }
    fs::create_dir_all(&folder)?;
    let staging = make_staging(pool)?;
    for part in fs::read_dir(plain.snapshots_of(volume).join(&name))? {
        let part = part?;
        copy_part(&part.path(), &staging.join(part.file_name()))?;
    }
    rustix::fs::syncfs(File::open(&staging)?)?;
    ioctl::snapshot_subvolume(File::open(&staging)?, File::open(&folder)?, &name, true)?;
    ioctl::delete_subvolume(File::open(&pool.folder)?, STAGING)?;
    Ok(rustix::fs::syncfs(File::open(&pool.folder)?)?)
}

/// A new, empty subvolume. What an interrupted move left is deleted.
fn make_staging(pool: &BtrfsPool) -> io::Result<PathBuf> {
    let folder = File::open(&pool.folder)?;
    match ioctl::delete_subvolume(&folder, STAGING) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    ioctl::create_subvolume(&folder, STAGING)?;
    Ok(pool.folder.join(STAGING))
}

/// Copies a folder where there is one, and compares the copy.
fn copy_part(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    copy_tree(from, to)?;
    check_same(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn a_move_needs_room_for_all_in_the_pool_and_for_the_largest_twice_below_it() {
        let sizes = [GB, 3 * GB, 2 * GB];
        assert_eq!(room(&sizes, 7 * GB, Some(4 * GB)), Ok(()));
        assert_eq!(room(&sizes, 7 * GB, None), Ok(()));
        let refused = room(&sizes, 6 * GB, Some(100 * GB)).unwrap_err();
        assert!(
            refused.contains("6000 MB") && refused.contains("--storage-size-mib"),
            "{refused}"
        );
        let refused = room(&sizes, 100 * GB, Some(3 * GB)).unwrap_err();
        assert!(refused.contains("3000 MB"), "{refused}");
        assert_eq!(room(&[], GB, Some(GB)), Ok(()));
    }
}
