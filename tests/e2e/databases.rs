//! Tests of the tools for databases: dump, restore and tunnel, with PostgreSQL's own programs at both ends.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
};

use fsa_model::{Size, api::CreateProject};
use fsa_tests::{Api, PtyProgram, World};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What a restore must bring back.
const CONTENT: &str = "
    create schema sales;
    create table sales.orders (id serial primary key, note text not null);
    insert into sales.orders (note) select repeat('order ', n % 50) || n from generate_series(1, 20000) n;
    create table customers (id int primary key, data bytea);
    insert into customers select n, decode(md5(n::text), 'hex') from generate_series(1, 1000) n;
    create view totals as select count(*) from sales.orders;
    create extension hstore;
    create function ended() returns event_trigger language plpgsql as 'begin end';
    create event trigger watch on ddl_command_end execute function ended();
    create role reader;
    grant select on customers to reader;
    select lo_from_bytea(4711, 'large')";
/// A fingerprint of it.
const FINGERPRINT: &str = "
    select (select md5(string_agg(id || note, ',' order by id)) from sales.orders),
           (select md5(string_agg(data::text, ',' order by id)) from customers),
           (select count from totals),
           (select array_agg(nspname order by nspname) from pg_namespace where nspname !~ '^pg_'),
           (select array_agg(relname order by relname) from pg_class where relnamespace = 'public'::regnamespace),
           (select array_agg(extname order by extname) from pg_extension),
           (select array_agg(evtname) from pg_event_trigger),
           (select nspowner::regrole from pg_namespace where nspname = 'public'),
           convert_from(lo_get(4711), 'UTF8'),
           nextval('sales.orders_id_seq') > 20000";

async fn create(api: &Api, name: &str) {
    api.create_as(CreateProject {
        name: name.into(),
        template: Some("host".into()),
        size: Some(Size::Small),
        ..CreateProject::default()
    })
    .await;
    api.until_running(name).await;
}

/// Statements in the project's database; what psql prints.
fn sql(world: &World, project: &str, statements: &str) -> String {
    let output = world.fsa(&[
        "db",
        "psql",
        project,
        "--",
        "-qAt",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        statements,
    ]);
    assert!(output.status.success(), "{statements}: {}", error(&output));
    String::from_utf8(output.stdout).expect("text")
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_restored_as_a_whole_or_not_at_all() {
    let world = World::start(&[]);
    let api = world.api();
    create(&api, "shop").await;
    create(&api, "copy").await;
    sql(&world, "shop", CONTENT);
    let content = sql(&world, "shop", FINGERPRINT);

    let file = world.folder().join("shop.dump");
    let path = file.to_str().expect("a path");
    let dumped = world.fsa(&["db", "dump", "shop", path]);
    assert!(dumped.status.success(), "{}", error(&dumped));
    let archive = std::fs::read(&file).expect("an archive");
    assert!(archive.starts_with(b"PGDMP"), "{} bytes", archive.len());
    // Without a file it is written to standard output.
    let piped = world.fsa(&["db", "dump", "shop"]);
    assert!(piped.status.success() && piped.stdout.starts_with(b"PGDMP"));

    // What was made since is replaced, and programs that are connected stay so.
    let other = "drop table customers; create table public.later (id int); create schema more";
    sql(&world, "shop", other);
    let changed = "select count(*) from later";
    let restored = world.fsa(&["db", "restore", "shop", path, "--yes"]);
    assert!(restored.status.success(), "{}", error(&restored));
    assert_eq!(sql(&world, "shop", FINGERPRINT), content);

    // Into another project, whose role has another name, from standard input.
    let mut command = world.command(&["db", "restore", "copy", "-", "--yes"]);
    let archive_input = std::fs::File::open(&file).expect("an archive");
    let restored = command.stdin(archive_input).output().expect("fsa runs");
    assert!(restored.status.success(), "{}", error(&restored));
    assert_eq!(sql(&world, "copy", FINGERPRINT), content);

    // An archive that ends early, in its last table's rows, changes nothing.
    sql(&world, "shop", other);
    let half = world.folder().join("half.dump");
    std::fs::write(&half, &archive[..archive.len() / 2]).expect("a file");
    let refused = world.fsa(&["db", "restore", "shop", half.to_str().expect("a path"), "--yes"]);
    assert!(!refused.status.success());
    assert!(
        error(&refused).contains("the database is as it was"),
        "{}",
        error(&refused)
    );
    assert_eq!(sql(&world, "shop", changed), "0\n");

    // What is no archive is refused before anything happens, and so is a wrong answer to the question.
    let text = world.folder().join("text.sql");
    std::fs::write(&text, "select 1").expect("a file");
    let refused = world.fsa(&["db", "restore", "shop", text.to_str().expect("a path"), "--yes"]);
    assert_eq!(refused.status.code(), Some(2), "{}", error(&refused));
    let mut asked = PtyProgram::of(&mut world.command(&["db", "restore", "shop", path]));
    asked.until("Type its name to confirm: ");
    asked.type_in("shopp\r");
    let (code, shown) = asked.end();
    assert_eq!(code, Some(1), "{shown}");
    assert_eq!(sql(&world, "shop", changed), "0\n");

    // A dump that fails leaves no file.
    let none = world.folder().join("none.dump");
    let failed = world.fsa(&["db", "dump", "absent", none.to_str().expect("a path")]);
    assert_eq!(failed.status.code(), Some(3), "{}", error(&failed));
    let left = std::fs::read_dir(world.folder())
        .expect("a folder")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("none"))
        .collect::<Vec<_>>();
    assert!(left.is_empty(), "{left:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_leads_programs_of_this_machine_to_the_database_until_it_ends() {
    let world = World::start(&[]);
    let api = world.api();
    create(&api, "shop").await;
    sql(
        &world,
        "shop",
        "create table rows as select generate_series(1, 100000) n",
    );

    let mut tunnel = world
        .command(&["db", "url", "shop", "--tunnel"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("fsa runs");
    let mut url = String::new();
    BufReader::new(tunnel.stdout.take().expect("its output"))
        .read_line(&mut url)
        .expect("a line");
    let url = url.trim().to_owned();
    assert!(
        url.starts_with("postgresql://shop") && url.contains("@127.0.0.1:"),
        "{url}"
    );
    #[allow(clippy::disallowed_methods, reason = "the subject is PostgreSQL's own client")]
    let psql = |statement: &str| {
        let mut command = Command::new("psql");
        command.args([&url, "-XAtc", statement]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("psql runs")
    };
    // Several connections at once, with more data than any buffer has.
    let clients: Vec<_> = (0..4).map(|_| psql("select * from rows order by n")).collect();
    for client in clients {
        let output = client.wait_with_output().expect("psql ends");
        assert!(output.status.success(), "{}", error(&output));
        assert_eq!(
            output.stdout.iter().filter(|byte| **byte == b'\n').count(),
            100_000
        );
    }
    let pid = Pid::from_raw(i32::try_from(tunnel.id()).expect("a pid"));
    kill(pid, Signal::SIGINT).expect("it runs");
    assert_eq!(tunnel.wait().expect("it ends").code(), Some(0));
    let refused = psql("select 1").wait_with_output().expect("psql ends");
    assert!(!refused.status.success());

    // A project without a running sandbox has no database to connect to.
    let stopped = world.fsa(&["stop", "shop"]);
    assert!(stopped.status.success(), "{}", error(&stopped));
    let (status, answer) = api
        .answer(
            api.request(reqwest::Method::GET, "/api/projects/shop/database/connection")
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        )
        .await;
    assert_eq!(status, 409, "{answer}");
    world.finish().await;
}
