//! PostgreSQL for tests: one temporary cluster on this machine, shared by all test processes that run at the
//! same time, with a separate database for each test.
//!
//! The cluster listens on a Unix socket only. The first process that needs it creates it. It is removed a few
//! seconds after the last one has ended, however that ended: each process holds a shared lock on a file,
//! which the kernel releases, and a watcher waits for the exclusive lock.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::{fs::chown, net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use fsa_server::store::Store;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnectOptions;

const SUPERUSER: &str = "fsa";

/// The cluster, for the lifetime of this process.
struct Cluster {
    programs: PathBuf,
    sockets: PathBuf,
    /// The migrated database that is copied.
    template: String,
    _used: File,
}

/// A database of one test, deleted when it is dropped.
pub struct Database {
    name: String,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();

impl Database {
    /// A copy of the migrated template.
    pub fn new() -> Self {
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let cluster = CLUSTER.get_or_init(Cluster::join);
        cluster.sql(
            "postgres",
            &format!("create database {name} template {}", cluster.template),
        );
        Self { name }
    }

    /// A database with the schema after this migration, which an earlier release had.
    pub async fn at_migration(version: i64) -> Self {
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        CLUSTER
            .get_or_init(Cluster::join)
            .sql("postgres", &format!("create database {name}"));
        let database = Self { name };
        let pool = sqlx::PgPool::connect_with(database.options())
            .await
            .expect("the test's database takes connections");
        sqlx::migrate!("./migrations")
            .run_to(version, &pool)
            .await
            .expect("the migrations run");
        pool.close().await;
        database
    }

    pub fn options(&self) -> PgConnectOptions {
        CLUSTER.get_or_init(Cluster::join).options(&self.name)
    }

    /// Runs one statement with psql, and returns its undecorated output.
    pub fn sql(&self, statement: &str) -> String {
        CLUSTER.get_or_init(Cluster::join).sql(&self.name, statement)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let cluster = CLUSTER.get_or_init(Cluster::join);
        cluster.sql(
            "postgres",
            &format!("drop database if exists {} with (force)", self.name),
        );
    }
}

impl Cluster {
    fn join() -> Self {
        let programs = programs();
        let owner = Owner::of_this_machine();
        let folder = std::env::temp_dir().join(format!("fsa-tests-{}", owner.uid));
        fs::create_dir_all(&folder).expect("the temporary folder can be written");
        owner.give(&folder);
        let open = |name: &str| {
            let path = folder.join(name);
            let file = File::options()
                .create(true)
                .append(true)
                .open(&path)
                .expect("a lock file");
            owner.give(&path);
            file
        };
        let used = open("used.lock");
        used.lock_shared().expect("a lock can be had");
        let starting = open("starting.lock");
        starting.lock().expect("a lock can be had");
        let sockets = folder.join("s");
        if UnixStream::connect(sockets.join(".s.PGSQL.5432")).is_err() {
            start(&programs, &folder, &owner);
        }
        let cluster = Self {
            template: format!("template_{}", schema()),
            programs,
            sockets,
            _used: used,
        };
        cluster.migrate_template();
        drop(starting);
        cluster
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new()
            .socket(&self.sockets)
            .username(SUPERUSER)
            .database(database)
    }

    fn migrate_template(&self) {
        let there = self.sql(
            "postgres",
            &format!(
                "select count(*) from pg_database where datname = '{}'",
                self.template
            ),
        );
        if there == "1" {
            return;
        }
        let raw = format!("raw_{}", uuid::Uuid::new_v4().simple());
        self.sql("postgres", &format!("create database {raw}"));
        let options = self.options(&raw);
        // The caller may be inside a runtime, where no other runtime may be blocked on.
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(async {
                    let store = Store::open(options, 1).await.expect("the migrations run");
                    store.pool().close().await;
                });
        })
        .join()
        .expect("the template is migrated");
        self.sql(
            "postgres",
            &format!("alter database {raw} rename to {}", self.template),
        );
    }

    fn sql(&self, database: &str, statement: &str) -> String {
        let output = Command::new(self.programs.join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                SUPERUSER,
                "-d",
                database,
            ])
            .arg("-h")
            .arg(&self.sockets)
            .args(["-c", statement])
            .stdin(Stdio::null())
            .output()
            .expect("psql runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statement}: {stderr}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn start(programs: &Path, folder: &Path, owner: &Owner) {
    let (data, sockets) = (folder.join("data"), folder.join("s"));
    for old in [&data, &sockets] {
        let _ = fs::remove_dir_all(old);
    }
    fs::create_dir(&sockets).expect("a folder for sockets");
    owner.give(&sockets);
    run(owner
        .command(&programs.join("initdb"))
        .args([
            "--no-sync",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "-U",
            SUPERUSER,
            "-D",
        ])
        .arg(&data));
    let mut settings = File::options()
        .append(true)
        .open(data.join("postgresql.conf"))
        .expect("initdb wrote it");
    writeln!(
        settings,
        "listen_addresses = ''\nunix_socket_directories = '{}'\nmax_connections = 400\n\
         shared_buffers = 64MB\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off",
        sockets.display()
    )
    .expect("the settings can be written");
    run(owner
        .command(&programs.join("pg_ctl"))
        .args(["start", "-w", "-s", "-t", "60", "-D"])
        .arg(&data)
        .arg("-l")
        .arg(folder.join("log")));
    let watcher = format!(
        "cd '{folder}' || exit; while :; do flock used.lock true; sleep 5; \
         flock -n used.lock sh -c \"'{pg_ctl}' stop -s -m immediate -D data; rm -rf data s log\" && exit; done",
        folder = folder.display(),
        pg_ctl = programs.join("pg_ctl").display(),
    );
    // It outlives this process and ends by itself; init reaps it.
    #[allow(clippy::zombie_processes, reason = "it is meant to outlive us")]
    let _watcher = owner
        .command(Path::new("setsid"))
        .args(["sh", "-c", &watcher])
        .spawn()
        .expect("the watcher starts");
}

fn run(command: &mut Command) {
    let output = command.output().expect("PostgreSQL's programs run");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}

/// The user that owns the cluster: PostgreSQL refuses to run as root.
struct Owner {
    uid: u32,
    gid: u32,
    is_other: bool,
}

impl Owner {
    fn of_this_machine() -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let me = fs::metadata("/proc/self").expect("/proc is there");
        if me.uid() != 0 {
            return Self {
                uid: me.uid(),
                gid: me.gid(),
                is_other: false,
            };
        }
        let users = fs::read_to_string("/etc/passwd").expect("there are users");
        let of = |name: &str| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        let (uid, gid) = of("postgres")
            .or_else(|| of("nobody"))
            .expect("a user that is not root");
        Self {
            uid,
            gid,
            is_other: true,
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if program.file_name().is_some_and(|name| name != "initdb") {
            command.stderr(Stdio::null());
        }
        if self.is_other {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    fn give(&self, path: &Path) {
        if self.is_other {
            chown(path, Some(self.uid), Some(self.gid)).expect("root gives files away");
        }
    }
}

/// The programs of the newest PostgreSQL on this machine.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    versions
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<u32>().ok()?,
                entry.path().join("bin"),
            ))
        })
        .filter(|(_, programs)| programs.join("initdb").exists())
        .max()
        .expect("PostgreSQL's server is installed")
        .1
}

/// A short hash of the migrations, so that a changed schema has a separate template.
fn schema() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("there are migrations")
        .flatten()
        .map(|e| e.path())
        .collect();
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.file_name().expect("a file has a name").as_encoded_bytes());
        hash.update(fs::read(file).expect("a migration can be read"));
    }
    hex::encode(&hash.finalize()[..8])
}
