//! The databases on any PostgreSQL server keep the promises of every driver's databases.
//! The server is a real one, made for the test; no Kubernetes is needed.

#[path = "../../local/tests/machine/mod.rs"]
mod machine;

use std::sync::Arc;

use async_trait::async_trait;
use fsa_driver::{
    Databases, ObservedDatabase, SharedDatabases, SharedDriver,
    conformance::{World, stories, tell},
    memory,
};
use fsa_kubernetes::{databases::postgres::PostgresDatabases, settings};
use fsa_model::{DatabaseSpec, Image, ProjectId, ProjectName, ResourceName, SandboxRef, Size};
use machine::Machine;
use secrecy::ExposeSecret as _;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};

struct Server {
    databases: Arc<PostgresDatabases>,
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
            admin,
            _machine: machine,
        }
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

    async fn mark(&self, database: &DatabaseSpec, text: &str) -> Result<(), String> {
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

    async fn marks(&self, database: &DatabaseSpec) -> Result<Vec<String>, String> {
        let mut connection = self.sign_in(database).await?;
        sqlx::query_scalar("SELECT mark FROM marks ORDER BY n")
            .fetch_all(&mut connection)
            .await
            .map_err(|error| error.to_string())
    }
}

fn database() -> DatabaseSpec {
    DatabaseSpec {
        project: ProjectId::generate(),
        resource: ResourceName::generate(&ProjectName::parse("data").unwrap()),
        password: "a password".to_owned().into(),
        resources: Size::Micro.resources(),
    }
}

#[tokio::test]
async fn a_database_is_made_once_and_keeps_what_is_in_it() {
    let server = Server::new().await;
    tell(&server, |stage| {
        Box::pin(stories::a_database_is_made_once_and_keeps_what_is_in_it(stage))
    })
    .await;
}

#[tokio::test]
async fn a_dropped_database_is_gone_and_its_neighbour_is_not() {
    let server = Server::new().await;
    tell(&server, |stage| {
        Box::pin(stories::a_dropped_database_is_gone_and_its_neighbour_is_not(
            stage,
        ))
    })
    .await;
}

#[tokio::test]
async fn a_branch_has_the_rows_and_then_goes_its_own_way() {
    let server = Server::new().await;
    let (from, to) = (database(), database());
    server.databases.ensure(&from).await.unwrap();
    server.mark(&from, "before").await.unwrap();
    server.databases.branch(&from, &to).await.unwrap();
    assert_eq!(
        server.databases.observe(&to).await.unwrap(),
        ObservedDatabase::Ready
    );
    server.mark(&to, "branch").await.unwrap();
    server.mark(&from, "source").await.unwrap();
    assert_eq!(server.marks(&to).await.unwrap(), ["before", "branch"]);
    assert_eq!(server.marks(&from).await.unwrap(), ["before", "source"]);
    Databases::drop(&*server.databases, &from).await.unwrap();
    assert_eq!(server.marks(&to).await.unwrap(), ["before", "branch"]);
    Databases::drop(&*server.databases, &to).await.unwrap();
}

#[tokio::test]
async fn what_others_have_under_the_name_is_neither_used_nor_dropped() {
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
async fn a_changed_password_is_put_right() {
    let server = Server::new().await;
    let database = database();
    server.databases.ensure(&database).await.unwrap();
    let mut connection = PgConnection::connect_with(&server.admin).await.unwrap();
    let statement = format!("ALTER ROLE {} PASSWORD 'other'", database.role());
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
    assert_eq!(
        server.databases.observe(&database).await.unwrap(),
        ObservedDatabase::Partial
    );
    server.databases.ensure(&database).await.unwrap();
    assert_eq!(
        server.databases.observe(&database).await.unwrap(),
        ObservedDatabase::Ready
    );
}
