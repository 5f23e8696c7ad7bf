//! Snapshots of the storage pool, for both backends: plain folders, and btrfs on a real loop device.
//!
//! It needs root. Each test runs in its own mount namespace, so its mounts and loop devices end with it, however it
//! ends.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use fsa_local::runner::{
    RunnerConfig, Storage, layout::Layout, mounts, privilege_mode::PrivilegeMode, storage::StoragePool,
};
use fsa_model::{ProjectId, ProjectName, ResourceName, SandboxId, SandboxRef, SnapshotId, VolumeId};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const BACKENDS: [Option<Storage>; 2] = [None, Some(Storage::Btrfs)];

struct Data {
    folder: TempDir,
    config: RunnerConfig,
}

impl Data {
    fn new(storage: Option<Storage>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("fsa-snapshots-")
            .tempdir_in("/tmp")
            .unwrap();
        let config = RunnerConfig {
            storage,
            storage_size_mib: Some(512),
            ..RunnerConfig::new(folder.path(), "/nowhere")
        };
        Self { folder, config }
    }

    fn layout(&self) -> Layout {
        Layout::open(self.folder.path(), &[]).unwrap()
    }

    fn open(&self) -> StoragePool {
        StoragePool::open(&self.config, &self.layout(), PrivilegeMode::Root).unwrap()
    }

    fn is_btrfs(&self) -> bool {
        self.config.storage.is_some()
    }
}

/// Runs a test once for each backend, in a mount namespace that ends with it.
fn on_both(work: impl Fn(&Data, &StoragePool) + Sync) {
    for storage in BACKENDS {
        let data = Data::new(storage);
        let inside = || {
            mounts::private_namespace().expect("root");
            let pool = data.open();
            work(&data, &pool);
            pool.close();
        };
        thread::scope(|scope| {
            scope
                .spawn(inside)
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
    }
}

/// A volume with a sandbox: its parts as the runner sees them.
struct Volume {
    sandbox: SandboxRef,
    home: PathBuf,
    upper: PathBuf,
    database: PathBuf,
}

fn volume(data: &Data, pool: &StoragePool) -> Volume {
    let project = ProjectId::generate();
    let sandbox = SandboxRef {
        id: SandboxId::generate(),
        project,
        volume: VolumeId::of_main(project),
        resource: ResourceName::generate(&ProjectName::parse("snapped").unwrap()),
    };
    pool.create(sandbox.volume).unwrap();
    let id = sandbox.volume.to_string();
    let volume = Volume {
        home: if data.is_btrfs() {
            data.layout().pool().join(id).join("home")
        } else {
            data.layout().volumes().join(id)
        },
        upper: pool.files(&sandbox).root.join("upper"),
        database: pool.database(sandbox.volume),
        sandbox,
    };
    for folder in [&volume.upper, &volume.database] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(volume.database.join("PG_VERSION"), "17\n").unwrap();
    volume
}

impl Volume {
    fn write(&self, text: &str) {
        for folder in [&self.home, &self.upper, &self.database] {
            fs::write(folder.join("file"), text).unwrap();
        }
    }

    /// The text in all three parts, which must agree.
    fn text(&self) -> String {
        let texts = [&self.home, &self.upper, &self.database]
            .map(|folder| fs::read_to_string(folder.join("file")).unwrap());
        assert!(texts.iter().all(|text| *text == texts[0]), "a mixture: {texts:?}");
        texts[0].clone()
    }

    fn snapshot(&self, pool: &StoragePool) -> SnapshotId {
        let snapshot = SnapshotId::generate();
        pool.sync(self.sandbox.volume).unwrap();
        pool.create_snapshot(&self.sandbox, snapshot).unwrap();
        snapshot
    }
}

fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    for number in 0..bytes / 65_536 {
        file.write_all(&[u8::try_from(number % 251).unwrap(); 65_536])?;
    }
    file.sync_all()
}

#[test]
fn a_restored_volume_has_every_part_of_the_snapshot_and_its_limit() {
    on_both(|data, pool| {
        let volume = volume(data, pool);
        pool.set_limit(volume.sandbox.volume, 100 * MIB, false).unwrap();
        volume.write("old");
        let snapshot = volume.snapshot(pool);
        assert_eq!(
            pool.snapshot_content(volume.sandbox.volume, snapshot)
                .database
                .unwrap()
                .version,
            "17"
        );
        volume.write("new");
        fs::write(volume.home.join("added"), "new").unwrap();
        let present = volume.snapshot(pool);

        pool.restore_snapshot(&volume.sandbox, volume.sandbox.volume, snapshot)
            .unwrap();

        assert_eq!(volume.text(), "old");
        assert!(!volume.home.join("added").exists());
        if data.is_btrfs() {
            assert_eq!(pool.usage(&volume.sandbox).limit_bytes, Some(100 * MIB));
        }
        // The volume can be written to, and both snapshots are what they were.
        volume.write("newer");
        pool.restore_snapshot(&volume.sandbox, volume.sandbox.volume, present)
            .unwrap();
        assert_eq!(volume.text(), "new");
        pool.restore_snapshot(&volume.sandbox, volume.sandbox.volume, snapshot)
            .unwrap();
        assert_eq!(volume.text(), "old");
        assert_eq!(
            pool.snapshots(volume.sandbox.volume).unwrap(),
            [snapshot, present]
        );
    });
}

#[test]
fn files_of_every_kind_come_back_as_they_were() {
    on_both(|data, pool| {
        let volume = volume(data, pool);
        let (home, upper) = (&volume.home, &volume.upper);
        fs::write(home.join("mine"), "x").unwrap();
        chown(home.join("mine"), Some(1000), Some(1001)).unwrap();
        fs::set_permissions(home.join("mine"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(home.join("mine"), home.join("linked")).unwrap();
        symlink("/etc/shadow", home.join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            upper.join("deleted"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        )
        .unwrap();
        rustix::fs::setxattr(
            upper,
            "trusted.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        File::create(home.join("hole"))
            .unwrap()
            .set_len(64 * MIB)
            .unwrap();
        volume.write("old");
        let snapshot = volume.snapshot(pool);
        for name in ["mine", "linked", "link", "hole"] {
            fs::remove_file(home.join(name)).unwrap();
        }
        fs::remove_file(upper.join("deleted")).unwrap();

        pool.restore_snapshot(&volume.sandbox, volume.sandbox.volume, snapshot)
            .unwrap();

        let mine = fs::metadata(home.join("mine")).unwrap();
        assert_eq!(
            (mine.uid(), mine.gid(), mine.mode() & 0o7777, mine.nlink()),
            (1000, 1001, 0o4751, 2)
        );
        assert_eq!(
            fs::read_link(home.join("link")).unwrap(),
            Path::new("/etc/shadow")
        );
        let deleted = fs::symlink_metadata(upper.join("deleted")).unwrap();
        assert_eq!((deleted.rdev(), deleted.mode() & 0o170_000), (0, 0o020_000));
        let mut opaque = [0; 8];
        let length = rustix::fs::getxattr(upper, "trusted.overlay.opaque", &mut opaque).unwrap();
        assert_eq!(&opaque[..length], b"y");
        assert!(
            fs::metadata(home.join("hole")).unwrap().blocks() < 2048,
            "the hole was filled"
        );
    });
}

#[test]
fn a_snapshot_of_an_earlier_sandbox_is_restored_for_the_present_one() {
    on_both(|data, pool| {
        let mut volume = volume(data, pool);
        volume.write("old");
        let snapshot = volume.snapshot(pool);
        if let Some(discarded) = pool.discard_root(&volume.sandbox).unwrap() {
            fsa_local::runner::deferred_delete::delete(&discarded).unwrap();
        }
        volume.sandbox.resource = ResourceName::generate(&ProjectName::parse("snapped").unwrap());
        volume.upper = pool.files(&volume.sandbox).root.join("upper");
        fs::create_dir_all(&volume.upper).unwrap();
        volume.write("new");

        pool.restore_snapshot(&volume.sandbox, volume.sandbox.volume, snapshot)
            .unwrap();

        assert_eq!(volume.text(), "old");
    });
}

#[test]
fn a_deleted_snapshot_gives_its_space_back_and_cannot_be_restored() {
    on_both(|data, pool| {
        let volume = volume(data, pool);
        volume.write("old");
        fill(&volume.home.join("large"), 64 * MIB).unwrap();
        let before = pool.usage(&volume.sandbox).bytes;
        let snapshot = volume.snapshot(pool);
        fs::remove_file(volume.home.join("large")).unwrap();
        assert!(
            pool.usage(&volume.sandbox).bytes + MIB > before,
            "the snapshot holds the file"
        );

        for _ in 0..2 {
            pool.delete_snapshot(volume.sandbox.volume, snapshot).unwrap();
        }

        until("the space of the snapshot is still in use", || {
            pool.usage(&volume.sandbox).bytes + 60 * MIB < before
        });
        assert_eq!(pool.snapshots(volume.sandbox.volume).unwrap(), []);
        let refused = pool
            .restore_snapshot(&volume.sandbox, volume.sandbox.volume, snapshot)
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        assert_eq!(volume.text(), "old");
    });
}

#[test]
fn snapshots_go_with_their_volume_and_others_stay() {
    on_both(|data, pool| {
        let (one, other) = (volume(data, pool), volume(data, pool));
        for volume in [&one, &other] {
            volume.write("old");
            volume.snapshot(pool);
        }

        pool.delete(one.sandbox.volume).unwrap();

        assert_eq!(pool.snapshots(one.sandbox.volume).unwrap(), []);
        assert_eq!(pool.snapshots(other.sandbox.volume).unwrap().len(), 1);
        assert!(!one.database.exists() && other.database.exists());
        let refused = pool
            .create_snapshot(&one.sandbox, SnapshotId::generate())
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn what_an_interrupted_restore_left_is_removed() {
    on_both(|data, pool| {
        let volume = volume(data, pool);
        volume.write("old");
        let snapshot = volume.snapshot(pool);
        volume.write("new");
        let taken = pool.snapshot_folder(volume.sandbox.volume, snapshot);
        let beside = taken.parent().unwrap();
        // What a subvolume or a copy that was being made looks like.
        if data.is_btrfs() {
            let made = std::process::Command::new("btrfs")
                .args(["subvolume", "snapshot"])
                .args([&taken, &beside.join("restore.new")])
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
        } else {
            for name in ["restore.new", "0190d0c0-0000-7000-8000-000000000000.new"] {
                fs::create_dir_all(beside.join(name).join("home")).unwrap();
            }
        }
        pool.close();

        let next = data.open();

        assert_eq!(volume.text(), "new");
        assert_eq!(fs::read_dir(beside).unwrap().count(), 1);
        next.close();
    });
}

#[test]
fn a_restore_in_plain_folders_that_has_begun_is_completed() {
    on_both(|data, pool| {
        if data.is_btrfs() {
            return;
        }
        let volume = volume(data, pool);
        volume.write("new");
        let snapshot = volume.snapshot(pool);
        let taken = pool.snapshot_folder(volume.sandbox.volume, snapshot);
        let beside = taken.parent().unwrap();
        // Killed after the first part was moved.
        let ready = beside.join("restore.ready");
        let root = ready
            .join("root")
            .join(volume.sandbox.resource.as_str())
            .join("upper");
        for part in [ready.join("database"), root] {
            fs::create_dir_all(&part).unwrap();
            fs::write(part.join("file"), "old").unwrap();
        }
        fs::write(volume.home.join("file"), "old").unwrap();

        data.open().close();

        assert_eq!(volume.text(), "old");
        assert_eq!(fs::read_dir(beside).unwrap().count(), 1);
    });
}

#[test]
fn snapshots_and_restores_do_not_lift_the_limit_of_a_volume() {
    on_both(|data, pool| {
        if !data.is_btrfs() {
            return;
        }
        let volume = volume(data, pool);
        pool.set_limit(volume.sandbox.volume, 64 * MIB, false).unwrap();
        volume.write("old");
        let empty = volume.snapshot(pool);
        fill(&volume.home.join("large"), 40 * MIB).unwrap();
        let full = volume.snapshot(pool);

        pool.restore_snapshot(&volume.sandbox, volume.sandbox.volume, empty)
            .unwrap();

        // The snapshot still holds 40 MiB.
        let used = pool.usage(&volume.sandbox).bytes;
        assert!(used > 40 * MIB, "{used}");
        let refused = fill(&volume.home.join("more"), 40 * MIB).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
        fs::remove_file(volume.home.join("more")).unwrap();
        pool.delete_snapshot(volume.sandbox.volume, full).unwrap();
        until("the space of the snapshot is still in use", || {
            let written = fill(&volume.home.join("more"), 40 * MIB);
            let _ = fs::remove_file(volume.home.join("more"));
            written.is_ok()
        });
        let limit = pool.usage(&volume.sandbox).limit_bytes;
        assert_eq!(limit, Some(64 * MIB));
    });
}

#[test]
fn a_volume_that_changed_since_a_snapshot_is_known() {
    on_both(|data, pool| {
        let volume = volume(data, pool);
        volume.write("old");
        let snapshot = volume.snapshot(pool);
        let changed = |since| pool.changed_since(&volume.sandbox, since).unwrap();
        assert!(!changed(snapshot));

        volume.write("newer");
        assert!(changed(snapshot));
        let later = volume.snapshot(pool);
        assert!(!changed(later) && changed(snapshot));

        // Also where only the database has changed.
        let database = pool.database(volume.sandbox.volume);
        fs::create_dir_all(&database).unwrap();
        fs::write(database.join("file"), "rows").unwrap();
        assert!(changed(later));
        let absent = pool.changed_since(&volume.sandbox, SnapshotId::generate());
        assert_eq!(absent.unwrap_err().kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn a_copy_of_a_volume_has_a_separate_limit() {
    on_both(|data, pool| {
        if !data.is_btrfs() {
            return;
        }
        let volume = volume(data, pool);
        pool.set_limit(volume.sandbox.volume, 64 * MIB, false).unwrap();
        fill(&volume.home.join("large"), 40 * MIB).unwrap();
        let snapshot = volume.snapshot(pool);
        let copy = SandboxRef {
            id: SandboxId::generate(),
            volume: VolumeId::generate(),
            ..volume.sandbox.clone()
        };

        pool.clone_snapshot(volume.sandbox.volume, snapshot, &copy)
            .unwrap();
        pool.set_limit(copy.volume, 128 * MIB, false).unwrap();

        let (of_volume, of_copy) = (pool.usage(&volume.sandbox), pool.usage(&copy));
        assert_eq!(of_volume.limit_bytes, Some(64 * MIB));
        assert_eq!(of_copy.limit_bytes, Some(128 * MIB));
        // What is shared is charged to the volume that wrote it.
        assert!(
            of_volume.bytes > 40 * MIB && of_copy.bytes < MIB,
            "{of_volume:?} {of_copy:?}"
        );
        // The same when the copy has snapshots.
        let of_the_copy = SnapshotId::generate();
        pool.create_snapshot(&copy, of_the_copy).unwrap();
        pool.restore_snapshot(&copy, copy.volume, of_the_copy).unwrap();
        assert_eq!(pool.usage(&copy).limit_bytes, Some(128 * MIB));
        assert_eq!(pool.usage(&volume.sandbox).limit_bytes, Some(64 * MIB));
        // And when it gets the content of the other volume.
        pool.restore_snapshot(&copy, volume.sandbox.volume, snapshot)
            .unwrap();
        assert_eq!(pool.usage(&copy).limit_bytes, Some(128 * MIB));
        assert_eq!(pool.usage(&volume.sandbox).limit_bytes, Some(64 * MIB));
    });
}

#[test]
fn the_bytes_of_a_snapshot_are_those_that_nothing_else_has() {
    on_both(|data, pool| {
        let volume = volume(data, pool);
        fill(&volume.home.join("large"), 16 * MIB).unwrap();
        let snapshot = volume.snapshot(pool);
        let bytes = || pool.snapshot_bytes(volume.sandbox.volume, snapshot).unwrap();
        if data.is_btrfs() {
            assert!(bytes() < MIB, "{}", bytes());
        }
        fs::remove_file(volume.home.join("large")).unwrap();
        rustix::fs::syncfs(File::open(&volume.home).unwrap()).unwrap();
        assert!((16 * MIB..17 * MIB).contains(&bytes()), "{}", bytes());
        assert_eq!(
            pool.snapshot_bytes(volume.sandbox.volume, SnapshotId::generate()),
            None
        );
    });
}

/// The kernel frees space in the background.
#[allow(clippy::disallowed_methods, reason = "the kernel has no event for it")]
fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}
