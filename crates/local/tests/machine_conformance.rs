//! Driver conformance suite for the local driver and its databases: with the real runtime, the machine's own
//! files as root file system, and its own PostgreSQL.
//!
//! It needs root, like `fsa serve` for networks and limits of sandboxes.

mod machine;
mod servers;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use fsa_driver::{SharedDatabases, SharedDriver};
use fsa_driver_testing::conformance::World;
use fsa_local::{
    LocalConfig, LocalDriver,
    driver::{Client, RunnerLink},
    privileges,
    project_databases::{IDLE_STOP, ProjectDatabases},
};
use fsa_model::{DatabaseSpec, Image, SandboxRef};
use machine::end_process;
use rustix::process::Signal;
use secrecy::ExposeSecret as _;
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
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
    databases: Arc<ProjectDatabases>,
    // Drop order: the runner ends with the driver, and the folder goes last.
    data: TempDir,
}

impl Local {
    async fn new() -> Self {
        let data = tempfile::Builder::new().prefix("fsa-ld-").tempdir().unwrap();
        privileges::prepare_data_dir(data.path(), 0, 0).unwrap();
        let config = LocalConfig::new(data.path(), sandboxd());
        let link = RunnerLink::start(&servers::runner(), &[], &config.runner).unwrap();
        let client = Client::greet(link).await.unwrap();
        let driver = LocalDriver::with(config, Arc::clone(&client), None)
            .await
            .unwrap();
        assert_eq!(driver.hello().blockers, Vec::<String>::new());
        Self {
            driver,
            databases: ProjectDatabases::open(data.path(), client, IDLE_STOP).unwrap(),
            data,
        }
    }

    async fn sign_in(&self, database: &DatabaseSpec) -> Result<PgConnection, String> {
        self.databases
            .start_server(database.volume)
            .await
            .map_err(|error| error.to_string())?;
        let sockets = self.data.path().join("sockets");
        let options = PgConnectOptions::new_without_pgpass()
            .socket(sockets.join(database.volume.to_string()))
            .username(&database.role())
            .password(database.password.expose_secret())
            .database(&database.role())
            .ssl_mode(PgSslMode::Disable);
        PgConnection::connect_with(&options)
            .await
            .map_err(|error| error.to_string())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        servers::kill_all(self.data.path());
    }
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
