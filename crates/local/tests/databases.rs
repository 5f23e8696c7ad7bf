//! Project database tests, in a real projects cluster.

mod machine;

use std::{sync::Arc, time::Instant};

use fsa_driver::{Databases as _, ObservedDatabase};
use fsa_local::{databases::LocalDatabases, postgres::Cluster};
use fsa_model::{DatabaseSpec, ProjectId, ProjectName, ResourceName, Size, VolumeId};
use machine::Machine;
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

fn spec(name: &str) -> DatabaseSpec {
    let project = ProjectId::generate();
    DatabaseSpec {
        project,
        volume: VolumeId::of_main(project),
        resource: ResourceName::generate(&ProjectName::parse(name).unwrap()),
        password: format!("secret of {name} p@ss/word").into(),
        resources: Size::default().resources(),
    }
}

async fn sign_in(cluster: &Cluster, user: &DatabaseSpec, database: &str) -> sqlx::Result<PgConnection> {
    let options = cluster
        .connect_options(database)
        .username(&user.role())
        .password(user.password.expose_secret());
    PgConnection::connect_with(&options).await
}

async fn run(connection: &mut PgConnection, statement: impl Into<String>) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement.into()))
        .execute(connection)
        .await
        .map(drop)
}

async fn as_superuser(cluster: &Cluster, database: &str, statement: impl Into<String>) {
    let mut connection = cluster.connect(database).await.unwrap();
    run(&mut connection, statement).await.unwrap();
    connection.close().await.unwrap();
}

async fn count(cluster: &Cluster, query: &'static str) -> i64 {
    let mut connection = cluster.connect("postgres").await.unwrap();
    sqlx::query_scalar(query)
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

fn code(error: &sqlx::Error) -> String {
    error
        .as_database_error()
        .and_then(|e| e.code())
        .unwrap_or_default()
        .into_owned()
}

#[tokio::test]
async fn a_database_is_made_used_by_its_owner_and_dropped() {
    let machine = Machine::new();
    let cluster = machine.projects().await;
    let databases = LocalDatabases::new(cluster.clone());
    let spec = spec("todo-app");
    assert_eq!(databases.observe(&spec).await.unwrap(), ObservedDatabase::Absent);

    databases.ensure(&spec).await.unwrap();
    databases.ensure(&spec).await.unwrap();

    assert_eq!(databases.observe(&spec).await.unwrap(), ObservedDatabase::Ready);
    assert_eq!(databases.inventory().await.unwrap(), [spec.role()]);
    let mut owner = sign_in(&cluster, &spec, &spec.role()).await.unwrap();
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
    let resource = &spec.resource;
    let empty = 1 << 20;
    assert!(
        databases
            .disk(resource)
            .await
            .unwrap()
            .is_some_and(|bytes| bytes > empty)
    );
    // The owner is still connected.
    databases.drop(&spec).await.unwrap();
    databases.drop(&spec).await.unwrap();
    assert_eq!(databases.observe(&spec).await.unwrap(), ObservedDatabase::Absent);
    assert!(databases.inventory().await.unwrap().is_empty());
    assert_eq!(databases.disk(resource).await.unwrap(), None);
    assert!(run(&mut owner, "SELECT 1").await.is_err());
    let credentials = databases.credentials(&spec).await.unwrap();
    assert_eq!((credentials.host.as_str(), credentials.port), ("127.0.0.1", 5432));
}

#[tokio::test]
async fn a_role_gets_into_no_database_but_its_own_and_is_no_more_than_a_plain_role() {
    let machine = Machine::new();
    let cluster = machine.projects().await;
    let databases = LocalDatabases::new(cluster.clone());
    let (ada, bob) = (spec("ada"), spec("bob"));
    databases.ensure(&ada).await.unwrap();
    databases.ensure(&bob).await.unwrap();

    for other in [bob.role().as_str(), "postgres", "template1", "fsa_template_1"] {
        let error = sign_in(&cluster, &ada, other).await.unwrap_err();
        assert_eq!(code(&error), "28000", "{other}: {error}");
    }
    let wrong = DatabaseSpec {
        password: "guess".into(),
        ..ada.clone()
    };
    assert_eq!(
        code(&sign_in(&cluster, &wrong, &ada.role()).await.unwrap_err()),
        "28P01"
    );

    let mut inside = sign_in(&cluster, &ada, &ada.role()).await.unwrap();
    for statement in [
        "CREATE ROLE friend".to_owned(),
        "CREATE DATABASE another".to_owned(),
        format!("SET ROLE {}", bob.role()),
        "SET ROLE fsa".to_owned(),
        format!("DROP DATABASE {}", bob.role()),
        "SELECT rolpassword FROM pg_authid".to_owned(),
        "SELECT pg_read_file('/etc/passwd')".to_owned(),
        "COPY (SELECT 1) TO PROGRAM 'id'".to_owned(),
        "ALTER SYSTEM SET port = 1".to_owned(),
        format!("COMMENT ON ROLE {} IS 'nobody''s'", ada.role()),
        "SET log_min_messages = debug5".to_owned(),
    ] {
        let error = run(&mut inside, statement.as_str()).await.unwrap_err();
        assert_eq!(code(&error), "42501", "{statement}: {error}");
    }
    let limit = count(
        &cluster,
        "SELECT rolconnlimit::int8 FROM pg_roles WHERE rolname LIKE 'ada%'",
    )
    .await;
    assert_eq!(limit, 20);
}

#[tokio::test]
async fn drift_is_detected_and_repaired() {
    let machine = Machine::new();
    let cluster = machine.projects().await;
    let databases = LocalDatabases::new(cluster.clone());
    let spec = spec("drifter");
    databases.ensure(&spec).await.unwrap();
    let role = spec.role();
    for change in [
        format!("ALTER ROLE {role} PASSWORD 'their own'"),
        format!("ALTER ROLE {role} NOLOGIN"),
        format!("ALTER ROLE {role} CREATEDB"),
        format!("ALTER DATABASE {role} ALLOW_CONNECTIONS false"),
        format!("ALTER DATABASE {role} CONNECTION LIMIT 0"),
        format!("GRANT CONNECT ON DATABASE {role} TO PUBLIC"),
        format!("DROP DATABASE {role}"),
        // The state after an interrupted drop.
        format!("UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{role}'"),
    ] {
        as_superuser(&cluster, "postgres", change.as_str()).await;
        assert_eq!(
            databases.observe(&spec).await.unwrap(),
            ObservedDatabase::Partial,
            "{change}"
        );

        databases.ensure(&spec).await.unwrap();

        assert_eq!(
            databases.observe(&spec).await.unwrap(),
            ObservedDatabase::Ready,
            "{change}"
        );
        sign_in(&cluster, &spec, &role).await.unwrap();
    }
}

#[tokio::test]
async fn a_foreign_role_or_database_is_neither_used_nor_dropped() {
    let machine = Machine::new();
    let cluster = machine.projects().await;
    let databases = LocalDatabases::new(cluster.clone());
    let (database, role, other) = (spec("aaa"), spec("bbb"), spec("ccc"));
    as_superuser(
        &cluster,
        "postgres",
        format!("CREATE DATABASE {}", database.role()),
    )
    .await;
    as_superuser(&cluster, "postgres", format!("CREATE ROLE {}", role.role())).await;
    databases.ensure(&other).await.unwrap();
    let impostor = DatabaseSpec {
        project: ProjectId::generate(),
        ..other.clone()
    };

    for spec in [&database, &role, &impostor] {
        let error = databases.ensure(spec).await.unwrap_err();
        assert!(
            error.to_string().contains("did not make for this project"),
            "{error}"
        );
        databases.drop(spec).await.unwrap();
    }

    assert_eq!(
        count(
            &cluster,
            "SELECT count(*) FROM pg_database WHERE datname ~ '^(aaa|ccc)'"
        )
        .await,
        2
    );
    assert_eq!(
        count(
            &cluster,
            "SELECT count(*) FROM pg_roles WHERE rolname ~ '^(bbb|ccc)'"
        )
        .await,
        2
    );
}

#[tokio::test]
async fn ensure_continues_from_any_point_of_a_crash() {
    let machine = Machine::new();
    let cluster = machine.projects().await;
    let databases = Arc::new(LocalDatabases::new(cluster.clone()));
    // Each step drops the future a moment later than the one before.
    for step in 0..12_u64 {
        let spec = spec("crashed");
        let work = {
            let (databases, spec) = (databases.clone(), spec.clone());
            tokio::spawn(async move { databases.ensure(&spec).await })
        };
        tokio::time::sleep(std::time::Duration::from_millis(step * 4)).await;
        work.abort();
        let _ = work.await;

        databases.ensure(&spec).await.unwrap();

        assert_eq!(databases.observe(&spec).await.unwrap(), ObservedDatabase::Ready);
        sign_in(&cluster, &spec, &spec.role()).await.unwrap();
    }
}

#[tokio::test]
async fn concurrent_creations_of_one_database_both_succeed() {
    let machine = Machine::new();
    let cluster = machine.projects().await;
    let (one, two) = (
        LocalDatabases::new(cluster.clone()),
        LocalDatabases::new(cluster.clone()),
    );
    let spec = spec("twice");

    let (first, second) = tokio::join!(one.ensure(&spec), two.ensure(&spec));

    first.unwrap();
    second.unwrap();
    assert_eq!(one.observe(&spec).await.unwrap(), ObservedDatabase::Ready);
}

#[tokio::test]
async fn a_branch_is_a_copy_that_shares_nothing_with_its_source() {
    let machine = Machine::new();
    let cluster = machine.projects().await;
    let databases = LocalDatabases::new(cluster.clone());
    let (from, to) = (spec("source"), spec("copy"));
    databases.ensure(&from).await.unwrap();
    let mut source = sign_in(&cluster, &from, &from.role()).await.unwrap();
    run(&mut source, "CREATE TABLE t AS SELECT 1 AS n; CREATE SCHEMA s; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC").await.unwrap();

    databases.branch(&from, &to).await.unwrap();

    assert!(
        run(&mut source, "SELECT 1").await.is_err(),
        "the source's connections are ended for the copy"
    );
    for spec in [&from, &to] {
        assert_eq!(databases.observe(spec).await.unwrap(), ObservedDatabase::Ready);
        let mut inside = sign_in(&cluster, spec, &spec.role()).await.unwrap();
        run(
            &mut inside,
            "INSERT INTO t VALUES (2); DROP SCHEMA s; ALTER TABLE t ADD COLUMN more int",
        )
        .await
        .unwrap();
    }
    databases.drop(&from).await.unwrap();
    assert_eq!(databases.inventory().await.unwrap(), [to.role()]);
    let mut inside = sign_in(&cluster, &to, &to.role()).await.unwrap();
    run(&mut inside, "SELECT more FROM t").await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_has_died_is_restarted_by_the_next_operation() {
    let machine = Machine::new();
    let cluster = machine.projects().await;
    let databases = LocalDatabases::new(cluster.clone());
    let spec = spec("survivor");
    databases.ensure(&spec).await.unwrap();
    machine::end_process(
        machine::server_process(cluster.folder()).unwrap(),
        rustix::process::Signal::KILL,
    );

    assert_eq!(databases.observe(&spec).await.unwrap(), ObservedDatabase::Ready);
}

#[tokio::test]
async fn a_password_is_in_no_log() {
    let machine = Machine::new();
    let cluster = machine.projects().await;
    as_superuser(&cluster, "postgres", "ALTER SYSTEM SET log_statement = 'all'").await;
    as_superuser(&cluster, "postgres", "SELECT pg_reload_conf()").await;
    let databases = LocalDatabases::new(cluster.clone());
    let spec = spec("discreet");

    databases.ensure(&spec).await.unwrap();
    cluster.stop().await.unwrap();

    let log: String = std::fs::read_dir(cluster.logs())
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert!(log.contains("CREATE ROLE"), "{log}");
    assert!(!log.contains(spec.password.expose_secret()));
}

#[tokio::test]
async fn fifty_at_once_are_all_made() {
    let machine = Machine::new();
    let cluster = machine.projects().await;
    let databases = Arc::new(LocalDatabases::new(cluster));
    let mut alone = Vec::new();
    for _ in 0..20 {
        let spec = spec("alone");
        let started = Instant::now();
        databases.ensure(&spec).await.unwrap();
        alone.push(started.elapsed());
    }
    alone.sort();
    println!(
        "ensure, one after another: p50 {:?}, p95 {:?}, min {:?}",
        alone[10], alone[18], alone[0]
    );
    let specs: Vec<_> = (0..50).map(|_| spec("crowd")).collect();
    let started = Instant::now();

    let work: Vec<_> = specs
        .iter()
        .cloned()
        .map(|spec| {
            let databases = databases.clone();
            tokio::spawn(async move { databases.ensure(&spec).await })
        })
        .collect();
    for done in work {
        done.await.unwrap().unwrap();
    }

    println!("ensure, 50 at once: {:?}", started.elapsed());
    assert_eq!(databases.inventory().await.unwrap().len(), 70);
    let started = Instant::now();
    for spec in &specs[..5] {
        databases.as_ref().drop(spec).await.unwrap();
    }
    println!("drop: {:?} each", started.elapsed() / 5);
}
