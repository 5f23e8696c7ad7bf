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

fn btrfs() -> World {
    World::start(&["--storage", "btrfs", "--storage-size-mib", "8192"])
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
