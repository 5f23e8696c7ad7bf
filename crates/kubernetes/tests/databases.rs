//! Project databases on a PostgreSQL server pass the conformance suite of every driver's databases. The server is a
//! real one that the test starts; no Kubernetes is needed.

#[path = "../../local/tests/machine/mod.rs"]
mod machine;

use std::sync::Arc;

use async_trait::async_trait;
use fsa_driver::{Databases, ObservedDatabase, SharedDatabases, SharedDriver};
use fsa_driver_testing::{
    conformance::{World, run_story, stories},
    memory,
};
use fsa_kubernetes::{databases::postgres::PostgresDatabases, settings};
use fsa_model::{DatabaseSpec, Image, ProjectId, ProjectName, ResourceName, SandboxRef, Size, VolumeId};
use machine::Machine;
use secrecy::ExposeSecret as _;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};

struct Server {
    databases: Arc<PostgresDatabases>,
    settings: settings::Databases,
    admin: PgConnectOptions,
    _machine: Machine,
}

impl Server {
    async fn new() -> Self {
        let machine = Machine::new();
        let cluster = machine.projects().await;
        let admin = cluster.connect_options("postgres");
        let settings = settings::Databases {
            dsn: Some(admin.to_url_lossy().to_string().into()),
            ..settings::Databases::default()
        };
        Self {
            databases: Arc::new(PostgresDatabases::new(&settings).unwrap()),
            settings,
            admin,
            _machine: machine,
        }
    }

    /// How many sessions in a database have ended.
    async fn sessions(&self, database: &DatabaseSpec) -> i64 {
        let mut connection = PgConnection::connect_with(&self.admin).await.unwrap();
        sqlx::query_scalar("SELECT sessions FROM pg_stat_database WHERE datname = $1")
            .bind(database.role())
            .fetch_one(&mut connection)
            .await
            .unwrap()
    }

    async fn sign_in(&self, database: &DatabaseSpec) -> Result<PgConnection, String> {
        let options = self
            .admin
            .clone()
            .database(&database.role())
            .username(&database.role())
            .password(database.password.expose_secret());
        PgConnection::connect_with(&options)
            .await
            .map_err(|error| error.to_string())
    }
}

#[async_trait]
impl World for Server {
    fn driver(&self) -> SharedDriver {
        memory::MemoryDriver::new()
    }

    fn databases(&self) -> Option<SharedDatabases> {
        Some(self.databases.clone())
    }

    fn image(&self) -> Image {
        Image::Template("web".into())
    }

    fn missing_image(&self) -> Image {
        Image::Template("none".into())
    }

    fn echo_command(&self, _: u16) -> String {
        String::new()
    }

    async fn kill(&self, _: &SandboxRef) {}

    async fn insert_row(&self, database: &DatabaseSpec, text: &str) -> Result<(), String> {
        let mut connection = self.sign_in(database).await?;
        let failed = |error: sqlx::Error| error.to_string();
        sqlx::raw_sql("CREATE TABLE IF NOT EXISTS marks (n serial PRIMARY KEY, mark text)")
            .execute(&mut connection)
            .await
            .map_err(failed)?;
        sqlx::query("INSERT INTO marks (mark) VALUES ($1)")
            .bind(text)
            .execute(&mut connection)
            .await
            .map_err(failed)?;
        connection.close().await.map_err(failed)
    }

    async fn select_rows(&self, database: &DatabaseSpec) -> Result<Vec<String>, String> {
        let mut connection = self.sign_in(database).await?;
        sqlx::query_scalar("SELECT mark FROM marks ORDER BY n")
            .fetch_all(&mut connection)
            .await
            .map_err(|error| error.to_string())
    }
}

fn database() -> DatabaseSpec {
    let project = ProjectId::generate();
    DatabaseSpec {
        project,
        volume: VolumeId::of_main(project),
        resource: ResourceName::generate(&ProjectName::parse("data").unwrap()),
        password: "a password".to_owned().into(),
        resources: Size::Micro.resources(),
    }
}

#[tokio::test]
async fn ensuring_a_database_again_keeps_its_rows() {
    let server = Server::new().await;
    run_story(&server, |fixture| {
        Box::pin(stories::ensuring_a_database_again_keeps_its_rows(fixture))
    })
    .await;
}

#[tokio::test]
async fn dropping_a_database_keeps_other_databases() {
    let server = Server::new().await;
    run_story(&server, |fixture| {
        Box::pin(stories::dropping_a_database_keeps_other_databases(fixture))
    })
    .await;
}

#[tokio::test]
async fn a_branch_has_the_rows_and_is_independent_afterwards() {
    let server = Server::new().await;
    let (from, to) = (database(), database());
    server.databases.ensure(&from).await.unwrap();
    server.insert_row(&from, "before").await.unwrap();
    server.databases.branch(&from, &to).await.unwrap();
    assert_eq!(
        server.databases.observe(&to).await.unwrap(),
        ObservedDatabase::Ready
    );
    server.insert_row(&to, "branch").await.unwrap();
    server.insert_row(&from, "source").await.unwrap();
    assert_eq!(server.select_rows(&to).await.unwrap(), ["before", "branch"]);
    assert_eq!(server.select_rows(&from).await.unwrap(), ["before", "source"]);
    Databases::drop(&*server.databases, &from).await.unwrap();
    assert_eq!(server.select_rows(&to).await.unwrap(), ["before", "branch"]);
    Databases::drop(&*server.databases, &to).await.unwrap();
}

#[tokio::test]
async fn a_foreign_role_of_the_same_name_is_neither_used_nor_dropped() {
    let server = Server::new().await;
    let database = database();
    let mut connection = PgConnection::connect_with(&server.admin).await.unwrap();
    let statement = format!("CREATE ROLE {} LOGIN", database.role());
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
    let refused = server.databases.ensure(&database).await.unwrap_err();
    assert!(refused.to_string().contains(&database.role()), "{refused}");
    Databases::drop(&*server.databases, &database).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_roles WHERE rolname = $1")
        .bind(database.role())
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn an_observation_after_a_recent_sign_in_does_not_sign_in_again() {
    let server = Server::new().await;
    let database = database();
    server.databases.ensure(&database).await.unwrap();
    let sessions = async || {
        // Statistics of a connection are reported when it ends, so this waits for its own connection.
        server.sign_in(&database).await.unwrap().close().await.unwrap();
        server.sessions(&database).await
    };
    let before = sessions().await;
    for _ in 0..5 {
        let observed = server.databases.observe(&database).await.unwrap();
        assert_eq!(observed, ObservedDatabase::Ready);
    }
    assert!(sessions().await <= before + 2, "each observation signed in");
    // The database's existence is observed each time.
    let statement = format!("DROP DATABASE {} WITH (FORCE)", database.role());
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut PgConnection::connect_with(&server.admin).await.unwrap())
        .await
        .unwrap();
    assert_eq!(
        server.databases.observe(&database).await.unwrap(),
        ObservedDatabase::Partial
    );
}

#[tokio::test]
async fn only_the_first_of_several_new_databases_is_signed_in_to() {
    let server = Server::new().await;
    let (first, second) = (database(), database());
    server.databases.ensure(&first).await.unwrap();

    server.databases.ensure(&second).await.unwrap();

    let observed = server.databases.observe(&second).await.unwrap();
    assert_eq!(observed, ObservedDatabase::Ready);
    assert_eq!(server.sessions(&second).await, 0);
    server.sign_in(&second).await.unwrap();
}

#[tokio::test]
async fn waiting_for_a_permit_while_the_server_is_busy_is_no_failure() {
    let server = Server::new().await;
    let mut holder = PgConnection::connect_with(&server.admin).await.unwrap();
    // A new role gets a comment, which the lock delays.
    sqlx::raw_sql("BEGIN; LOCK TABLE pg_catalog.pg_shdescription IN SHARE MODE")
        .execute(&mut holder)
        .await
        .unwrap();
    // More than there are connections.
    let all = futures_util::future::join_all((0..9).map(|_| {
        let databases = Arc::clone(&server.databases);
        async move { databases.ensure(&database()).await }
    }));
    let busy = async {
        // An observation need not wait for them.
        let absent = database();
        let observe = server.databases.observe(&absent);
        let observed = tokio::time::timeout(std::time::Duration::from_secs(30), observe).await;
        assert_eq!(observed.unwrap().unwrap(), ObservedDatabase::Absent);
        // Longer than the pool's timeout of 5 s for a connection. Real time: the server is a separate process, and a
        // paused clock would expire the timeouts of connections that are in use.
        tokio::time::sleep(std::time::Duration::from_secs(6)).await;
        sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    };
    let (all, ()) = tokio::join!(all, busy);
    for outcome in all {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn a_changed_password_is_repaired() {
    let server = Server::new().await;
    let database = database();
    server.databases.ensure(&database).await.unwrap();
    let mut connection = PgConnection::connect_with(&server.admin).await.unwrap();
    let statement = format!("ALTER ROLE {} PASSWORD 'other'", database.role());
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
    // Acts as another control plane, or as this one at its next verification: until then its own sign-in is cached.
    let later = PostgresDatabases::new(&server.settings).unwrap();
    assert_eq!(later.observe(&database).await.unwrap(), ObservedDatabase::Partial);
    later.ensure(&database).await.unwrap();
    assert_eq!(later.observe(&database).await.unwrap(), ObservedDatabase::Ready);
    server.sign_in(&database).await.unwrap();
}
