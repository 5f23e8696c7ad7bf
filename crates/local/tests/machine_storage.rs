//! Conformance suite of the storage pool, for both backends: plain folders, and btrfs on a real loop device.
//!
//! It needs root. Each test runs in its own mount namespace, so its mounts and loop devices end with it, however it
//! ends.

mod storage_pool;

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc::sync_channel,
    thread,
};

use fsa_local::{
    protocol::StorageBackend,
    runner::{Storage, deferred_delete, storage::check_room},
};
use fsa_model::{SandboxRef, sandboxd::USER_ID};
use storage_pool::{Data, MIB, SMALL_MIB, home, in_namespace, sandbox, until, write};

/// What both backends do.
fn conformance(data: &Data) {
    let pool = data.open().unwrap();
    let (one, other) = (sandbox(), sandbox());
    assert!(!pool.exists(one.volume));
    assert_eq!(pool.usage(&one).bytes, 0);

    for sandbox in [&one, &other] {
        pool.create(sandbox.volume).unwrap();
        // Again, as by every start.
        pool.create(sandbox.volume).unwrap();
        assert!(pool.exists(sandbox.volume));
        let metadata = fs::metadata(home(data, sandbox)).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (USER_ID, 0o755));
        fs::create_dir_all(pool.files(sandbox).root.join("upper")).unwrap();
    }
    let before = pool.usage(&one).bytes;
    write(&home(data, &one).join("file"), 8 * MIB).unwrap();
    write(&pool.files(&one).root.join("upper/file"), 4 * MIB).unwrap();
    let grown = pool.usage(&one).bytes - before;
    assert!((12 * MIB..13 * MIB).contains(&grown), "{grown}");
    assert!(pool.usage(&other).bytes < MIB);

    // The sandbox is destroyed, its project's files stay.
    if let Some(discarded) = pool.discard_root(&one).unwrap() {
        deferred_delete::delete(&discarded).unwrap();
        assert!(!pool.files(&one).root.exists());
    }
    assert!(home(data, &one).join("file").exists());

    // A runner that is restarted finds everything.
    pool.close();
    let pool = data.open().unwrap();
    assert!(pool.exists(one.volume) && pool.exists(other.volume));
    assert!(home(data, &one).join("file").exists());

    pool.delete(one.volume).unwrap();
    pool.delete(one.volume).unwrap();
    assert!(!pool.exists(one.volume) && pool.exists(other.volume));
    let never_started = SandboxRef {
        volume: one.volume,
        ..sandbox()
    };
    assert_eq!(pool.usage(&never_started).bytes, 0);
    pool.delete(other.volume).unwrap();
    pool.close();
}

#[test]
fn plain_folders_pass_the_suite() {
    in_namespace(|| {
        let data = Data::new(None);
        conformance(&data);
        assert_eq!(data.status().backend, StorageBackend::Copy);
        assert!(!data.pool_file().exists());
    });
}

#[test]
fn btrfs_passes_the_suite_and_its_file_is_detached() {
    let data = Data::new(Some(Storage::Btrfs));
    in_namespace(|| conformance(&data));
    assert_eq!(data.status().backend, StorageBackend::Btrfs);
    until("the file is still attached", || data.loop_devices() == 0);
    assert!(!data.status().mounted);
}

#[test]
fn a_volume_at_its_limit_takes_no_more_can_be_started_and_cleaned_up_and_disturbs_no_other() {
    in_namespace(|| {
        let data = Data::new(Some(Storage::Btrfs));
        let pool = data.open().unwrap();
        let (greedy, other) = (sandbox(), sandbox());
        for sandbox in [&greedy, &other] {
            pool.create(sandbox.volume).unwrap();
            pool.set_limit(sandbox.volume, 32 * MIB, false).unwrap();
        }
        assert_eq!(pool.usage(&greedy).limit_bytes, Some(32 * MIB));

        let refused = write(&home(&data, &greedy).join("large"), 64 * MIB).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
        let used = pool.usage(&greedy).bytes;
        assert!((30 * MIB..=32 * MIB).contains(&used), "{used}");
        // Empty files and folders are data too.
        let refused = (0..100_000)
            .map(|number| fs::create_dir(home(&data, &greedy).join(number.to_string())))
            .find_map(Result::err)
            .unwrap();
        assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
        write(&home(&data, &other).join("file"), 16 * MIB).unwrap();

        pool.set_limit(greedy.volume, 32 * MIB, true).unwrap();
        fs::create_dir_all(pool.files(&greedy).root.join("work")).unwrap();
        pool.set_limit(greedy.volume, 32 * MIB, false).unwrap();
        fs::remove_file(home(&data, &greedy).join("large")).unwrap();
        until("deleted files still count", || {
            write(&home(&data, &greedy).join("small"), 8 * MIB).is_ok()
        });

        pool.set_limit(greedy.volume, 128 * MIB, false).unwrap();
        write(&home(&data, &greedy).join("large"), 64 * MIB).unwrap();
        pool.close();
    });
}

#[test]
fn the_limit_of_bytes_bounds_the_number_of_empty_files() {
    in_namespace(|| {
        let data = Data::new(Some(Storage::Btrfs));
        let pool = data.open().unwrap();
        let sandbox = sandbox();
        pool.create(sandbox.volume).unwrap();
        pool.set_limit(sandbox.volume, 32 * MIB, false).unwrap();
        let folder = home(&data, &sandbox);
        let fit = (0..1_000_000)
            .take_while(|number| File::create(folder.join(format!("{number:07}"))).is_ok())
            .count();
        // Names and inodes are metadata, of which an empty file has about 400 bytes: 80,000 files here, and five
        // million in the two GiB of the smallest size.
        assert!((20_000..200_000).contains(&fit), "{fit}");
        pool.close();
    });
}

#[test]
fn a_full_pool_refuses_new_work_with_the_figures_until_projects_are_deleted() {
    in_namespace(|| {
        let data = Data::new(Some(Storage::Btrfs));
        let pool = data.open().unwrap();
        check_room(&data.layout()).unwrap();
        let sandbox = sandbox();
        pool.create(sandbox.volume).unwrap();

        let refused = write(&home(&data, &sandbox).join("all"), 1024 * MIB).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        let refused = check_room(&data.layout()).unwrap_err().message;
        assert!(
            refused.contains("full") && refused.contains("--storage-size-mib"),
            "{refused}"
        );

        pool.delete(sandbox.volume).unwrap();
        until("deleted projects still count", || {
            check_room(&data.layout()).is_ok()
        });
        pool.close();
    });
}

#[test]
fn two_runners_on_one_data_folder_share_the_loop_device() {
    let data = &Data::new(Some(Storage::Btrfs));
    let sandbox = &sandbox();
    let (opened, first_opened) = sync_channel(1);
    let (written, second_wrote) = sync_channel(1);
    let first = move || {
        data.open().unwrap().create(sandbox.volume).unwrap();
        opened.send(()).unwrap();
        second_wrote.recv().unwrap();
        let text = fs::read_to_string(home(data, sandbox).join("file")).unwrap();
        assert_eq!(text, "second");
        // A runner that is killed leaves its mount to its namespace.
    };
    let second = move || {
        first_opened.recv().unwrap();
        let pool = data.open().unwrap();
        assert_eq!(data.loop_devices(), 1);
        fs::write(home(data, sandbox).join("file"), "second").unwrap();
        pool.close();
        written.send(()).unwrap();
    };
    thread::scope(|scope| {
        scope.spawn(|| in_namespace(first));
        in_namespace(second);
    });
    until("the file is still attached", || data.loop_devices() == 0);
}

#[test]
fn a_pool_that_was_not_unmounted_has_everything_that_was_synced() {
    let crashed = Data::new(Some(Storage::Btrfs));
    let restored = Data::new(None);
    let sandbox = sandbox();
    in_namespace(|| {
        let pool = crashed.open().unwrap();
        pool.create(sandbox.volume).unwrap();
        rustix::fs::syncfs(File::open(home(&crashed, &sandbox)).unwrap()).unwrap();
        write(&home(&crashed, &sandbox).join("synced"), MIB).unwrap();
        // What is on the disk at a power cut.
        restored.layout();
        fs::copy(crashed.pool_file(), restored.pool_file()).unwrap();
        let record = "runner/storage.json";
        fs::copy(
            crashed.folder.path().join(record),
            restored.folder.path().join(record),
        )
        .unwrap();
        pool.close();
    });
    until("the file is still attached", || crashed.loop_devices() == 0);
    in_namespace(|| {
        let pool = restored.open().unwrap();
        let length = fs::metadata(home(&restored, &sandbox).join("synced"))
            .unwrap()
            .len();
        assert_eq!(length, MIB);
        pool.close();
    });
}

#[test]
fn a_pool_grows_with_its_setting_and_keeps_its_size_without() {
    in_namespace(|| {
        let mut data = Data::new(Some(Storage::Btrfs));
        data.open().unwrap().close();
        data.config.storage_size_mib = Some(2 * SMALL_MIB);
        let pool = data.open().unwrap();
        assert_eq!(data.status().size_bytes, 2 * SMALL_MIB * MIB);
        pool.close();
        data.config.storage_size_mib = Some(SMALL_MIB);
        data.config.storage = None;
        let again = data.open().unwrap();
        assert_eq!(data.status().size_bytes, 2 * SMALL_MIB * MIB);
        again.close();
    });
}

/// A block device for a test: a file that losetup(8) has attached.
struct Device {
    path: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Device {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        file.as_file().set_len(SMALL_MIB * MIB).unwrap();
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file.path())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "losetup");
        Self {
            path: String::from_utf8(output.stdout).unwrap().trim().into(),
            _file: file,
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

#[test]
fn a_block_device_is_formatted_only_if_it_is_empty_and_belongs_to_one_data_folder() {
    let device = Device::new();
    in_namespace(|| {
        let data = Data::new(Some(Storage::Device(device.path.clone())));
        conformance(&data);
        assert_eq!(data.status().path, device.path);

        let thief = Data::new(Some(Storage::Device(device.path.clone())));
        let refused = thief.open().map(|_| ()).unwrap_err().message;
        assert!(refused.contains("could not be formatted"), "{refused}");

        data.open().unwrap().close();
    });
}

#[test]
fn what_is_missing_is_named() {
    in_namespace(|| {
        let absent = Data::new(Some(Storage::Device("/dev/absent".into())));
        let refused = absent.open().map(|_| ()).unwrap_err().message;
        assert!(refused.contains("/dev/absent"), "{refused}");

        let data = Data::new(Some(Storage::Btrfs));
        data.open().unwrap().close();
        fs::remove_file(data.pool_file()).unwrap();
        let refused = data.open().map(|_| ()).unwrap_err().message;
        assert!(refused.contains("pool.btrfs is missing"), "{refused}");

        let mut small = Data::new(Some(Storage::Btrfs));
        small.config.storage_size_mib = Some(10);
        let refused = small.open().map(|_| ()).unwrap_err().message;
        assert!(refused.contains("at least 256"), "{refused}");
    });
}
