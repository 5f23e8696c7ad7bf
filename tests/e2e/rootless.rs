//! Rootless tests: the server of a plain user does the main job, is killed, and starts again.

use std::process::Command;

use fsa_model::sandboxd::Usage;
use fsa_tests::{
    World,
    public_host::{self, PublicHost},
};
use nix::unistd::User;
use tokio::io::AsyncWriteExt as _;

/// User for the tests, with a range of subordinate ids that no other user has.
const USER: &str = "fsa-test";
const RANGE: &str = "200000000-200065535";

#[allow(
    clippy::disallowed_methods,
    reason = "useradd and usermod are the system's own way; they are awaited here"
)]
fn plain_user() -> User {
    // Another test of this file may be doing the same.
    let lock = std::fs::File::create("/run/lock/fsa-test-user").expect("a lock file");
    lock.lock().expect("the lock");
    let find = || User::from_name(USER).expect("the list of users can be read");
    if find().is_none() {
        let made = Command::new("useradd")
            .args([
                "--system",
                "--user-group",
                "--no-create-home",
                "--shell",
                "/usr/sbin/nologin",
                USER,
            ])
            .status();
        assert!(made.is_ok_and(|status| status.success()), "useradd {USER}");
    }
    let ranges = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    if !ranges.lines().any(|line| line.starts_with(&format!("{USER}:"))) {
        let given = Command::new("usermod")
            .args(["--add-subuids", RANGE, "--add-subgids", RANGE, USER])
            .status();
        assert!(given.is_ok_and(|status| status.success()), "usermod {USER}");
    }
    find().expect("the user is there")
}

/// Whether this machine forbids user namespaces; the doctor then reports that.
fn forbidden() -> bool {
    std::fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|text| text.trim() == "0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_users_sandbox_outlives_its_server_and_leaves_nothing() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test becomes another user, which takes root"
    );
    if forbidden() {
        let world = World::unserved(Some(plain_user()), &[]);
        let output = world.fsa(&["doctor"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            !output.status.success() && text.contains("user namespaces are switched off"),
            "{text}"
        );
        return;
    }
    let mut world = World::start_as_plain_user(plain_user(), &[]);
    let api = world.api();
    api.create_running("plain").await;
    assert_eq!(api.shell("plain", "id -un; touch /tmp/mark").await.trim(), "dev");
    assert_eq!(api.shell("plain", "psql -Atc 'select 40 + 2'").await.trim(), "42");
    // One sandbox takes half of the user's inotify instances at most.
    let most: u64 = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .expect("a limit");
    let count =
        "import ctypes; c = ctypes.CDLL(None); print(sum(c.inotify_init1(0) >= 0 for _ in range(100_000)))";
    let taken: u64 = api
        .shell("plain", &format!("python3 -c '{count}'"))
        .await
        .trim()
        .parse()
        .expect("a number");
    assert!(taken > 0 && taken <= most / 2, "{taken} of {most}");

    world.crash();
    world.serve();

    let api = world.api();
    api.until_running("plain").await;
    assert_eq!(api.shell("plain", "ls /tmp/mark").await.trim(), "/tmp/mark");
    assert_eq!(api.shell("plain", "psql -Atc 'select 40 + 3'").await.trim(), "43");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_users_sandbox_reaches_the_internet_and_reports_its_usage() {
    if forbidden() {
        return;
    }
    let world = World::start_as_plain_user(plain_user(), &["--allow-networks", public_host::RANGE]);
    let api = world.api();
    api.create_running("out").await;
    let host = PublicHost::start(80, |listener| async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"from outside\n").await;
        }
    });

    let text = api
        .shell(
            "out",
            &format!("timeout 60 bash -c 'cat </dev/tcp/{}/80'", host.address),
        )
        .await;

    assert_eq!(text.trim(), "from outside");
    // A second of processor time, by a process that has ended since.
    api.shell("out", "(ulimit -t 1; while :; do :; done) || true")
        .await;
    let usage: Usage = api.get("/api/projects/out/usage").await;
    assert!(
        usage.memory_bytes > 1_000_000 && usage.pids > 0 && usage.cpu_microseconds > 0,
        "{usage:?}"
    );
    drop(host);
    world.finish().await;
}
