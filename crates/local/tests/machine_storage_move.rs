//! Tests of the move of plain folders to btrfs: on a real loop device, killed at several moments, refused.
//!
//! It needs root. Each test runs in its own mount namespace, so its mounts and loop devices end with it, however it
//! ends.

mod storage_pool;

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use fsa_local::{
    protocol::StorageBackend,
    runner::{
        RunnerConfig, Storage,
        layout::Layout,
        privilege_mode::PrivilegeMode,
        state::{BOOT, Process, Run, State},
        storage::StoragePool,
    },
};
use fsa_model::{SandboxRef, SnapshotId};
use storage_pool::{Data, MIB, SMALL_MIB, home, in_namespace, sandbox, write};

/// Everything below a folder with its kind, owner, mode, content and target, to compare states of a volume.
fn listing(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let full = folder.join(&path);
        let metadata = fs::symlink_metadata(&full).unwrap();
        let content = if metadata.is_dir() {
            waiting.extend(
                fs::read_dir(&full)
                    .unwrap()
                    .map(|entry| path.join(entry.unwrap().file_name())),
            );
            String::new()
        } else if metadata.is_symlink() {
            fs::read_link(&full).unwrap().display().to_string()
        } else if metadata.is_file() {
            let content = fs::read(&full).unwrap();
            format!(
                "{} {}",
                content.len(),
                content.iter().map(|byte| u64::from(*byte)).sum::<u64>()
            )
        } else {
            metadata.rdev().to_string()
        };
        found.push(format!(
            "{} {:o} {}:{} {content}",
            path.display(),
            metadata.mode(),
            metadata.uid(),
            metadata.gid()
        ));
    }
    found.sort();
    found
}

/// Fills the plain folders of a project as its sandbox and its database's server do, and takes a snapshot. Returns its
/// sandbox, and the listing of each part of its volume and of the snapshot.
fn plain_project(data: &Data, pool: &StoragePool, mebibytes: u64) -> (SandboxRef, SnapshotId, Vec<String>) {
    let sandbox = sandbox();
    pool.create(sandbox.volume).unwrap();
    let home = home(data, &sandbox);
    write(&home.join("large"), mebibytes * MIB).unwrap();
    for number in 0..200 {
        fs::create_dir_all(home.join(format!("folder-{number}/deep"))).unwrap();
        fs::write(
            home.join(format!("folder-{number}/deep/file")),
            number.to_string(),
        )
        .unwrap();
    }
    std::os::unix::fs::symlink("folder-1", home.join("link")).unwrap();
    fs::hard_link(home.join("folder-1/deep/file"), home.join("hard")).unwrap();
    std::os::unix::fs::chown(home.join("folder-2"), Some(1000), Some(1001)).unwrap();
    let upper = pool.files(&sandbox).root.join("upper");
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::create_dir_all(pool.files(&sandbox).root.join("work")).unwrap();
    // What overlayfs makes for a deleted file.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        upper.join("etc/removed"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .unwrap();
    let database = pool.database(sandbox.volume);
    fs::create_dir_all(database.join("data/base")).unwrap();
    fs::write(database.join("record.json"), "{}").unwrap();
    write(&database.join("data/base/1"), 2 * MIB).unwrap();
    let state = State {
        sandbox: sandbox.clone(),
        digest: "00".into(),
        base_rootfs: "base".into(),
        layers: Vec::new(),
        database_proxy: true,
        memory_limit_mib: 256,
        run: None,
        ended: None,
    };
    state.write(&data.layout().state(&sandbox.resource)).unwrap();
    let snapshot = SnapshotId::generate();
    pool.create_snapshot(&sandbox, snapshot).unwrap();
    fs::write(home.join("later"), "than the snapshot").unwrap();
    let listed = listings(data, pool, &sandbox, snapshot);
    (sandbox, snapshot, listed)
}

fn listings(data: &Data, pool: &StoragePool, sandbox: &SandboxRef, snapshot: SnapshotId) -> Vec<String> {
    [
        home(data, sandbox),
        pool.files(sandbox).root.join("upper"),
        pool.database(sandbox.volume),
        pool.snapshot_folder(sandbox.volume, snapshot),
    ]
    .iter()
    .flat_map(|folder| listing(folder))
    .collect()
}

/// Opens the pool of [`MOVED`] in a process of its own, which a test kills meanwhile.
const MOVED: &str = "FSA_TEST_MOVED_FOLDER";

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "it is a message from the test that starts this process"
)]
fn opens_a_pool_for_another_test() {
    let Some(folder) = std::env::var_os(MOVED) else {
        return;
    };
    let config = RunnerConfig {
        storage: Some(Storage::Btrfs),
        storage_size_mib: Some(2 * SMALL_MIB),
        ..RunnerConfig::new(&folder, "/nowhere")
    };
    in_namespace(|| {
        let layout = Layout::open(Path::new(&folder), &[]).unwrap();
        let pool = StoragePool::open(&config, &layout, PrivilegeMode::Root).unwrap();
        pool.close();
    });
}

/// Whether a path below the pool exists in the mount namespace of a process's thread.
fn pool_has(process: u32, data: &Data, path: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten();
    threads.flatten().any(|thread| {
        let pool = data.layout().pool();
        let below = pool.strip_prefix("/").unwrap();
        thread.path().join("root").join(below).join(path).exists()
    })
}

#[test]
fn plain_folders_move_to_btrfs_however_often_that_is_interrupted() {
    let mut data = Data::new(None);
    let projects: Vec<_> = in_namespace(|| {
        let pool = data.open().unwrap();
        [40, 60]
            .map(|mebibytes| plain_project(&data, &pool, mebibytes))
            .into()
    });
    let later = projects.iter().map(|(sandbox, ..)| sandbox.volume).max().unwrap();
    let later = later.to_string();
    // Killed when the first copy, the second volume and the last snapshot are under way.
    for moment in [
        "moving",
        "moving/home/large",
        &later,
        &format!("snapshots/{later}"),
    ] {
        let mut runner = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "opens_a_pool_for_another_test"])
            .env(MOVED, data.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = runner.id();
        let mut ended = false;
        while !ended && !pool_has(process, &data, moment) {
            ended = runner.try_wait().unwrap().is_some();
            thread::yield_now();
        }
        let _ = runner.kill();
        runner.wait().unwrap();
    }
    data.config.storage = Some(Storage::Btrfs);
    data.config.storage_size_mib = Some(2 * SMALL_MIB);
    in_namespace(|| {
        let pool = data.open().unwrap();
        assert_eq!(data.status().backend, StorageBackend::Btrfs);
        for (sandbox, snapshot, before) in &projects {
            assert_eq!(&listings(&data, &pool, sandbox, *snapshot), before);
            // It has its limit, its snapshots and its end like any other.
            pool.set_limit(sandbox.volume, 100 * MIB, false).unwrap();
            let refused = write(&home(&data, sandbox).join("more"), 200 * MIB).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
            pool.restore_snapshot(sandbox, sandbox.volume, *snapshot).unwrap();
            assert!(!home(&data, sandbox).join("later").exists());
        }
        // Nothing is left in the plain folders, and nothing half copied in the pool.
        for folder in ["volumes", "databases", "snapshots", "trash"] {
            let left = fs::read_dir(data.layout().folder().join(folder)).unwrap().count();
            assert_eq!(left, 0, "{folder}");
        }
        assert!(!data.layout().pool().join("moving").exists());
        for (sandbox, ..) in &projects {
            assert!(!data.layout().sandbox(&sandbox.resource).join("upper").exists());
            pool.delete(sandbox.volume).unwrap();
        }
        pool.close();
    });
}

#[test]
fn plain_folders_stay_while_something_runs_or_there_is_no_room() {
    in_namespace(|| {
        let mut data = Data::new(None);
        let (sandbox, _, before) = {
            let pool = data.open().unwrap();
            plain_project(&data, &pool, 40)
        };
        data.config.storage = Some(Storage::Btrfs);
        data.config.storage_size_mib = Some(2 * SMALL_MIB);
        let path = data.layout().state(&sandbox.resource);
        let stopped = State::read(&path).unwrap();
        let me = Process::now(std::process::id().try_into().unwrap()).unwrap();
        let running = State {
            run: Some(Run {
                boot: BOOT.clone(),
                slot: 0,
                process: Some(me),
            }),
            ..stopped.clone()
        };
        running.write(&path).unwrap();
        let refused = data.open().map(|_| ()).unwrap_err().message;
        assert!(
            refused.contains("1 sandboxes") && refused.contains("fsa halt"),
            "{refused}"
        );
        assert!(!data.pool_file().exists());

        stopped.write(&path).unwrap();
        data.config.storage_size_mib = Some(300);
        let refused = data.open().map(|_| ()).unwrap_err().message;
        assert!(refused.contains("--storage-size-mib"), "{refused}");
        let kept = listing(&data.layout().volume(sandbox.volume));
        assert!(kept.iter().all(|entry| before.contains(entry)), "{kept:?}");

        data.config.storage_size_mib = Some(2 * SMALL_MIB);
        data.open().unwrap().close();
    });
}
