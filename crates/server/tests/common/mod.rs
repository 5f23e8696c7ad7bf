//! Fixture of the integration tests: a separate database, a data plane in memory, and a server on a loopback
//! port. A test does one thing over HTTP and checks the state afterwards.

// Each test binary uses a part of this.
#![allow(dead_code)]

mod client;
pub mod github;
mod postgres;

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub use client::{ApiResponse, Client};
use fsa_driver::{Region, Regions};
use fsa_driver_testing::memory::{MemoryDatabases, MemoryDriver};
use fsa_model::{UserId, api::Project};
use fsa_server::{
    App, Settings, auth,
    encryption::KeyRing,
    listener,
    reconcile::Worker,
    settings::{BackupSettings, Checks, Limits, LlmProxySettings, Retention},
    store::Store,
};
pub use postgres::Database;
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// The key that every world encrypts with.
pub const KEY: [u8; 32] = [7; 32];
/// A further key of the servers, which encrypts nothing.
pub const OTHER_KEY: [u8; 32] = [9; 32];
/// Connections of one server of a test; hundreds of tests share the cluster.
const CONNECTIONS: u32 = 8;

/// One server and all that it depends on.
pub struct World {
    pub app: App,
    pub driver: Arc<MemoryDriver>,
    /// The data plane of a second region, which is never the default.
    pub there: Arc<MemoryDriver>,
    pub databases: Arc<MemoryDatabases>,
    pub address: SocketAddr,
    pub database: Arc<Database>,
    stop: CancellationToken,
    server: Option<JoinHandle<std::io::Result<()>>>,
}

impl World {
    /// A server on an empty database, without workers.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// Like [`Self::new`], with other settings.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let database = Arc::new(Database::new());
        Self::on(database, MemoryDriver::new(), MemoryDatabases::new(), change).await
    }

    /// Like [`Self::new`], with workers that reconcile.
    pub async fn working() -> Self {
        let world = Self::new().await;
        Worker::spawn(
            world.app.core().clone(),
            world.app.callback.clone(),
            world.app.shutdown.clone(),
        );
        world
    }

    /// Like [`Self::working`], with a backup repository in this folder.
    pub async fn with_backups(folder: &std::path::Path) -> Self {
        let repository = folder.to_owned();
        let world = Self::with(|settings| {
            settings.backups = Some(BackupSettings {
                repository,
                password: "correct horse".to_owned().into(),
                scratch: std::env::temp_dir(),
            });
        })
        .await;
        Worker::spawn(
            world.app.core().clone(),
            world.app.callback.clone(),
            world.app.shutdown.clone(),
        );
        world
    }

    /// Like [`Self::new`], with these databases.
    pub async fn with_databases(databases: Arc<MemoryDatabases>) -> Self {
        let database = Arc::new(Database::new());
        Self::on(database, MemoryDriver::new(), databases, |_| {}).await
    }

    /// A server on a database that an earlier release wrote.
    pub async fn upgraded(database: Database) -> Self {
        let database = Arc::new(database);
        Self::on(database, MemoryDriver::new(), MemoryDatabases::new(), |_| {}).await
    }

    /// Another server on the same database and data plane: a replica.
    pub async fn replica(&self) -> Self {
        self.replica_with(|_| {}).await
    }

    /// Like [`Self::replica`], with other settings.
    pub async fn replica_with(&self, change: impl FnOnce(&mut Settings)) -> Self {
        Self::on(
            Arc::clone(&self.database),
            Arc::clone(&self.driver),
            Arc::clone(&self.databases),
            change,
        )
        .await
    }

    async fn on(
        database: Arc<Database>,
        driver: Arc<MemoryDriver>,
        databases: Arc<MemoryDatabases>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("a bound port");
        let mut settings = Settings {
            listen: address,
            origin: format!("http://{address}").parse().expect("an origin"),
            apps_domain: "apps.localhost".into(),
            agent_environment: [("ANTHROPIC_API_KEY".into(), "agent-key".to_owned().into())].into(),
            agents: LlmProxySettings::default(),
            development: false,
            drain: Duration::from_secs(5),
            version: "test",
            owner_login: "owner".into(),
            web: None,
            trusted_proxies: Vec::new(),
            limits: Limits::default(),
            retention: Retention::default(),
            github: None,
            backups: None,
            checks: Checks::default(),
        };
        change(&mut settings);
        let region = Region {
            name: "here".into(),
            driver: driver.clone(),
            databases: databases.clone(),
        };
        let there = MemoryDriver::new();
        let other = Region {
            name: "there".into(),
            driver: there.clone(),
            databases: MemoryDatabases::new(),
        };
        let store = open(&database).await;
        let app = App::new(
            store,
            Regions::new(vec![region, other]),
            KeyRing::new(&[OTHER_KEY, KEY]),
            settings,
        );
        let stop = CancellationToken::new();
        let server = tokio::spawn(listener::serve(
            app.clone(),
            listener,
            stop.clone().cancelled_owned(),
        ));
        Self {
            app,
            driver,
            there,
            databases,
            address,
            database,
            stop,
            server: Some(server),
        }
    }

    /// A client without credentials.
    pub fn anonymous(&self) -> Client {
        Client::new(self.address)
    }

    /// The owner of the system, with an API token.
    pub async fn owner(&self) -> Client {
        let token = auth::create_token_for_owner(&self.app, "test")
            .await
            .expect("the owner gets a token");
        self.anonymous().token(token.expose_secret())
    }

    /// The owner of the system, in a browser.
    pub async fn owner_in_browser(&self) -> Client {
        let owner = self.owner().await;
        let link = owner.post_empty("/api/auth/links").await.expect(201);
        self.sign_in(&token_of_link(&link)).await
    }

    /// A new member with this login, invited by the owner, with the API token of `fsa login`.
    pub async fn member(&self, login: &str) -> Client {
        let browser = self.member_in_browser(login).await;
        let token = browser
            .post("/api/tokens", &json!({"name": "test", "signIn": true}))
            .await
            .expect(201);
        self.anonymous()
            .token(token.json()["token"].as_str().expect("a token"))
    }

    /// Lets an hour pass since every sign-in, of browsers and of the command line.
    pub fn outdate_sign_ins(&self) {
        for (table, column) in [("sessions", "created_at"), ("api_tokens", "signed_in_at")] {
            self.database.sql(&format!(
                "update {table} set {column} = now() - interval '61 minutes' where {column} is not null"
            ));
        }
        let users = self.database.sql("select string_agg(id::text, ',') from users");
        for user in users.split(',') {
            auth::sign_in::invalidate(&self.app, UserId(user.parse().expect("an id")));
        }
    }

    /// A new member with this login, in a browser.
    pub async fn member_in_browser(&self, login: &str) -> Client {
        let invite = self
            .owner()
            .await
            .post_empty("/api/users/invites")
            .await
            .expect(201);
        let body = json!({"token": token_of_link(&invite), "login": login});
        let answer = self.anonymous().post("/api/auth/link", &body).await.expect(200);
        self.anonymous().browser(&answer)
    }

    /// A browser that follows a one-time link.
    pub async fn sign_in(&self, token: &str) -> Client {
        let answer = self
            .anonymous()
            .post("/api/auth/link", &json!({"token": token}))
            .await
            .expect(200);
        self.anonymous().browser(&answer)
    }

    /// Ends the server like a termination signal, and returns when it has drained.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            server
                .await
                .expect("the server does not panic")
                .expect("the server ends well");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.app.shutdown.cancel();
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

/// Opens the test's database. The product gives up after 5 s without a connection. On a machine that hundreds
/// of tests keep busy this is no fault of the database, so the tests retry.
async fn open(database: &Database) -> Store {
    for _ in 0..11 {
        match Store::open(database.options(), CONNECTIONS).await {
            Err(sqlx::Error::PoolTimedOut) => {}
            opened => return opened.expect("the test's database takes connections"),
        }
    }
    Store::open(database.options(), CONNECTIONS)
        .await
        .expect("the test's database takes connections within a minute")
}

/// The token in a link's URL.
pub fn token_of_link(answer: &ApiResponse) -> String {
    let url = answer.json()["url"]
        .as_str()
        .expect("a link has a URL")
        .to_owned();
    url.split_once('#')
        .expect("the token is in the fragment")
        .1
        .to_owned()
}

/// A project of `client` with this name.
pub async fn project(client: &Client, name: &str) -> Project {
    client
        .post("/api/projects", &json!({"name": name}))
        .await
        .expect(201)
        .read()
}

/// The answer to the creation of a project once its sandbox runs. Needs a world with workers.
pub async fn running_project(client: &Client, name: &str) -> serde_json::Value {
    let created = client
        .with("prefer", "wait=60")
        .post("/api/projects", &json!({"name": name}))
        .await
        .expect(201)
        .json();
    assert_eq!(created["sandbox"]["status"], "RUNNING");
    created
}
