//! Storage pool tests: a server whose volumes are subvolumes of btrfs on a loop device, with quotas that the kernel
//! enforces.

use fsa_model::{
    Size,
    api::{CreateProject, Page},
    sandboxd::{ExecRequest, ExecResult, Usage},
    system::{Check, CheckState},
};
use fsa_tests::{Api, World};
use reqwest::Method;

/// Creates a subvolume, a snapshot, and a subvolume by a request with bits that the kernel ignores; prints the error
/// of each (btrfs_ioctl_vol_args, BTRFS_IOC_SUBVOL_CREATE, BTRFS_IOC_SNAP_CREATE).
const SUBVOLUMES: &str = r#"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
here = os.open('.', os.O_RDONLY)
for request in (0x5000940e, 0x50009401, 0x15000940e):
    arguments = ctypes.create_string_buffer(here.to_bytes(8, 'little') + b'mine', 4096)
    answer = libc.syscall(16, here, ctypes.c_ulong(request), arguments)
    print(answer, ctypes.get_errno() == 38, os.path.exists('mine'))
"#;

const BTRFS: &[&str] = &["--storage", "btrfs", "--storage-size-mib", "8192"];

fn btrfs() -> World {
    World::start(BTRFS)
}

async fn create(api: &Api, name: &str) {
    api.create_as(CreateProject {
        name: name.into(),
        template: Some("host".into()),
        size: Some(Size::Micro),
        ..CreateProject::default()
    })
    .await;
    api.until_running(name).await;
}

async fn usage(api: &Api, project: &str) -> Usage {
    api.get(&format!("/api/projects/{project}/usage")).await
}

async fn as_root(api: &Api, project: &str, script: &str) -> ExecResult {
    let request = ExecRequest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        user: Some("root".into()),
        ..ExecRequest::default()
    };
    api.send(Method::POST, &format!("/api/projects/{project}/exec"), &request)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_fills_its_own_quota_disturbs_no_other_and_is_cleaned_up() {
    let world = btrfs();
    let api = world.api();
    create(&api, "greedy").await;
    create(&api, "other").await;
    let limit = u64::from(Size::Micro.resources().disk_limit_mib) << 20;
    assert_eq!(usage(&api, "greedy").await.disk_limit_bytes, limit);

    api.shell("greedy", "fallocate -l 2000M large").await;
    let refused = api
        .try_exec("greedy", &["/bin/sh", "-c", "head -c 100M /dev/zero > more"])
        .await;
    assert!(refused.stderr.contains("Disk quota exceeded"), "{refused:?}");
    let refused = as_root(&api, "greedy", "head -c 1M /dev/zero > /var/tmp/more").await;
    assert!(refused.stderr.contains("Disk quota exceeded"), "{refused:?}");
    let used = usage(&api, "greedy").await.disk_bytes;
    assert!((limit - (64 << 20)..=limit).contains(&used), "{used}");

    api.shell("other", "head -c 50M /dev/zero > file").await;
    assert!(usage(&api, "other").await.disk_bytes < 200 << 20);

    // A project without any room starts all the same, so that its owner can delete files.
    for action in ["stop", "start"] {
        let request = api
            .request(Method::POST, &format!("/api/projects/greedy/{action}"))
            .header("prefer", "wait=60");
        let (status, answer) = api.answer(request).await;
        assert!(status.is_success(), "{action}: {status} {answer}");
    }
    api.until_running("greedy").await;
    api.shell("greedy", "rm large more && head -c 100M /dev/zero > again")
        .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_survives_the_server_and_the_pool_is_unmounted_by_halt() {
    let mut world = btrfs();
    let api = world.api();
    create(&api, "kept").await;
    api.shell("kept", "echo text > file").await;
    assert_eq!(as_root(&api, "kept", "echo text > /etc/file").await.exit_code, 0);
    let read = "cat file /etc/file";

    world.crash();
    world.serve();
    assert_eq!(api.shell("kept", read).await, "text\ntext\n");

    world.drain();
    world.halt();
    let left = fsa_tests::leftovers::loop_devices(&world.data());
    assert!(left.is_empty(), "{left:?}");
    let doctor = world.fsa(&["doctor", "--listen", "127.0.0.1:0"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("pool.btrfs, not mounted"), "{doctor}");

    world.serve();
    // Until the next observation the API returns the last observed state.
    api.until_event("kept", "repaired").await;
    api.until_running("kept").await;
    assert_eq!(api.shell("kept", read).await, "text\ntext\n");
    let checks: Page<Check> = api.get("/api/system/checks").await;
    let storage = checks
        .items
        .iter()
        .find(|check| check.name == "storage")
        .expect("a check");
    assert_eq!(storage.state, CheckState::Good, "{storage:?}");
    assert!(storage.message.contains("disk limits enforced"), "{storage:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_creates_no_subvolume_and_shares_blocks_of_its_files() {
    let world = btrfs();
    let api = world.api();
    create(&api, "curious").await;
    let tried = api.try_exec("curious", &["python3", "-c", SUBVOLUMES]).await;
    assert_eq!(tried.stdout, "-1 True False\n".repeat(3), "{tried:?}");
    api.shell(
        "curious",
        "head -c 10M /dev/urandom > one && cp --reflink=always one two && cmp one two",
    )
    .await;
    world.finish().await;
}

/// The value of a metric of the local region.
async fn metric(world: &World, name: &str) -> u64 {
    let api = world.api();
    let text = api
        .request(Method::GET, "/metrics")
        .send()
        .await
        .expect("an answer")
        .text()
        .await
        .expect("text");
    let start = format!("{name}{{region=\"local\"}} ");
    text.lines()
        .find_map(|line| line.strip_prefix(&start)?.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_in_plain_folders_move_to_btrfs_with_their_databases_and_snapshots() {
    let mut world = World::start(&[]);
    let api = world.api();
    for name in ["shop", "notes"] {
        create(&api, name).await;
        api.shell(name, &format!("echo {name} > file")).await;
        assert_eq!(
            as_root(&api, name, "echo text > /etc/file; rm /etc/issue.net; true")
                .await
                .exit_code,
            0
        );
    }
    api.shell(
        "shop",
        "psql -qc 'create table rows as select generate_series(1, 50000) n'",
    )
    .await;
    let taken = world.fsa(&["snapshot", "create", "shop", "--name", "before"]);
    assert!(taken.status.success(), "{taken:?}");
    api.shell("shop", "echo later > file; psql -qc 'truncate rows'")
        .await;

    // With sandboxes that run, nothing is moved, and the server says what to do.
    world.drain();
    world.set_options(BTRFS);
    let refused = world.fsa(&["serve", "--listen", "127.0.0.1:0", "--storage", "btrfs"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("fsa halt"), "{why}");

    world.halt();
    world.serve();
    // Until the next observation the API returns the last observed state.
    for name in ["shop", "notes"] {
        api.until_event(name, "repaired").await;
        api.until_running(name).await;
    }
    assert_eq!(api.shell("shop", "cat file /etc/file").await, "later\ntext\n");
    assert_eq!(api.shell("notes", "cat file /etc/file").await, "notes\ntext\n");
    assert_eq!(
        api.shell("shop", "psql -Atc 'select count(*) from rows'").await,
        "0\n"
    );
    let limit = u64::from(Size::Micro.resources().disk_limit_mib) << 20;
    assert_eq!(usage(&api, "shop").await.disk_limit_bytes, limit);
    assert!(world.data().join("runner/pool.btrfs").is_file());

    let request = api
        .request(Method::POST, "/api/projects/shop/snapshots/before/restore")
        .header("prefer", "wait=60");
    let (status, answer) = api.answer(request).await;
    assert!(status.is_success(), "{status} {answer}");
    api.until_running("shop").await;
    assert_eq!(api.shell("shop", "cat file").await, "shop\n");
    assert_eq!(
        api.shell("shop", "psql -Atc 'select count(*) from rows'").await,
        "50000\n"
    );

    // Its fill is in the metrics.
    assert_eq!(metric(&world, "fsa_storage_pool_size_bytes").await, 8192 << 20);
    assert!(metric(&world, "fsa_storage_pool_free_bytes").await > 4096 << 20);
    assert!(metric(&world, "fsa_storage_pool_metadata_bytes").await > 0);
    assert_eq!(metric(&world, "fsa_storage_pool_full").await, 0);
    assert_eq!(metric(&world, "fsa_storage_pool_device_errors").await, 0);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_fills_its_quota_harms_no_other_and_is_cleaned_up_by_its_owner() {
    let world = btrfs();
    let api = world.api();
    create(&api, "greedy").await;
    create(&api, "other").await;
    api.shell(
        "other",
        "psql -qc 'create table rows as select generate_series(1, 1000) n'",
    )
    .await;
    // Most of the quota is a file, so that the rest fills soon.
    api.shell(
        "greedy",
        "fallocate -l 1700M large && psql -qc 'create table big (t text)'",
    )
    .await;
    let fill = "insert into big select repeat(md5(n::text), 30) from generate_series(1, 20000) n";
    let mut last = api.try_exec("greedy", &["psql", "-qc", fill]).await;
    while last.exit_code == 0 {
        last = api.try_exec("greedy", &["psql", "-qc", fill]).await;
    }

    // Its log has no room either.
    let rest = api
        .try_exec("greedy", &["/bin/sh", "-c", "head -c 500M /dev/zero > rest"])
        .await;
    assert!(rest.stderr.contains("Disk quota exceeded"), "{rest:?}");
    assert_ne!(api.try_exec("greedy", &["psql", "-qc", fill]).await.exit_code, 0);

    let other = "psql -qAtc 'insert into rows values (1); select count(*) from rows'";
    assert_eq!(api.shell("other", other).await, "1001\n");

    // The server may have ended for lack of room for its log, and starts all the same.
    let mut emptied = api.try_exec("greedy", &["psql", "-qc", "truncate big"]).await;
    for _ in 0..10 {
        if emptied.exit_code == 0 {
            break;
        }
        emptied = api.try_exec("greedy", &["psql", "-qc", "truncate big"]).await;
    }
    assert_eq!(emptied.exit_code, 0, "{emptied:?}");
    let work = "psql -qc 'insert into big select md5(n::text) from generate_series(1, 10000) n' -c checkpoint && \
                psql -Atc 'select count(*) from big'";
    assert_eq!(api.shell("greedy", work).await, "10000\n");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_data_folder_gets_btrfs_where_this_machine_can() {
    let world = World::start(&["--storage", "auto", "--storage-size-mib", "4096"]);
    let api = world.api();
    create(&api, "first").await;
    let checks: Page<Check> = api.get("/api/system/checks").await;
    let found: Vec<_> = checks
        .items
        .iter()
        .filter(|check| check.message.contains("plain folders") || check.message.contains("btrfs on"))
        .collect();
    // Loop devices and btrfs are the machine's. Without them there are plain folders, and the reason.
    let has_btrfs = world.data().join("runner/pool.btrfs").exists();
    let limit = usage(&api, "first").await.disk_limit_bytes;
    assert_eq!(limit > 0, has_btrfs, "{found:?}");
    let reason = found
        .iter()
        .any(|check| check.message.contains("without disk limits and fast snapshots: "));
    assert_eq!(reason, !has_btrfs, "{found:?}");
    world.finish().await;
}
