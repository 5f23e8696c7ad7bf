//! Snapshot tests: a running project on either storage, its restore, a server that is killed meanwhile, and the
//! command line.

use fsa_model::{
    Size,
    api::{CreateProject, Page},
    snapshot::{ChangeKind, Snapshot, SnapshotCause, SnapshotDiff, SnapshotState},
};
use fsa_tests::{Api, World};
use reqwest::{Method, StatusCode};
use serde_json::json;

const BTRFS: &[&str] = &["--storage", "btrfs", "--storage-size-mib", "8192"];

/// Writes a line at each of its starts, and then one every moment.
const START_COMMAND: &str =
    "echo start >> /home/dev/starts; while true; do date +%N > /home/dev/alive; sleep 0.05; done";

async fn create(api: &Api, name: &str) {
    api.create_as(CreateProject {
        name: name.into(),
        template: Some("host".into()),
        size: Some(Size::Micro),
        start_command: Some(START_COMMAND.into()),
        ..CreateProject::default()
    })
    .await;
    api.until_running(name).await;
    api.shell(name, "until test -s /home/dev/starts; do sleep 0.05; done")
        .await;
}

async fn take(api: &Api, project: &str, name: &str) -> Snapshot {
    let path = format!("/api/projects/{project}/snapshots");
    api.send(Method::POST, &path, &json!({"name": name})).await
}

async fn restore(api: &Api, project: &str, snapshot: &str) -> StatusCode {
    let path = format!("/api/projects/{project}/snapshots/{snapshot}/restore");
    let request = api.request(Method::POST, &path).header("prefer", "wait=60");
    let (status, answer) = api.answer(request).await;
    assert!(status.is_success(), "{status} {answer}");
    status
}

/// What the story changes: a file of the home folder and one of the root file system.
async fn write(api: &Api, project: &str, text: &str) {
    api.shell(
        project,
        &format!("echo {text} > file; echo {text} > /var/tmp/file"),
    )
    .await;
}

async fn read(api: &Api, project: &str) -> String {
    api.shell(project, "cat file /var/tmp/file").await
}

async fn a_restored_project_has_its_old_files_and_starts_again(options: &[&str]) {
    let world = World::start(options);
    let api = world.api();
    create(&api, "shop").await;
    write(&api, "shop", "old").await;

    let snapshot = take(&api, "shop", "first").await;

    assert_eq!(
        (snapshot.state, snapshot.cause),
        (SnapshotState::Ready, SnapshotCause::Manual)
    );
    // Its processes were frozen for a moment only.
    api.shell(
        "shop",
        "before=$(cat /home/dev/alive); until test \"$(cat /home/dev/alive)\" != \"$before\"; do sleep 0.05; done",
    )
    .await;
    write(&api, "shop", "new").await;
    api.shell("shop", "echo x > added").await;
    let diff: SnapshotDiff = api.get("/api/projects/shop/snapshots/first/diff").await;
    let change = |path: &str| {
        diff.files
            .changes
            .iter()
            .find(|one| one.path == path)
            .map(|one| one.change)
    };
    assert_eq!(
        change("/home/dev/project/added"),
        Some(ChangeKind::Added),
        "{diff:?}"
    );
    assert_eq!(change("/home/dev/project/file"), Some(ChangeKind::Changed));
    assert_eq!(change("/var/tmp/file"), Some(ChangeKind::Changed));

    restore(&api, "shop", "first").await;

    api.until_running("shop").await;
    assert_eq!(read(&api, "shop").await, "old\nold\n");
    let added = api.try_exec("shop", &["test", "-e", "added"]).await;
    assert_eq!(added.exit_code, 1, "{added:?}");
    api.shell(
        "shop",
        "until test \"$(wc -l < /home/dev/starts)\" = 2; do sleep 0.05; done",
    )
    .await;

    // The state before the restore was kept.
    let all: Page<Snapshot> = api.get("/api/projects/shop/snapshots").await;
    assert_eq!(all.items[0].cause, SnapshotCause::BeforeRestore);
    restore(&api, "shop", &all.items[0].id.to_string()).await;
    assert_eq!(read(&api, "shop").await, "new\nnew\n");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_in_plain_folders_is_restored() {
    a_restored_project_has_its_old_files_and_starts_again(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_on_btrfs_is_restored() {
    a_restored_project_has_its_old_files_and_starts_again(BTRFS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_during_a_restore_completes_it() {
    for options in [&[], BTRFS] {
        let mut world = World::start(options);
        let api = world.api();
        create(&api, "shop").await;
        write(&api, "shop", "old").await;
        take(&api, "shop", "first").await;
        write(&api, "shop", "new").await;
        let path = "/api/projects/shop/snapshots/first/restore";
        let (status, answer) = api.answer(api.request(Method::POST, path)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        // Somewhere between the snapshot of the present state and the start.
        api.until_event_matching("shop", "the snapshot of the present state", |event| {
            event["kind"] == "snapshotCreated" && event["data"]["cause"] == "before-restore"
        })
        .await;

        world.crash();
        world.serve();

        api.until_event("shop", "snapshotRestored").await;
        api.until_running("shop").await;
        assert_eq!(read(&api, "shop").await, "old\nold\n");
        world.finish().await;
    }
}

/// Counts in a file, and then in the database, as fast as both go.
const COUNTER: &str = r#"
    psql -qc 'create table counts (n bigint)'
    cat > counter <<'END'
    coproc psql -qAt
    for ((n = 1; ; n++)); do
        echo $n > count.new
        mv count.new count
        echo "insert into counts values ($n) returning n;" >&${COPROC[1]}
        read -r _ <&${COPROC[0]} || exit
    done
END
    setsid bash counter >/dev/null 2>&1 </dev/null &
    until test "$(psql -Atc 'select count(*) from counts')" -gt 10; do sleep 0.05; done
"#;

async fn files_and_database_are_of_one_moment(options: &[&str], snapshots: usize) {
    let world = World::start(options);
    let api = world.api();
    api.create_running("shop").await;
    api.shell("shop", COUNTER).await;

    for number in 1..=snapshots {
        take(&api, "shop", &format!("s{number}")).await;
        // The same connection goes on.
        api.shell(
            "shop",
            "before=$(cat count); until test \"$(cat count)\" -gt $((before + 5)); do sleep 0.02; done",
        )
        .await;
    }

    let mut earlier = 0;
    for number in 1..=snapshots {
        restore(&api, "shop", &format!("s{number}")).await;
        api.until_running("shop").await;
        let both = api
            .shell("shop", "cat count; psql -Atc 'select max(n) from counts'")
            .await;
        let numbers: Vec<i64> = both.lines().map(|line| line.parse().expect("a number")).collect();
        let [file, database] = numbers[..] else {
            panic!("two numbers: {both}")
        };
        assert!(
            database == file || database == file - 1,
            "s{number}: {file} in the file, {database} in the database"
        );
        assert!(file > earlier, "s{number}: {file} after {earlier}");
        earlier = file;
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_in_plain_folders_has_files_and_database_of_one_moment() {
    files_and_database_are_of_one_moment(&[], 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_on_btrfs_has_files_and_database_of_one_moment() {
    files_and_database_are_of_one_moment(BTRFS, 8).await;
}

/// The process that does the runner's work: the child of the child of the server.
fn runner_worker(world: &World) -> i32 {
    let children = |pid: i32| -> Vec<i32> {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect()
    };
    let is_runner = |pid: &i32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).any(|word| word == b"runner")
    };
    let server = world.server.as_ref().expect("a server").pid();
    let supervisor = children(server).into_iter().find(is_runner).expect("a runner");
    children(supervisor)
        .into_iter()
        .find(is_runner)
        .expect("its worker")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_killed_during_a_snapshot_leaves_no_process_frozen() {
    let world = World::start(&[]);
    let api = world.api();
    create(&api, "shop").await;
    // A copy that takes a while.
    api.shell("shop", "head -c 500M /dev/zero | tr '\\0' x > large")
        .await;
    let snapshots = world.data().join("runner/snapshots");
    let begun = || {
        let volumes = std::fs::read_dir(&snapshots).into_iter().flatten().flatten();
        volumes
            .flat_map(|volume| std::fs::read_dir(volume.path()).into_iter().flatten().flatten())
            .any(|entry| {
                entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "new")
            })
    };

    let (snapshot, ()) = tokio::join!(take(&api, "shop", "first"), async {
        while !begun() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let worker = nix::unistd::Pid::from_raw(runner_worker(&world));
        nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGKILL)
            .expect("the runner's worker is killed");
    });

    // The next worker has thawed the processes, removed the half of a copy, and taken the snapshot.
    assert_eq!(snapshot.state, SnapshotState::Ready);
    assert!(!begun());
    api.shell(
        "shop",
        "before=$(cat /home/dev/alive); until test \"$(cat /home/dev/alive)\" != \"$before\"; do sleep 0.05; done",
    )
    .await;
    restore(&api, "shop", "first").await;
    assert_eq!(api.shell("shop", "wc -c < large").await.trim(), "524288000");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_compares_restores_and_deletes_snapshots() {
    let world = World::start(BTRFS);
    let api = world.api();
    create(&api, "shop").await;
    write(&api, "shop", "old").await;
    let fsa = |arguments: &[&str]| {
        let output = world.fsa(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text
    };

    let taken = fsa(&["snapshot", "create", "shop", "--name", "first"]);
    write(&api, "shop", "new").await;
    let listed = fsa(&["snapshot", "list", "shop"]);
    let shown = fsa(&["snapshot", "show", "shop", "first", "--json"]);
    let diff = fsa(&["snapshot", "diff", "shop", "first"]);
    let restored = fsa(&["restore", "shop", "first"]);

    assert!(taken.starts_with("snapshot first"), "{taken}");
    assert!(listed.contains("first") && listed.contains("manual"), "{listed}");
    let shown: Snapshot = serde_json::from_str(&shown).expect("a snapshot as JSON");
    assert_eq!(shown.name.as_deref(), Some("first"));
    assert!(diff.contains("M /home/dev/project/file"), "{diff}");
    assert!(restored.starts_with("shop is RUNNING"), "{restored}");
    assert_eq!(read(&api, "shop").await, "old\nold\n");
    fsa(&["snapshot", "delete", "shop", "first"]);
    api.until_event("shop", "snapshotDeleted").await;
    let missing = world.fsa(&["snapshot", "show", "shop", "first"]);
    assert!(!missing.status.success(), "{missing:?}");
    world.finish().await;
}
