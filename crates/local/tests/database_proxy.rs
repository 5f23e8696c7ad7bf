//! Database proxy tests: the proxy as a process, between real clients and real database servers. They need
//! root, like `fsa serve` for the servers.

mod machine;
mod servers;

use std::{
    io::Write as _,
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use fsa_driver::Databases as _;
use fsa_local::database_proxy::{self, DatabaseProxyClient, DatabaseProxyConfig};
use fsa_model::{DatabaseSpec, Size};
use machine::end_process;
use rustix::process::Signal;
use secrecy::ExposeSecret as _;
use servers::{Servers, code};
use sqlx::{
    Connection as _, Executor as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Entry point of the proxy's process: this program, run with the name of this test.
#[test]
fn proxy_process() {
    #[allow(
        clippy::disallowed_methods,
        reason = "this variable makes it the proxy's process"
    )]
    let is_proxy = std::env::var_os("FSA_GATE").is_some();
    if is_proxy {
        let _ = database_proxy::entry();
    }
}

struct World {
    proxy: DatabaseProxyClient,
    servers: Servers,
}

/// A sandbox from the proxy's point of view: a socket, and its database.
struct Sandbox {
    spec: DatabaseSpec,
    port: u16,
}

impl World {
    async fn new() -> Self {
        let servers = Servers::new().await;
        let proxy = start(&servers).await;
        Self { proxy, servers }
    }

    async fn sandbox(&self, name: &str) -> Sandbox {
        self.sandbox_of(servers::spec(name)).await
    }

    async fn sandbox_of(&self, spec: DatabaseSpec) -> Sandbox {
        self.servers.databases.ensure(&spec).await.unwrap();
        let port = self.bind(&spec).await;
        Sandbox { spec, port }
    }

    async fn bind(&self, spec: &DatabaseSpec) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        self.proxy
            .bind(&spec.resource, spec.volume, &spec.role(), OwnedFd::from(listener))
            .await
            .unwrap();
        port
    }
}

async fn start(servers: &Servers) -> DatabaseProxyClient {
    let program = std::env::current_exe().unwrap();
    let arguments = ["--exact", "proxy_process", "--nocapture"].map(str::to_owned);
    database_proxy::ensure_running(&DatabaseProxyConfig::new(servers.folder()), &program, &arguments)
        .await
        .unwrap()
}

impl Drop for World {
    fn drop(&mut self) {
        let data = self.servers.folder().to_owned();
        let ended = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(database_proxy::end(&data))
        });
        let _ = ended.join();
    }
}

impl Sandbox {
    fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(&self.spec.role())
            .database(&self.spec.role())
            .password(self.spec.password.expose_secret())
            .ssl_mode(PgSslMode::Prefer)
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        PgConnection::connect_with(&self.options()).await
    }

    /// The psql command of a sandbox.
    fn psql(&self, user: &DatabaseSpec, database: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-At", "-v", "ON_ERROR_STOP=1"])
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", user.role())
            .env("PGPASSWORD", user.password.expose_secret())
            .env("PGDATABASE", database)
            .env("PGSSLMODE", "prefer")
            .env("PGCONNECT_TIMEOUT", "20");
        psql
    }

    async fn ask(&self, user: &DatabaseSpec, database: &str, query: &str) -> Output {
        // The test's own thread starts servers meanwhile.
        tokio::process::Command::from(self.psql(user, database))
            .args(["-c", query])
            .output()
            .await
            .unwrap()
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test]
async fn a_plain_psql_reaches_its_own_database() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;

    let output = ada
        .ask(
            &ada.spec,
            &ada.spec.role(),
            "SELECT current_user || ' in ' || current_database()",
        )
        .await;

    let role = ada.spec.role();
    assert_eq!(text(&output), format!("{role} in {role}\n"));
    let listed = world.proxy.list().await.unwrap();
    assert_eq!((listed.len(), &listed[0].role), (1, &role));
    assert!(world.proxy.is_bound(&ada.spec.resource).await.unwrap());
}

#[tokio::test]
async fn the_first_connection_starts_the_server_and_the_others_wait_for_it() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    assert!(!world.servers.runs(&ada.spec).await);

    let connected = futures_util::future::join_all((0..30).map(|_| ada.connect())).await;

    for connection in connected {
        connection.unwrap().execute("SELECT 1").await.unwrap();
    }
    let counts = world.servers.databases.server_counts().unwrap();
    assert_eq!((counts.starts, counts.running), (1, 1));
}

#[tokio::test]
async fn an_idle_server_is_stopped_and_a_connection_that_arrives_meanwhile_starts_it_again() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    let mut first = ada.connect().await.unwrap();
    first
        .execute("CREATE TABLE kept AS SELECT 7 AS seven")
        .await
        .unwrap();
    first.close().await.unwrap();
    let databases = &world.servers.databases;
    while databases.servers().await.unwrap()[0].connections > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let now = tokio::time::Instant::now();
    databases.stop_idle(now).await.unwrap();

    let (stopped, connected) = tokio::join!(
        databases.stop_idle(now + Duration::from_secs(3600)),
        ada.connect()
    );

    stopped.unwrap();
    let row = connected
        .unwrap()
        .fetch_one("SELECT seven FROM kept")
        .await
        .unwrap();
    assert_eq!(row.get::<i32, _>(0), 7);
}

#[tokio::test]
async fn connections_to_a_server_that_runs_need_no_fsa_serve() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    let mut open = ada.connect().await.unwrap();
    world.servers.client.end().await.unwrap();

    open.execute("SELECT 1").await.unwrap();
    ada.connect().await.unwrap().execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn the_password_of_another_sandbox_is_refused() {
    let world = World::new().await;
    let (ada, bob) = (world.sandbox("ada").await, world.sandbox("bob").await);
    assert!(
        bob.ask(&bob.spec, &bob.spec.role(), "SELECT 1")
            .await
            .status
            .success()
    );

    for (user, database) in [(&bob.spec, bob.spec.role()), (&bob.spec, ada.spec.role())] {
        let output = ada.ask(user, &database, "SELECT 1").await;
        assert!(!output.status.success());
        assert!(
            text(&output).contains("password authentication failed"),
            "{}",
            text(&output)
        );
    }
    for database in ["postgres", "template1"] {
        assert!(
            ada.ask(&ada.spec, database, "SELECT 1").await.status.success(),
            "{database}"
        );
    }
    assert!(
        ada.ask(&ada.spec, "postgres", "CREATE DATABASE shadow")
            .await
            .status
            .success()
    );
    assert!(ada.ask(&ada.spec, "shadow", "SELECT 1").await.status.success());
    let missing = ada.ask(&ada.spec, &bob.spec.role(), "SELECT 1").await;
    assert!(text(&missing).contains("does not exist"), "{}", text(&missing));
    let superuser = ada
        .psql(&ada.spec, "postgres")
        .env("PGUSER", "fsa")
        .args(["-c", "SELECT 1"])
        .output()
        .unwrap();
    assert!(
        text(&superuser).contains("the user \"fsa\" is reserved"),
        "{}",
        text(&superuser)
    );
    let wrong = DatabaseSpec {
        password: "guess".into(),
        ..ada.spec.clone()
    };
    assert!(
        text(&ada.ask(&wrong, &ada.spec.role(), "SELECT 1").await).contains("password authentication failed")
    );
    let replication = ada
        .psql(&ada.spec, &ada.spec.role())
        .arg("replication=database")
        .output()
        .unwrap();
    assert!(!replication.status.success());
}

#[tokio::test]
async fn an_interrupt_in_psql_ends_its_query() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    let psql = ada
        .psql(&ada.spec, &ada.spec.role())
        .args(["-c", "SELECT pg_sleep(300)"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_ada_sleeps(&world, &ada).await;

    rustix::process::kill_process(
        rustix::process::Pid::from_raw(psql.id().cast_signed()).unwrap(),
        Signal::INT,
    )
    .unwrap();
    let output = tokio::task::spawn_blocking(|| psql.wait_with_output().unwrap())
        .await
        .unwrap();

    assert!(
        text(&output).contains("canceling statement due to user request"),
        "{}",
        text(&output)
    );
}

/// Waits until ada's long query runs.
async fn until_ada_sleeps(world: &World, ada: &Sandbox) {
    world
        .servers
        .databases
        .start_server(ada.spec.volume)
        .await
        .unwrap();
    let mut watcher = world.servers.as_superuser(&ada.spec, "postgres").await;
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(300)%' AND state = 'active' AND usename LIKE 'ada%'";
    while watcher.fetch_one(running).await.unwrap().get::<i64, _>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_cancel_key_of_another_sandbox_cancels_nothing() {
    let world = World::new().await;
    let (ada, bob) = (world.sandbox("ada").await, world.sandbox("bob").await);
    // The start-up packet is written by hand, so that the test has the key.
    let mut client = tokio::net::TcpStream::connect(("127.0.0.1", ada.port))
        .await
        .unwrap();
    let key = sign_in_by_hand(&world, &mut client, &ada.spec).await;
    client
        .write_all(&message(b'Q', b"SELECT pg_sleep(2)\0"))
        .await
        .unwrap();

    let cancel = [&16_u32.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), &key].concat();
    let mut other = tokio::net::TcpStream::connect(("127.0.0.1", bob.port))
        .await
        .unwrap();
    other.write_all(&cancel).await.unwrap();
    other.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(
        contains(&until(&mut client, b'C').await, b"SELECT 1"),
        "the query finishes"
    );

    client
        .write_all(&message(b'Q', b"SELECT pg_sleep(300)\0"))
        .await
        .unwrap();
    // Where no query runs, a request to cancel it is forgotten.
    until_ada_sleeps(&world, &ada).await;
    let mut own = tokio::net::TcpStream::connect(("127.0.0.1", ada.port))
        .await
        .unwrap();
    own.write_all(&cancel).await.unwrap();
    own.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(
        contains(&until(&mut client, b'E').await, b"57014"),
        "with the right sandbox's key it is cancelled"
    );
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [
        &[kind][..],
        &u32::try_from(body.len() + 4).unwrap().to_be_bytes(),
        body,
    ]
    .concat()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Reads messages up to the first of this kind, and returns its body.
async fn until(client: &mut tokio::net::TcpStream, expected: u8) -> Vec<u8> {
    loop {
        let kind = client.read_u8().await.unwrap();
        let length = client.read_u32().await.unwrap();
        let mut body = vec![0; length as usize - 4];
        client.read_exact(&mut body).await.unwrap();
        if kind == expected {
            return body;
        }
    }
}

/// Signs in without a password, which the server is configured to allow for this test.
async fn sign_in_by_hand(world: &World, client: &mut tokio::net::TcpStream, spec: &DatabaseSpec) -> Vec<u8> {
    world.servers.databases.start_server(spec.volume).await.unwrap();
    let server = world.servers.folder().join("runner/servers");
    let rules = server
        .join(spec.volume.to_string())
        .join("configuration/pg_hba.conf");
    let text = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, format!("local {0} {0} trust\n{text}", spec.role())).unwrap();
    // A connection has the time of its server's last load from its start.
    let loaded = async || {
        let mut superuser = world.servers.as_superuser(spec, "postgres").await;
        let row = superuser.fetch_one("SELECT pg_conf_load_time()::text").await;
        row.unwrap().get::<String, _>(0)
    };
    let before = loaded().await;
    let mut superuser = world.servers.as_superuser(spec, "postgres").await;
    superuser.execute("SELECT pg_reload_conf()").await.unwrap();
    while loaded().await == before {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut packet = 196_608_u32.to_be_bytes().to_vec();
    packet.extend(format!("user\0{}\0\0", spec.role()).bytes());
    client
        .write_all(&u32::try_from(packet.len() + 4).unwrap().to_be_bytes())
        .await
        .unwrap();
    client.write_all(&packet).await.unwrap();
    let key = until(client, b'K').await;
    until(client, b'Z').await;
    key
}

#[tokio::test]
async fn a_large_result_comes_through_whole() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    let rows = 300_000;
    let started = Instant::now();

    let output = ada
        .ask(
            &ada.spec,
            &ada.spec.role(),
            &format!("COPY (SELECT repeat('x', 999) FROM generate_series(1, {rows})) TO STDOUT"),
        )
        .await;

    let rate = output.stdout.len() as f64 / started.elapsed().as_secs_f64() / 1e6;
    println!("through the proxy: {rate:.0} MB/s");
    assert_eq!(output.stdout.len(), rows * 1000);
    let mut direct = Command::new("psql");
    direct
        .args([
            "-X",
            "-At",
            "-h",
            world.servers.socket_folder(&ada.spec).to_str().unwrap(),
            "-U",
            "fsa",
            "-d",
            "postgres",
        ])
        .args([
            "-c",
            &format!("COPY (SELECT repeat('x', 999) FROM generate_series(1, {rows})) TO STDOUT"),
        ]);
    let started = Instant::now();
    let bytes = direct.output().unwrap().stdout.len();
    println!(
        "directly: {:.0} MB/s",
        bytes as f64 / started.elapsed().as_secs_f64() / 1e6
    );
}

#[tokio::test]
async fn a_large_input_goes_through_whole() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    drop(ada.connect().await.unwrap());
    let mut psql = ada
        .psql(&ada.spec, &ada.spec.role())
        .args([
            "-c",
            "CREATE TABLE t (x text)",
            "-c",
            "COPY t FROM STDIN",
            "-c",
            "SELECT sum(length(x)) FROM t",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let mut input = psql.stdin.take().unwrap();
    let line = format!("{}\n", "y".repeat(9_999));
    for _ in 0..2_000 {
        input.write_all(line.as_bytes()).unwrap();
    }
    drop(input);

    assert!(text(&psql.wait_with_output().unwrap()).contains("19998000"));
}

#[tokio::test]
async fn one_connection_too_many_is_refused_with_the_reason() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(ada.connect().await.unwrap());
    }

    assert_eq!(world.proxy.list().await.unwrap()[0].connections, 64);
    let error = ada.connect().await.unwrap_err();
    assert_eq!(code(&error), "53300");
    assert!(error.to_string().contains("64 connections"), "{error}");
    // A connection that ends frees its slot.
    held.pop().unwrap().close().await.unwrap();
    while world.proxy.list().await.unwrap()[0].connections == 64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ada.connect().await.unwrap();
}

#[tokio::test]
async fn a_server_of_the_smallest_size_refuses_more_than_it_has_memory_for() {
    let world = World::new().await;
    let small = DatabaseSpec {
        resources: Size::Micro.resources(),
        ..servers::spec("small")
    };
    let small = world.sandbox_of(small).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(small.connect().await.unwrap());
    }
    // PostgreSQL's own limit, which keeps a few for its own processes.
    let refused = loop {
        match small.connect().await {
            Ok(connection) => held.push(connection),
            Err(error) => break error,
        }
        assert!(held.len() < 64, "it never refuses");
    };
    assert_eq!(code(&refused), "53300", "{refused}");
}

#[tokio::test]
async fn silent_and_malformed_clients_do_not_hold_up_others() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    let silent: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(("127.0.0.1", ada.port)).unwrap())
        .collect();

    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x16, 3, 1, 0, 200, 1],
        &[0, 0, 0, 1],
        &[0xff; 64],
    ] {
        let mut client = tokio::net::TcpStream::connect(("127.0.0.1", ada.port))
            .await
            .unwrap();
        client.write_all(nonsense).await.unwrap();
        // The proxy ends it, with or without a reset.
        let _ = client.read_to_end(&mut Vec::new()).await;
    }

    ada.connect().await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn a_client_that_ends_its_direction_still_gets_its_answer() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    let mut client = tokio::net::TcpStream::connect(("127.0.0.1", ada.port))
        .await
        .unwrap();
    sign_in_by_hand(&world, &mut client, &ada.spec).await;

    client
        .write_all(&message(b'Q', b"SELECT repeat('z', 100000)\0"))
        .await
        .unwrap();
    let client = client.into_std().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut client = tokio::net::TcpStream::from_std(client).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();

    assert!(answer.iter().filter(|&&byte| byte == b'z').count() >= 100_000);
    while world.proxy.list().await.unwrap()[0].connections > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_server_that_cannot_start_is_a_postgresql_error_and_is_reached_once_it_can() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    let mut first = ada.connect().await.unwrap();
    first
        .execute("ALTER SYSTEM SET shared_buffers = '900GB'")
        .await
        .unwrap();
    drop(first);
    world.servers.kill(&ada.spec).await;

    let error = ada.connect().await.unwrap_err();

    assert_eq!(code(&error), "57P03", "{error}");
    assert!(error.to_string().contains("cannot start"), "{error}");
    let settings = world.servers.files(&ada.spec).join("data/postgresql.auto.conf");
    std::fs::write(settings, "").unwrap();
    ada.connect().await.unwrap();
}

#[tokio::test]
async fn unbinding_ends_the_connections_and_frees_the_port() {
    let world = World::new().await;
    let (ada, bob) = (world.sandbox("ada").await, world.sandbox("bob").await);
    let (mut adas, mut bobs) = (ada.connect().await.unwrap(), bob.connect().await.unwrap());

    world.proxy.unbind(&ada.spec.resource).await.unwrap();
    world.proxy.unbind(&ada.spec.resource).await.unwrap();

    assert!(adas.execute("SELECT 1").await.is_err());
    bobs.execute("SELECT 1").await.unwrap();
    assert!(!world.proxy.is_bound(&ada.spec.resource).await.unwrap());
    let free = async {
        while TcpListener::bind(("127.0.0.1", ada.port)).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(240), free)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_socket_that_does_not_listen_is_refused() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();

    let error = world
        .proxy
        .bind(&ada.spec.resource, ada.spec.volume, "ada", stream.into())
        .await
        .unwrap_err();

    assert!(error.to_string().contains("does not listen"), "{error}");
    assert!(ada.connect().await.is_ok(), "what was bound before still is");
}

#[tokio::test]
async fn a_proxy_that_was_killed_is_restarted_and_has_no_bindings() {
    let world = World::new().await;
    let ada = world.sandbox("ada").await;
    let mut open = ada.connect().await.unwrap();
    let process = world.proxy.process().await.unwrap();
    end_process(process.cast_signed(), Signal::KILL);

    assert!(world.proxy.list().await.unwrap().is_empty());

    assert_ne!(world.proxy.process().await.unwrap(), process);
    assert!(!world.proxy.is_bound(&ada.spec.resource).await.unwrap());
    assert!(open.execute("SELECT 1").await.is_err());
    let port = world.bind(&ada.spec).await;
    Sandbox { port, ..ada }.connect().await.unwrap();
}

#[tokio::test]
async fn concurrent_starters_find_one_proxy() {
    let world = World::new().await;
    let process = world.proxy.process().await.unwrap();
    end_process(process.cast_signed(), Signal::KILL);

    let (a, b, c) = tokio::join!(
        start(&world.servers),
        start(&world.servers),
        start(&world.servers)
    );

    let processes = [
        a.process().await.unwrap(),
        b.process().await.unwrap(),
        c.process().await.unwrap(),
    ];
    assert_eq!(processes, [processes[0]; 3]);
    assert_ne!(processes[0], process);
}

#[tokio::test]
async fn the_proxy_runs_in_a_new_session_and_its_socket_is_private() {
    let world = World::new().await;
    let process = world.proxy.process().await.unwrap().cast_signed();

    let session = rustix::process::getsid(rustix::process::Pid::from_raw(process)).unwrap();

    assert_eq!(session.as_raw_nonzero().get(), process);
    let socket = world.servers.folder().join("run/gate.sock");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    println!(
        "{:?}",
        status
            .lines()
            .filter(|line| line.starts_with("Rss") || line.starts_with("Threads"))
            .collect::<Vec<_>>()
    );
}
