//! Driver conformance suite for the local driver and its databases: with the real runtime, the machine's own
//! files as root file system, and a separate PostgreSQL.
//!
//! It needs root, like `fsa serve` for networks and limits of sandboxes.

mod machine;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use fsa_driver::{SharedDatabases, SharedDriver};
use fsa_driver_testing::conformance::World;
use fsa_local::{
    LocalConfig, LocalDriver, databases::LocalDatabases, driver::RunnerLink, postgres::Cluster, privileges,
};
use fsa_model::{DatabaseSpec, Image, SandboxRef};
use machine::{Machine, end_process};
use rustix::process::Signal;
use secrecy::ExposeSecret as _;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

/// Echo server for any number of clients.
const ECHO: &str = "import socket, threading
def serve(client):
    while data := client.recv(4096):
        client.sendall(data)
listener = socket.create_server(('127.0.0.1', PORT))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()";

struct Local {
    driver: Arc<LocalDriver>,
    databases: Arc<LocalDatabases>,
    cluster: Cluster,
    // Drop order: the runner ends with the driver, and the folders go last.
    data: TempDir,
    _machine: Machine,
}

impl Local {
    async fn new() -> Self {
        let machine = Machine::new();
        let cluster = machine.projects().await;
        let data = tempfile::Builder::new().prefix("fsa-ld-").tempdir().unwrap();
        privileges::prepare_data_dir(data.path(), 0, 0).unwrap();
        let config = LocalConfig::new(data.path(), sandboxd());
        let link = RunnerLink::start(&runner(), &[], &config.runner).unwrap();
        let driver = LocalDriver::open(config, link, None).await.unwrap();
        assert_eq!(driver.hello().blockers, Vec::<String>::new());
        Self {
            driver,
            databases: Arc::new(LocalDatabases::new(cluster.clone())),
            cluster,
            data,
            _machine: machine,
        }
    }

    async fn sign_in(&self, database: &DatabaseSpec) -> Result<PgConnection, String> {
        let options = self
            .cluster
            .connect_options(&database.role())
            .username(&database.role())
            .password(database.password.expose_secret());
        PgConnection::connect_with(&options)
            .await
            .map_err(|error| error.to_string())
    }
}

/// Cargo puts the examples next to the tests.
fn runner() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let built = program.parent().and_then(|deps| deps.parent()).unwrap();
    built.join("examples/runner")
}

#[allow(
    clippy::disallowed_methods,
    reason = "the static sandboxd is a separate build, which make test names"
)]
fn sandboxd() -> PathBuf {
    std::env::var_os("FSA_SANDBOXD")
        .expect("FSA_SANDBOXD is not set: run this through `make test`")
        .into()
}

#[async_trait]
impl World for Local {
    fn driver(&self) -> SharedDriver {
        self.driver.clone()
    }

    fn databases(&self) -> Option<SharedDatabases> {
        Some(self.databases.clone())
    }

    fn image(&self) -> Image {
        Image::Template("host".into())
    }

    fn missing_image(&self) -> Image {
        // Loopback addresses are refused as registries by default.
        Image::Reference("127.0.0.1:9/nothing:latest".into())
    }

    fn echo_command(&self, port: u16) -> String {
        let program = ECHO.replace("PORT", &port.to_string());
        format!("python3 -c \"{program}\"")
    }

    async fn kill(&self, sandbox: &SandboxRef) {
        let state = self
            .data
            .path()
            .join("runner/sandboxes")
            .join(sandbox.resource.as_str())
            .join("state.json");
        let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
        let pid = state["run"]["process"]["pid"].as_i64().unwrap();
        end_process(i32::try_from(pid).unwrap(), Signal::KILL);
    }

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

fsa_driver_testing::conformance_tests!(Local::new().await);
