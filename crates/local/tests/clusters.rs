//! Cluster tests: the control and the projects cluster, with the machine's real PostgreSQL.

mod machine;

use std::{fs, process::Command, time::Instant};

use fsa_local::postgres::{Cluster, ClusterKind, PostgresError};
use machine::{Machine, end_process, server_process};
use rustix::process::{Pid, Signal};

async fn scalar<T>(cluster: &Cluster, query: &'static str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let mut connection = cluster.connect("postgres").await.unwrap();
    sqlx::query_scalar(query)
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn both_clusters_start_side_by_side_and_a_second_start_finds_them() {
    let machine = Machine::new();
    let (control, projects) = (
        machine.cluster(ClusterKind::Control),
        machine.cluster(ClusterKind::Projects),
    );
    let started = Instant::now();

    let (first, second) = tokio::join!(control.ensure_running(), projects.ensure_running());

    first.unwrap();
    second.unwrap();
    println!("first start of both: {:?}", started.elapsed());
    let before = (
        server_process(control.folder()),
        server_process(projects.folder()),
    );
    let started = Instant::now();
    let (first, second) = tokio::join!(control.ensure_running(), projects.ensure_running());
    first.unwrap();
    second.unwrap();
    println!("second start of both: {:?}", started.elapsed());
    assert_eq!(
        before,
        (
            server_process(control.folder()),
            server_process(projects.folder())
        )
    );
    assert_eq!(
        scalar::<String>(
            &control,
            "SELECT pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = current_database()"
        )
        .await,
        "UTF8"
    );
}

#[tokio::test]
async fn a_server_listens_on_its_socket_only_and_runs_in_a_new_session() {
    let machine = Machine::new();
    let projects = machine.projects().await;
    let pid = server_process(projects.folder()).unwrap();

    let mut sockets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let target = fs::read_link(entry.path())
            .unwrap_or_default()
            .display()
            .to_string();
        sockets.extend(
            target
                .strip_prefix("socket:[")
                .map(|rest| rest.trim_end_matches(']').to_owned()),
        );
    }

    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        // In proc_net_tcp the fourth field is the state (0A is LISTEN), and the tenth is the inode.
        let ours = text.lines().skip(1).filter(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.get(3) == Some(&"0A")
                && fields
                    .get(9)
                    .is_some_and(|inode| sockets.iter().any(|s| s == inode))
        });
        assert_eq!(ours.count(), 0, "{table}");
    }
    assert_eq!(
        scalar::<String>(&projects, "SELECT current_setting('listen_addresses')").await,
        ""
    );
    // Compared with the server's own id and not with the test's: a test run may share its session.
    let server = Pid::from_raw(pid).unwrap();
    assert_eq!(rustix::process::getsid(Some(server)).unwrap(), server);
}

#[tokio::test]
async fn a_server_that_was_killed_comes_back_with_what_was_committed() {
    let machine = Machine::new();
    let projects = machine.projects().await;
    let mut connection = projects.connect("postgres").await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept AS SELECT 7 AS seven")
        .execute(&mut connection)
        .await
        .unwrap();
    // A busy backend, which outlives its server briefly.
    let busy = tokio::spawn(async move {
        sqlx::query("SELECT pg_sleep(60)")
            .execute(&mut connection)
            .await
            .map(drop)
    });
    let pid = server_process(projects.folder()).unwrap();
    end_process(pid, Signal::KILL);

    projects.ensure_running().await.unwrap();

    assert_eq!(scalar::<i32>(&projects, "SELECT seven FROM kept").await, 7);
    assert_ne!(server_process(projects.folder()), Some(pid));
    assert!(busy.await.unwrap().is_err());
}

#[tokio::test]
async fn leftovers_of_a_reboot_do_not_prevent_a_start() {
    let machine = Machine::new();
    let control = machine.cluster(ClusterKind::Control);
    control.ensure_running().await.unwrap();
    let record = fs::read_to_string(control.folder().join("postmaster.pid")).unwrap();
    control.stop().await.unwrap();
    // The recorded id now belongs to a live process that is not PostgreSQL: this one.
    let rest: Vec<_> = record.lines().skip(1).collect();
    fs::write(
        control.folder().join("postmaster.pid"),
        format!("{}\n{}\n", std::process::id(), rest.join("\n")),
    )
    .unwrap();

    control.ensure_running().await.unwrap();

    assert_eq!(scalar::<i32>(&control, "SELECT 1").await, 1);
}

#[tokio::test]
async fn concurrent_starters_start_one_server() {
    let machine = Machine::new();
    let cluster = || machine.cluster(ClusterKind::Control);
    let clusters = [cluster(), cluster(), cluster()];

    let (a, b, c) = tokio::join!(
        clusters[0].ensure_running(),
        clusters[1].ensure_running(),
        clusters[2].ensure_running()
    );

    a.and(b).and(c).unwrap();
    assert_eq!(scalar::<i32>(&clusters[0], "SELECT 1").await, 1);
}

#[tokio::test]
async fn a_crash_while_a_folder_is_made_leaves_no_folder() {
    let machine = Machine::new();
    let control = machine.cluster(ClusterKind::Control);
    let half = machine.folder.path().join("control/.data.making");
    fs::create_dir_all(half.join("base")).unwrap();
    fs::write(half.join("PG_VERSION"), "15\n").unwrap();

    control.ensure_running().await.unwrap();

    assert!(!half.exists());
    assert_eq!(scalar::<i32>(&control, "SELECT 1").await, 1);
}

#[tokio::test]
async fn a_folder_of_another_release_is_refused_and_says_what_to_install() {
    let machine = Machine::new();
    let control = machine.cluster(ClusterKind::Control);
    fs::create_dir_all(control.folder()).unwrap();
    fs::write(control.folder().join("PG_VERSION"), "12\n").unwrap();

    let error = control.ensure_running().await.unwrap_err();

    assert!(
        matches!(error, PostgresError::WrongVersion { has: 12, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("apt install postgresql-12"), "{error}");
}

#[tokio::test]
async fn a_folder_with_something_else_in_it_is_left_alone() {
    let machine = Machine::new();
    let control = machine.cluster(ClusterKind::Control);
    fs::create_dir_all(control.folder()).unwrap();
    fs::write(control.folder().join("letter.txt"), "dear").unwrap();

    let error = control.ensure_running().await.unwrap_err();

    assert!(matches!(error, PostgresError::NotACluster { .. }), "{error}");
    assert!(control.folder().join("letter.txt").exists());
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_an_error_before_anything_is_made() {
    let mut machine = Machine::new();
    machine.settings.data = machine.folder.path().join("a-long-name".repeat(9));

    let error = machine
        .cluster(ClusterKind::Control)
        .ensure_running()
        .await
        .unwrap_err();

    assert!(
        matches!(error, PostgresError::SocketPathTooLong { .. }),
        "{error}"
    );
    assert!(!machine.settings.data.exists());
}

#[tokio::test]
async fn postgresql_as_root_is_refused_with_the_reason() {
    let mut machine = Machine::new();
    machine.settings.run_as = Some((0, 0));

    let error = machine
        .cluster(ClusterKind::Control)
        .ensure_running()
        .await
        .unwrap_err();

    assert!(matches!(error, PostgresError::Root), "{error}");
}

#[tokio::test]
async fn a_start_that_fails_gives_postgresqls_reason() {
    let machine = Machine::new();
    let control = machine.cluster(ClusterKind::Control);
    control.ensure_running().await.unwrap();
    control.stop().await.unwrap();
    fs::write(control.folder().join("local.conf"), "shared_buffers = 'much'\n").unwrap();

    let error = control.ensure_running().await.unwrap_err();

    assert!(error.to_string().contains("shared_buffers"), "{error}");
}

#[tokio::test]
async fn only_the_system_user_and_root_are_the_superuser() {
    let machine = Machine::new();
    let control = machine.cluster(ClusterKind::Control);
    control.ensure_running().await.unwrap();

    // A user who has reached the socket. Normally the folder's mode prevents that.
    let output = Command::new("psql")
        .args([
            "-h",
            control.socket_folder().to_str().unwrap(),
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-c",
            "SELECT 1",
        ])
        .output()
        .unwrap();

    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no pg_hba.conf entry"));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(control.socket_folder()).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o700);
}
