//! Volumes on btrfs: snapshots, branches and restores of a running project, the start of its database server, and what
//! the storage costs a database and a working tree. Beside each is what the machine itself takes for the same work.

mod floor;
mod load;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use fsa_model::{
    Size,
    api::{CreateProject, Project},
    sandboxd::{ExecRequest, ExecResult},
    snapshot::{Snapshot, SnapshotState},
};
use fsa_tests::{Api, World};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::Method;
use serde_json::json;

use self::floor::{Filesystem, Postgres};
use crate::{
    events::Events,
    process,
    report::{Row, Sample, Target},
};

/// Room for one gigabyte of database, its copies and the pages that they no longer share.
const POOL: &[&str] = &["--storage", "btrfs", "--storage-size-mib", "32768"];
const ROUNDS: usize = 20;
/// Rounds of what takes longer.
const SLOW_ROUNDS: usize = 10;
const FILES: usize = 50_000;
/// Scale of pgbench at which its tables take about one gigabyte.
const GIGABYTE_SCALE: u32 = 65;
/// Projects with a running database server, whose memory is measured.
const DATABASES: usize = 20;

/// The sandboxes with a database and a tree of many files.
const LARGE: &str = "large";
const SMALL: &str = "small";

pub async fn measure() -> Vec<Row> {
    let world = World::start(POOL);
    let api = world.api();
    let mut rows = Vec::new();
    rows.extend(databases(&world, &api).await);
    rows.extend(snapshots(&api, world.folder()).await);
    rows.extend(load::measure(&api, LARGE, world.folder()).await);
    world.finish().await;
    rows
}

async fn create(api: &Api, name: &str, size: Size) -> Project {
    let project = api
        .create_as(CreateProject {
            name: name.into(),
            template: Some("host".into()),
            size: Some(size),
            ..CreateProject::default()
        })
        .await;
    api.until_running(name).await;
    project
}

/// Runs a shell command that must succeed, for up to an hour, and returns its output.
async fn shell(api: &Api, project: &str, script: &str) -> String {
    let request = ExecRequest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        timeout_seconds: Some(3600),
        ..ExecRequest::default()
    };
    let path = format!("/api/projects/{project}/exec");
    let result: ExecResult = api.send(Method::POST, &path, &request).await;
    assert_eq!(
        result.exit_code, 0,
        "{script}: {}{}",
        result.stdout, result.stderr
    );
    result.stdout
}

/// The time until the database of a project has answered to a new client.
async fn first_answer(api: &Api, project: &str) -> Duration {
    let begun = Instant::now();
    shell(api, project, "psql -qtAc 'select 1' \"$DATABASE_URL\"").await;
    begun.elapsed()
}

/// Stops the database server of a project, as an idle one is stopped.
async fn stop_database(project: &Project) {
    let id = project.id.to_string();
    let server = fs::read_dir("/proc")
        .expect("processes")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            // The folder of its socket has the id of the volume, which is that of the project.
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            command.contains("/postgres\0") && command.contains(&id)
        })
        .expect("its database server runs");
    kill(Pid::from_raw(server), Signal::SIGINT).expect("its database server runs");
    while Path::new(&format!("/proc/{server}")).exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The start of database servers, and the memory that they use.
async fn databases(world: &World, api: &Api) -> Vec<Row> {
    // First, because what is deleted later is freed in the background.
    let names: Vec<String> = (0..DATABASES).map(|at| format!("memory-{at}")).collect();
    let before = process::machine_memory();
    for name in &names {
        create(api, name, Size::Small).await;
    }
    let created = process::machine_memory();
    for name in &names {
        first_answer(api, name).await;
    }
    let each = |memory: f64| (memory - before) / DATABASES as f64;
    let memory = (each(created), each(process::machine_memory()));
    for name in &names {
        api.delete(name).await;
    }
    let mut floor = Postgres::create(&world.folder().join("floor-start"), &[]);
    let mut raw = Sample::default();
    for _ in 0..ROUNDS {
        raw.add(floor.start());
        floor.stop();
    }
    let (mut new, mut idle) = (Sample::default(), Sample::default());
    for at in 0..ROUNDS {
        let name = format!("database-{at}");
        let project = create(api, &name, Size::Small).await;
        shell(api, &name, "true").await;
        new.add(first_answer(api, &name).await);
        stop_database(&project).await;
        idle.add(first_answer(api, &name).await);
        api.delete(&name).await;
    }
    let started = "start of PostgreSQL and `psql` on the machine";
    vec![
        Row::new(
            format!("first answer of a stopped database, p50 (floor: {started})"),
            idle.percentile(50.0),
            "ms",
            Target::AtMost(150.0),
        )
        .with_floor(raw.percentile(50.0)),
        Row::new(
            "first answer of a new project's database, p50 (floor: the same)",
            new.percentile(50.0),
            "ms",
            Target::None,
        )
        .with_floor(raw.percentile(50.0)),
        Row::new(
            format!("{DATABASES} idle sandboxes on btrfs, database stopped, each"),
            memory.0,
            "MB",
            Target::AtMost(3.0),
        ),
        Row::new(
            "the same with the database running, each",
            memory.1,
            "MB",
            Target::AtMost(15.0),
        ),
    ]
}

/// Snapshots, branches and restores.
async fn snapshots(api: &Api, folder: &Path) -> Vec<Row> {
    create(api, SMALL, Size::Small).await;
    create(api, LARGE, Size::Medium).await;
    shell(api, SMALL, "for i in 0 1 2 3 4 5 6 7 8 9; do echo $i > $i; done").await;
    first_answer(api, SMALL).await;
    shell(api, LARGE, &load::tree(FILES)).await;
    shell(api, LARGE, &load::fill(GIGABYTE_SCALE)).await;

    let filesystem = Filesystem::create(folder, &load::tree(FILES));
    let raw = filesystem.snapshots(ROUNDS);
    drop(filesystem);

    let small = snapshot_times(api, SMALL).await;
    // Ends with the snapshots; the time is a limit in case they fail.
    let writes = load::writes(600);
    let writer = async { shell(api, LARGE, &writes).await };
    let reader = async {
        shell(api, LARGE, load::UNTIL_WRITING).await;
        let sample = snapshot_times(api, LARGE).await;
        shell(api, LARGE, load::STOP_WRITING).await;
        sample
    };
    let (_, large) = futures_util::join!(writer, reader);

    let (running, answered) = branches(api).await;
    let restored = restores(api).await;

    let floor = raw.percentile(50.0);
    let (few, many) = (small.percentile(50.0), large.percentile(50.0));
    let at_most = |most| Target::AtMost(most);
    vec![
        Row::new(
            "snapshot of a running project with 10 files, p50 (floor: `btrfs subvolume snapshot`)",
            few,
            "ms",
            at_most(60.0),
        )
        .with_floor(floor),
        Row::new(
            "the same with 50,000 files and 1 GB of database under write load, p50",
            many,
            "ms",
            at_most(60.0),
        )
        .with_floor(floor),
        Row::new("the second of the first", many / few, "", at_most(2.0)),
        Row::new(
            "branch of the living project → RUNNING, p50",
            running.percentile(50.0),
            "ms",
            at_most(400.0),
        ),
        Row::new(
            "first answer of its database, p50",
            answered.percentile(50.0),
            "ms",
            Target::None,
        ),
        Row::new(
            "restore → RUNNING, p50",
            restored.percentile(50.0),
            "ms",
            at_most(600.0),
        ),
    ]
}

async fn snapshot_times(api: &Api, project: &str) -> Sample {
    let mut sample = Sample::default();
    let path = format!("/api/projects/{project}/snapshots");
    for at in 0..ROUNDS {
        let begun = Instant::now();
        let snapshot: Snapshot = api
            .send(Method::POST, &path, &json!({"name": format!("s{at}")}))
            .await;
        sample.add(begun.elapsed());
        assert_eq!(snapshot.state, SnapshotState::Ready);
    }
    sample
}

/// Branches of a project without writes: the time until each runs, and until its database has answered after that.
async fn branches(api: &Api) -> (Sample, Sample) {
    let (mut running, mut answered) = (Sample::default(), Sample::default());
    let project: Project = api.get(&format!("/api/projects/{LARGE}")).await;
    for at in 0..SLOW_ROUNDS {
        let name = format!("b{at}");
        let stream = Events::open(api).await;
        let begun = Instant::now();
        let path = format!("/api/projects/{LARGE}/branches");
        let _: serde_json::Value = api.send(Method::POST, &path, &json!({"name": name})).await;
        stream.until_running(std::slice::from_ref(&project)).await;
        running.add(begun.elapsed());
        let branch = format!("{LARGE}@{name}");
        answered.add(first_answer(api, &branch).await);
        let request = api.request(Method::DELETE, &format!("{path}/{name}"));
        let (status, answer) = api.answer(request.header("prefer", "wait=60")).await;
        assert!(status.is_success(), "DELETE {branch}: {status} {answer}");
    }
    (running, answered)
}

async fn restores(api: &Api) -> Sample {
    let mut sample = Sample::default();
    for at in 0..SLOW_ROUNDS {
        let path = format!("/api/projects/{LARGE}/snapshots/s{at}/restore");
        let begun = Instant::now();
        let request = api.request(Method::POST, &path).header("prefer", "wait=60");
        let (status, answer) = api.answer(request).await;
        sample.add(begun.elapsed());
        assert!(status.is_success(), "restore: {status} {answer}");
        api.until_running(LARGE).await;
    }
    sample
}
