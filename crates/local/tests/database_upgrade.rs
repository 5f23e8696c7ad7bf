//! Upgrade of a data folder whose projects share one cluster, as earlier releases made it. Needs root.

mod machine;
mod servers;

use std::sync::Arc;

use fsa_driver::{Databases as _, ObservedDatabase, scram};
use fsa_local::postgres::{Cluster, ClusterKind, Settings};
use fsa_model::DatabaseSpec;
use machine::Machine;
use servers::{Servers, close, run, spec, value};
use sqlx::{Connection as _, PgConnection};

/// A data folder of an earlier release: its shared cluster runs.
struct Before {
    world: Servers,
    cluster: Cluster,
    settings: Settings,
}

impl Before {
    async fn new() -> Self {
        let world = Servers::new().await;
        let settings = Settings {
            data: world.folder().to_owned(),
            bin: None,
            run_as: Machine::new().settings.run_as,
        };
        // As `fsa serve` has it: its user owns the folders, and may enter the data folder.
        if let Some((uid, gid)) = settings.run_as {
            for name in ["run", "logs", "projects"] {
                let folder = world.folder().join(name);
                std::fs::create_dir_all(&folder).unwrap();
                std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).unwrap();
            }
        }
        let cluster = Cluster::new(ClusterKind::Projects, settings.clone());
        cluster.ensure_running().await.unwrap();
        Self {
            world,
            cluster,
            settings,
        }
    }

    /// A project's role and database in the old form.
    async fn database(&self, name: &str) -> DatabaseSpec {
        let spec = spec(name);
        let mut superuser = self.cluster.connect("postgres").await.unwrap();
        let (role, project, verifier) = (spec.role(), spec.project, scram::verifier(&spec.password));
        for statement in [
            format!("CREATE ROLE {role} LOGIN NOSUPERUSER CONNECTION LIMIT 20 PASSWORD '{verifier}'"),
            format!("COMMENT ON ROLE {role} IS 'fsa project {project}'"),
            format!("ALTER ROLE {role} SET log_min_messages = fatal"),
            format!("CREATE DATABASE {role} OWNER {role}"),
            format!("REVOKE ALL ON DATABASE {role} FROM PUBLIC"),
        ] {
            run(&mut superuser, statement).await.unwrap();
        }
        close(superuser).await;
        spec
    }

    async fn sign_in(&self, spec: &DatabaseSpec) -> sqlx::Result<PgConnection> {
        use secrecy::ExposeSecret as _;
        let options = self
            .cluster
            .connect_options(&spec.role())
            .username(&spec.role())
            .password(spec.password.expose_secret());
        PgConnection::connect_with(&options).await
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        if let Some(pid) = machine::server_process(self.cluster.folder()) {
            machine::end_process(pid, rustix::process::Signal::QUIT);
        }
    }
}

#[tokio::test]
async fn every_database_is_moved_whole_and_the_shared_cluster_is_kept_aside() {
    let before = Before::new().await;
    let (ada, bob) = (before.database("ada").await, before.database("bob").await);
    let mut adas = before.sign_in(&ada).await.unwrap();
    for statement in [
        "CREATE TABLE items (id serial PRIMARY KEY, name text)",
        "INSERT INTO items (name) SELECT 'item ' || n FROM generate_series(1, 1000) n",
        "CREATE INDEX ON items (name)",
        "CREATE SCHEMA other",
        "CREATE VIEW other.first AS SELECT * FROM items WHERE id = 1",
        "CREATE MATERIALIZED VIEW other.counted AS SELECT count(*) FROM items",
    ] {
        run(&mut adas, statement).await.unwrap();
    }
    let databases = &before.world.databases;

    databases.prepare_upgrade(&before.settings).await.unwrap();
    // What is not moved yet is no lost database, and can be asked about.
    for spec in [&ada, &bob] {
        assert_eq!(databases.observe(spec).await.unwrap(), ObservedDatabase::Ready);
        databases.ensure(spec).await.unwrap();
    }
    assert_eq!(databases.inventory().await.unwrap(), [ada.role(), bob.role()]);
    // A connection starts the move of its own database.
    let mut moved = before.world.sign_in(&ada).await;
    databases.upgrade_all().await;

    assert_eq!(
        value(&mut moved, "SELECT count(*)::text FROM items").await,
        "1000"
    );
    assert_eq!(value(&mut moved, "SELECT name FROM other.first").await, "item 1");
    assert_eq!(
        value(&mut moved, "SELECT count::text FROM other.counted").await,
        "1000"
    );
    run(&mut moved, "INSERT INTO items (name) VALUES ('later')")
        .await
        .unwrap();
    let owner = "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 'items'";
    assert_eq!(value(&mut moved, owner).await, ada.role());
    close(before.world.sign_in(&bob).await).await;
    assert!(
        run(&mut adas, "SELECT 1").await.is_err(),
        "nothing is written to the old one"
    );
    let projects = before.world.folder().join("projects");
    assert!(projects.join("data.moved-to-volumes/PG_VERSION").is_file());
    assert!(!projects.join("data").exists());
    for spec in [&ada, &bob] {
        // The limits of the project follow.
        databases.ensure(spec).await.unwrap();
        assert_eq!(databases.observe(spec).await.unwrap(), ObservedDatabase::Ready);
    }
}

#[tokio::test]
async fn a_move_that_was_interrupted_starts_again_and_one_that_is_done_does_not() {
    let before = Before::new().await;
    let (ada, bob) = (before.database("ada").await, before.database("bob").await);
    let mut bobs = before.sign_in(&bob).await.unwrap();
    run(&mut bobs, "CREATE TABLE t AS SELECT generate_series(1, 100) AS n")
        .await
        .unwrap();
    let databases = &before.world.databases;
    databases.prepare_upgrade(&before.settings).await.unwrap();
    let mut moved = before.world.sign_in(&ada).await;
    run(&mut moved, "CREATE TABLE made_after_the_move ()")
        .await
        .unwrap();
    // A part of a move: the server exists, with something in it.
    let half = before.world.databases.clone();
    let work = tokio::spawn(async move { half.start_server(bob.volume).await });
    while before.world.process(bob.volume).is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    work.abort();
    let _ = work.await;

    // A new `fsa serve` on the same folder.
    let again = fsa_local::project_databases::ProjectDatabases::open(
        before.world.folder(),
        Arc::clone(&before.world.client),
        fsa_local::project_databases::IDLE_STOP,
    )
    .unwrap();
    again.prepare_upgrade(&before.settings).await.unwrap();
    again.upgrade_all().await;

    close(before.world.sign_in(&ada).await).await;
    let mut adas = before.world.connect(&ada, &ada.role()).await.unwrap();
    assert_eq!(
        value(&mut adas, "SELECT count(*)::text FROM made_after_the_move").await,
        "0"
    );
    again.start_server(bob.volume).await.unwrap();
    let mut bobs = before.world.connect(&bob, &bob.role()).await.unwrap();
    assert_eq!(value(&mut bobs, "SELECT count(*)::text FROM t").await, "100");
    run(&mut bobs, "INSERT INTO t VALUES (101)").await.unwrap();
    // The first `fsa serve`, which does not know that, moves nothing a second time.
    databases.start_server(bob.volume).await.unwrap();
    assert_eq!(value(&mut bobs, "SELECT count(*)::text FROM t").await, "101");
}

#[tokio::test]
async fn a_database_that_is_dropped_before_its_move_is_not_moved() {
    let before = Before::new().await;
    let ada = before.database("ada").await;
    let databases = &before.world.databases;
    databases.prepare_upgrade(&before.settings).await.unwrap();

    databases.as_ref().drop(&ada).await.unwrap();
    databases.upgrade_all().await;

    assert_eq!(databases.observe(&ada).await.unwrap(), ObservedDatabase::Absent);
    assert!(databases.inventory().await.unwrap().is_empty());
}
