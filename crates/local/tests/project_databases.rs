//! Stories of project databases: one PostgreSQL server per volume, with the real runtime and a real
//! PostgreSQL. They need root, like `fsa serve` for sandboxes.

mod machine;
mod servers;

use std::time::Duration;

use fsa_driver::{Databases as _, ObservedDatabase};
use fsa_local::protocol::{Request, StopWhen};
use fsa_model::{DatabaseSpec, Size};
use secrecy::ExposeSecret as _;
use servers::{Servers, close, code, run, spec, value};
use tokio::time::Instant;

async fn stop(world: &Servers, spec: &DatabaseSpec) {
    let request = Request::StopDatabase {
        volume: spec.volume,
        when: StopWhen::Always,
    };
    world
        .client
        .call(request, &[], Duration::from_secs(90))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_database_is_prepared_without_a_server_used_by_its_owner_and_dropped() {
    let world = Servers::new().await;
    let spec = spec("todo-app");
    assert_eq!(
        world.databases.observe(&spec).await.unwrap(),
        ObservedDatabase::Absent
    );

    world.databases.ensure(&spec).await.unwrap();
    world.databases.ensure(&spec).await.unwrap();

    assert_eq!(
        world.databases.observe(&spec).await.unwrap(),
        ObservedDatabase::Ready
    );
    assert!(!world.runs(&spec).await, "nothing was started for it");
    assert_eq!(world.databases.inventory().await.unwrap(), [spec.role()]);
    let begun = Instant::now();
    let mut owner = world.sign_in(&spec).await;
    println!("first start with the template: {:?}", begun.elapsed());
    // The statements of Prisma with `?schema=public`, and of its reset.
    for statement in [
        "CREATE TABLE public.items (id serial PRIMARY KEY, name text)",
        "INSERT INTO items (name) VALUES ('one')",
        "DROP SCHEMA public CASCADE",
        "CREATE SCHEMA public",
        "CREATE SCHEMA other",
    ] {
        run(&mut owner, statement).await.unwrap();
    }
    let empty = 1 << 20;
    let disk = world.databases.disk(&spec.resource).await.unwrap();
    assert!(disk.is_some_and(|bytes| bytes > empty), "{disk:?}");
    // The owner is still connected.
    world.databases.as_ref().drop(&spec).await.unwrap();
    world.databases.as_ref().drop(&spec).await.unwrap();
    assert_eq!(
        world.databases.observe(&spec).await.unwrap(),
        ObservedDatabase::Absent
    );
    assert!(world.databases.inventory().await.unwrap().is_empty());
    assert_eq!(world.databases.disk(&spec.resource).await.unwrap(), None);
    assert!(run(&mut owner, "SELECT 1").await.is_err());
    let credentials = world.databases.credentials(&spec).await.unwrap();
    assert_eq!((credentials.host.as_str(), credentials.port), ("127.0.0.1", 5432));
}

#[tokio::test]
async fn the_owner_is_superuser_of_a_server_that_holds_nothing_of_others() {
    let world = Servers::new().await;
    let (ada, bob) = (world.prepared("ada").await, world.prepared("bob").await);
    let mut inside = world.sign_in(&ada).await;
    close(world.sign_in(&bob).await).await;

    for statement in [
        "CREATE ROLE friend LOGIN PASSWORD 'a friend'",
        "CREATE DATABASE another",
        "CREATE EXTENSION pg_stat_statements",
        "CREATE EXTENSION hstore",
        "ALTER SYSTEM SET work_mem = '8MB'",
    ] {
        run(&mut inside, statement).await.unwrap();
    }
    close(world.connect(&ada, "another").await.unwrap()).await;

    let roles = value(
        &mut inside,
        "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname !~ '^pg_'",
    )
    .await;
    assert_eq!(roles, format!("{} friend fsa", ada.role()));
    let databases = value(
        &mut inside,
        "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database",
    )
    .await;
    assert_eq!(
        databases,
        format!("{} another postgres template0 template1", ada.role())
    );
    // Bob's password is of no use at Ada's server.
    let at_adas = DatabaseSpec {
        volume: ada.volume,
        ..bob.clone()
    };
    let error = world.connect(&at_adas, &ada.role()).await.unwrap_err();
    assert_eq!(code(&error), "28P01", "{error}");
}

#[tokio::test]
async fn programs_of_a_superuser_see_no_network_and_no_file_but_the_servers_own() {
    let world = Servers::new().await;
    let (ada, bob) = (world.prepared("ada").await, world.prepared("bob").await);
    let mut inside = world.sign_in(&ada).await;
    let mut bobs = world.sign_in(&bob).await;
    run(&mut bobs, "CREATE TABLE secrets AS SELECT 'of bob' AS x")
        .await
        .unwrap();
    run(&mut inside, "CREATE TABLE output (line text)").await.unwrap();
    let mut program = async |command: &str| {
        run(&mut inside, "TRUNCATE output").await.unwrap();
        run(
            &mut inside,
            format!("COPY output FROM PROGRAM '{command} 2>&1 || true'"),
        )
        .await
        .unwrap();
        value(&mut inside, "SELECT string_agg(line, E'\\n') FROM output").await
    };

    assert_eq!(program("id -u").await, "999");
    // The loopback alone.
    let interfaces = program("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d \" \"").await;
    assert_eq!(interfaces, "lo");
    assert_eq!(
        program("grep CapBnd /proc/self/status | cut -f2").await,
        "0000000000000000"
    );
    assert_eq!(program("grep NoNewPrivs /proc/self/status | cut -f2").await, "1");
    let top = program("ls -m /").await;
    for hidden in ["home", "root", "opt", "srv", "mnt"] {
        assert!(!top.split(", ").any(|name| name == hidden), "{top}");
    }
    // One socket and one data folder.
    assert_eq!(
        program("ls -A /run/postgresql/* | grep -v lock").await,
        ".s.PGSQL.5432"
    );
    let processes = program("ls /proc | grep -c ^[0-9]").await;
    assert!(processes.parse::<u32>().unwrap() < 20, "{processes}");
    assert!(program("touch /usr/x").await.contains("Read-only file system"));
    assert!(
        program("cd /run/postgresql/* && touch x")
            .await
            .contains("Permission denied")
    );
    assert!(program("touch /etc/postgresql/x").await.contains("Read-only"));
    assert!(program("unshare -Ur true").await.contains("not permitted"));
}

#[tokio::test]
async fn drift_of_role_and_database_is_repaired_at_the_next_start() {
    let world = Servers::new().await;
    let spec = world.prepared("drifter").await;
    close(world.sign_in(&spec).await).await;
    let role = spec.role();
    for change in [
        format!("ALTER ROLE {role} PASSWORD 'their own'"),
        format!("ALTER ROLE {role} NOLOGIN"),
        format!("ALTER ROLE {role} NOSUPERUSER"),
        format!("COMMENT ON ROLE {role} IS NULL"),
        format!("ALTER DATABASE {role} ALLOW_CONNECTIONS false"),
        format!("ALTER DATABASE {role} CONNECTION LIMIT 0"),
        format!("DROP DATABASE {role} WITH (FORCE)"),
        // The state after an interrupted drop.
        format!("UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{role}'"),
    ] {
        let mut superuser = world.as_superuser(&spec, "postgres").await;
        run(&mut superuser, change.as_str()).await.unwrap();
        close(superuser).await;
        stop(&world, &spec).await;

        let mut owner = world.sign_in(&spec).await;

        assert_eq!(
            value(&mut owner, "SELECT current_user::text").await,
            role,
            "{change}"
        );
        close(owner).await;
    }
}

#[tokio::test]
async fn a_new_password_is_taken_at_once_where_the_server_runs_and_later_where_not() {
    let world = Servers::new().await;
    let spec = world.prepared("rotating").await;
    close(world.sign_in(&spec).await).await;
    for (password, stopped) in [("second p@ss", false), ("third p@ss", true)] {
        let rotated = DatabaseSpec {
            password: password.into(),
            ..spec.clone()
        };
        if stopped {
            stop(&world, &spec).await;
        }
        assert_eq!(
            world.databases.observe(&rotated).await.unwrap(),
            ObservedDatabase::Partial
        );

        world.databases.ensure(&rotated).await.unwrap();

        assert_eq!(
            world.databases.observe(&rotated).await.unwrap(),
            ObservedDatabase::Ready
        );
        close(world.sign_in(&rotated).await).await;
        let error = world.connect(&spec, &spec.role()).await.unwrap_err();
        assert_eq!(code(&error), "28P01", "{error}");
    }
}

#[tokio::test]
async fn lost_files_are_reported_and_an_empty_database_takes_their_place() {
    let world = Servers::new().await;
    let spec = world.prepared("loser").await;
    close(world.sign_in(&spec).await).await;
    stop(&world, &spec).await;
    std::fs::remove_dir_all(world.files(&spec).join("data")).unwrap();

    assert_eq!(
        world.databases.observe(&spec).await.unwrap(),
        ObservedDatabase::Absent
    );
    let error = world.databases.start_server(spec.volume).await.unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");

    world.databases.ensure(&spec).await.unwrap();

    assert_eq!(
        world.databases.observe(&spec).await.unwrap(),
        ObservedDatabase::Ready
    );
    close(world.sign_in(&spec).await).await;
}

#[tokio::test]
async fn a_branch_is_a_copy_that_shares_nothing_with_its_source() {
    let world = Servers::new().await;
    let (from, to) = (world.prepared("source").await, spec("copy"));
    let mut source = world.sign_in(&from).await;
    run(&mut source, "CREATE TABLE t AS SELECT 1 AS n").await.unwrap();
    run(&mut source, "CREATE SCHEMA s").await.unwrap();

    world.databases.branch(&from, &to).await.unwrap();

    assert!(
        run(&mut source, "SELECT 1").await.is_err(),
        "the source's connections are ended for the copy"
    );
    for spec in [&from, &to] {
        assert_eq!(
            world.databases.observe(spec).await.unwrap(),
            ObservedDatabase::Ready
        );
        let mut inside = world.sign_in(spec).await;
        for statement in [
            "INSERT INTO t VALUES (2)",
            "DROP SCHEMA s",
            "ALTER TABLE t ADD COLUMN more int",
        ] {
            run(&mut inside, statement).await.unwrap();
        }
        close(inside).await;
    }
    world.databases.as_ref().drop(&from).await.unwrap();
    assert_eq!(world.databases.inventory().await.unwrap(), [to.role()]);
    let mut inside = world.sign_in(&to).await;
    assert_eq!(value(&mut inside, "SELECT count(more)::text FROM t").await, "0");
}

#[tokio::test]
async fn an_idle_server_is_stopped_and_the_next_start_has_its_rows() {
    let world = Servers::new().await;
    let spec = world.prepared("sleeper").await;
    let mut owner = world.sign_in(&spec).await;
    run(&mut owner, "CREATE TABLE kept AS SELECT 7 AS seven")
        .await
        .unwrap();
    let now = Instant::now();
    let later = |minutes: u64| now + Duration::from_secs(60 * minutes);
    // Connected: not idle, however long.
    world.databases.stop_idle(later(0)).await.unwrap();
    world.databases.stop_idle(later(60)).await.unwrap();
    assert!(world.runs(&spec).await);
    close(owner).await;
    // The kernel counts the connection until the server has closed its side.
    let servers = async || world.databases.servers().await.unwrap();
    while servers().await[0].connections > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    world.databases.stop_idle(later(61)).await.unwrap();
    world.databases.stop_idle(later(65)).await.unwrap();
    assert!(world.runs(&spec).await, "four minutes are too few");
    world.databases.stop_idle(later(66)).await.unwrap();

    assert!(!world.runs(&spec).await);
    assert_eq!(world.databases.server_counts().unwrap().stops, 1);
    let begun = Instant::now();
    let mut owner = world.sign_in(&spec).await;
    println!("wake: {:?}", begun.elapsed());
    assert_eq!(value(&mut owner, "SELECT seven::text FROM kept").await, "7");
}

#[tokio::test]
async fn a_server_that_is_used_again_while_it_is_found_idle_is_not_stopped() {
    let world = Servers::new().await;
    let spec = world.prepared("awake").await;
    let mut owner = world.sign_in(&spec).await;

    let request = Request::StopDatabase {
        volume: spec.volume,
        when: StopWhen::Unused,
    };
    let answer = world
        .client
        .call(request, &[], Duration::from_secs(90))
        .await
        .unwrap()
        .0;

    assert_eq!(answer, fsa_local::protocol::Response::Stopped { stopped: false });
    run(&mut owner, "SELECT 1").await.unwrap();
    // New clients are still let in.
    close(world.connect(&spec, &spec.role()).await.unwrap()).await;
}

#[tokio::test]
async fn a_server_that_was_killed_comes_back_with_what_was_committed() {
    let world = Servers::new().await;
    let spec = world.prepared("survivor").await;
    let mut owner = world.sign_in(&spec).await;
    run(&mut owner, "CREATE TABLE kept AS SELECT 7 AS seven")
        .await
        .unwrap();
    world.kill(&spec).await;
    assert!(run(&mut owner, "SELECT 1").await.is_err());
    assert_eq!(
        world.databases.observe(&spec).await.unwrap(),
        ObservedDatabase::Ready
    );

    let mut owner = world.sign_in(&spec).await;

    assert_eq!(value(&mut owner, "SELECT seven::text FROM kept").await, "7");
}

#[tokio::test]
async fn a_server_outlives_fsa_serve_and_its_runner_and_is_found_again() {
    let world = Servers::new().await;
    let spec = world.prepared("patient").await;
    let mut owner = world.sign_in(&spec).await;
    let process = world.process(spec.volume);
    let data = world.end().await;
    run(&mut owner, "CREATE TABLE kept AS SELECT 7 AS seven")
        .await
        .unwrap();

    let world = Servers::open(data).await;

    assert_eq!(world.process(spec.volume), process);
    assert!(world.runs(&spec).await);
    run(&mut owner, "SELECT 1").await.unwrap();
    close(world.sign_in(&spec).await).await;
    // The new runner has it in hand: a stop ends it.
    stop(&world, &spec).await;
    assert!(run(&mut owner, "SELECT 1").await.is_err());
}

#[tokio::test]
async fn fifty_at_once_are_all_prepared_and_one_is_started_once() {
    let world = Servers::new().await;
    let specs: Vec<_> = (0..50).map(|_| spec("crowd")).collect();
    let begun = Instant::now();

    let prepared = specs.iter().map(|spec| world.databases.ensure(spec));
    for result in futures_util::future::join_all(prepared).await {
        result.unwrap();
    }

    println!("50 prepared in {:?}", begun.elapsed());
    assert_eq!(world.databases.inventory().await.unwrap().len(), 50);
    let starts = (0..20).map(|_| world.databases.start_server(specs[0].volume));
    for result in futures_util::future::join_all(starts).await {
        result.unwrap();
    }
    let counts = world.databases.server_counts().unwrap();
    assert_eq!((counts.starts, counts.running), (1, 1));
}

#[tokio::test]
async fn a_query_that_takes_all_memory_ends_itself_and_no_other_server() {
    let world = Servers::new().await;
    let small = DatabaseSpec {
        resources: Size::Micro.resources(),
        ..spec("greedy")
    };
    world.databases.ensure(&small).await.unwrap();
    let other = world.prepared("other").await;
    let (mut greedy, mut others) = (world.sign_in(&small).await, world.sign_in(&other).await);

    // 400 MB, in a server that may have 128 MiB.
    let failed = run(
        &mut greedy,
        "SELECT length(string_agg(repeat('x', 1000), '')) FROM generate_series(1, 400000)",
    )
    .await;

    assert!(failed.is_err());
    run(&mut others, "SELECT 1").await.unwrap();
    // PostgreSQL ends all of its connections and recovers by itself, or is started again.
    let back = async {
        loop {
            let _ = world.databases.start_server(small.volume).await;
            if world.connect(&small, &small.role()).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), back)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_password_is_in_no_log_and_a_failed_statement_is_in_the_projects_own() {
    let world = Servers::new().await;
    let spec = world.prepared("discreet").await;
    let mut owner = world.sign_in(&spec).await;
    run(&mut owner, "SELECT mistake").await.unwrap_err();

    let log = world.databases.log(spec.volume).await.unwrap().unwrap();

    assert!(log.contains("column \"mistake\" does not exist"), "{log}");
    assert!(!log.contains(spec.password.expose_secret()));
}
