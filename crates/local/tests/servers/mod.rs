//! Fixture of the tests with database servers of volumes: a data folder, its runner, and what
//! `fsa serve` runs of the databases. Needs root, as sandboxes do.
#![allow(dead_code)]

use std::{path::PathBuf, sync::Arc, time::Duration};

use fsa_driver::Databases as _;
use fsa_local::{
    LocalConfig,
    database_proxy::starter,
    driver::{Client, RunnerLink},
    privileges,
    project_databases::{IDLE_STOP, ProjectDatabases},
};
use fsa_model::{DatabaseSpec, ProjectId, ProjectName, ResourceName, Size, VolumeId};
use rustix::process::Signal;
use secrecy::ExposeSecret as _;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tempfile::TempDir;
use tokio_util::task::AbortOnDropHandle;

use crate::machine::end_process;

/// The example that is a runner. Cargo puts the examples next to the tests.
pub fn runner() -> std::path::PathBuf {
    let program = std::env::current_exe().unwrap();
    let built = program.parent().and_then(|deps| deps.parent()).unwrap();
    built.join("examples/runner")
}

/// A data folder with a runner. When the test ends, its servers are killed and it is removed.
pub struct Servers {
    pub databases: Arc<ProjectDatabases>,
    pub client: Arc<Client>,
    /// Taken when the servers are to outlive this.
    data: Option<TempDir>,
    _starter: AbortOnDropHandle<()>,
}

impl Servers {
    pub async fn new() -> Self {
        let data = tempfile::Builder::new().prefix("fsa-ds-").tempdir().unwrap();
        privileges::prepare_data_dir(data.path(), 0, 0).unwrap();
        Self::open(data).await
    }

    /// The servers of a data folder that an earlier `fsa serve` may have used.
    pub async fn open(data: TempDir) -> Self {
        // No sandbox is started here.
        let config = LocalConfig::new(data.path(), "/nowhere/sandboxd");
        let link = RunnerLink::start(&runner(), &[], &config.runner).unwrap();
        let client = Client::greet(link).await.unwrap();
        let databases = ProjectDatabases::open(data.path(), Arc::clone(&client), IDLE_STOP).unwrap();
        let starter = starter::serve(data.path(), Arc::clone(&databases) as _).unwrap();
        Self {
            databases,
            client,
            data: Some(data),
            _starter: starter,
        }
    }

    /// A database that was prepared and never started.
    pub async fn prepared(&self, name: &str) -> DatabaseSpec {
        let spec = spec(name);
        self.databases.ensure(&spec).await.unwrap();
        spec
    }

    /// Starts the server of a database where it does not run, and signs in as its owner.
    pub async fn sign_in(&self, spec: &DatabaseSpec) -> PgConnection {
        self.databases.start_server(spec.volume).await.unwrap();
        self.connect(spec, &spec.role()).await.unwrap()
    }

    /// Signs in to a server that runs.
    pub async fn connect(&self, spec: &DatabaseSpec, database: &str) -> sqlx::Result<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(self.socket_folder(spec))
            .port(5432)
            .username(&spec.role())
            .password(spec.password.expose_secret())
            .database(database)
            .ssl_mode(PgSslMode::Disable);
        PgConnection::connect_with(&options).await
    }

    /// Signs in to a server that runs as its bootstrap superuser.
    pub async fn as_superuser(&self, spec: &DatabaseSpec, database: &str) -> PgConnection {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(self.socket_folder(spec))
            .port(5432)
            .username("fsa")
            .database(database)
            .ssl_mode(PgSslMode::Disable);
        PgConnection::connect_with(&options).await.unwrap()
    }

    pub fn socket_folder(&self, spec: &DatabaseSpec) -> PathBuf {
        self.folder().join("sockets").join(spec.volume.to_string())
    }

    /// The folder of a volume's database.
    pub fn files(&self, spec: &DatabaseSpec) -> PathBuf {
        self.folder()
            .join("runner/databases")
            .join(spec.volume.to_string())
    }

    /// Whether the server of a database runs.
    pub async fn runs(&self, spec: &DatabaseSpec) -> bool {
        let servers = self.databases.servers().await.unwrap();
        servers
            .iter()
            .any(|server| server.volume == spec.volume && server.running)
    }

    /// The process 1 of a server that runs.
    pub fn process(&self, volume: VolumeId) -> Option<i32> {
        process(&self.folder().join("runner/servers").join(volume.to_string()))
    }

    /// Kills a server, and returns when the runner has cleaned up.
    pub async fn kill(&self, spec: &DatabaseSpec) {
        end_process(self.process(spec.volume).unwrap(), Signal::KILL);
        while self.process(spec.volume).is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends this half and its runner, as a stop of `fsa serve` does; the servers run on.
    pub async fn end(mut self) -> TempDir {
        self.client.end().await.unwrap();
        self.data.take().unwrap()
    }

    pub fn folder(&self) -> &std::path::Path {
        self.data.as_ref().unwrap().path()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(data) = &self.data {
            kill_all(data.path());
        }
    }
}

/// Kills the servers of a data folder, and returns when its runner has cleaned up.
pub fn kill_all(data: &std::path::Path) {
    {
        let servers = data.join("runner/servers");
        for entry in std::fs::read_dir(&servers).into_iter().flatten().flatten() {
            if let Some(pid) = process(&entry.path()) {
                end_process(pid, Signal::KILL);
            }
        }
        // The runner removes the control group and the runtime's state.
        for _ in 0..2000 {
            if std::fs::read_dir(&servers).is_ok_and(|mut entries| entries.next().is_none()) {
                return;
            }
            #[allow(
                clippy::disallowed_methods,
                reason = "the end of a test, on a thread that does nothing else"
            )]
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn process(folder: &std::path::Path) -> Option<i32> {
    let state = std::fs::read(folder.join("state.json")).ok()?;
    let state: serde_json::Value = serde_json::from_slice(&state).ok()?;
    i32::try_from(state["process"]["pid"].as_i64()?).ok()
}

pub fn spec(name: &str) -> DatabaseSpec {
    let project = ProjectId::generate();
    DatabaseSpec {
        project,
        volume: VolumeId::of_main(project),
        resource: ResourceName::generate(&ProjectName::parse(name).unwrap()),
        password: format!("secret of {name} p@ss/word").into(),
        resources: Size::default().resources(),
    }
}

/// Runs statements one by one.
pub async fn run(connection: &mut PgConnection, statement: impl Into<String>) -> sqlx::Result<()> {
    connection
        .execute(AssertSqlSafe(statement.into()))
        .await
        .map(drop)
}

/// The one value of a query, as text.
pub async fn value(connection: &mut PgConnection, query: impl Into<String>) -> String {
    sqlx::query_scalar::<_, Option<String>>(AssertSqlSafe(query.into()))
        .fetch_one(connection)
        .await
        .unwrap()
        .unwrap_or_default()
}

pub async fn close(connection: PgConnection) {
    connection.close().await.unwrap();
}

pub fn code(error: &sqlx::Error) -> String {
    error
        .as_database_error()
        .and_then(|e| e.code())
        .unwrap_or_default()
        .into_owned()
}
