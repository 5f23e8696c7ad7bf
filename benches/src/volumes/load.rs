//! Load of a project: a tree of many files, pgbench, and the same on the machine.

use std::path::Path;

use fsa_tests::Api;

use super::{floor, shell};
use crate::report::{Row, Target, median};

/// pgbench, which Debian installs outside of the search path.
const PGBENCH: &str = "$(ls -d /usr/lib/postgresql/*/bin/pgbench | tail -n 1)";
const CLIENTS: u32 = 4;
const SCALE: u32 = 60;
const PGBENCH_SECONDS: u32 = 20;
const ROUNDS: usize = 3;

/// Waits until the load of [`writes`] writes.
pub const UNTIL_WRITING: &str = "until test \"$(psql -qtAc 'select count(*) > 0 from pgbench_history' \
     \"$DATABASE_URL\")\" = t; do :; done";
pub const STOP_WRITING: &str = "kill -TERM \"$(cat /tmp/writes)\"";

/// A working tree of git in the folder `tree`, with this many files of some hundred bytes in a thousand folders.
#[must_use]
pub fn tree(files: usize) -> String {
    format!(
        "set -e; mkdir tree; cd tree; git init -q; python3 -c '
import os
for folder in range(1000):
    os.mkdir(str(folder))
for file in range({files}):
    with open(f\"{{file % 1000}}/{{file}}\", \"w\") as out:
        out.write(f\"{{file}} \" * 40)
'; git add .; git -c user.name=bench -c user.email=bench@localhost commit -qm tree; cd .."
    )
}

/// Checks the tree out into an empty folder and prints the seconds that it took.
const CHECK_OUT: &str = "set -e; cd tree; ls | xargs rm -r; sync -f .; \
     begun=$(date +%s.%N); git checkout -q -- .; sync -f .; ended=$(date +%s.%N); \
     echo \"$ended - $begun\" | python3 -c 'print(eval(input()))'";

/// Fills the database with the tables of pgbench.
#[must_use]
pub fn fill(scale: u32) -> String {
    format!("{PGBENCH} -iq -s {scale} \"$DATABASE_URL\" >/dev/null 2>&1")
}

/// Writes until it is stopped.
#[must_use]
pub fn writes(seconds: u32) -> String {
    format!(
        "{PGBENCH} -n -c 2 -T {seconds} \"$DATABASE_URL\" >/dev/null 2>&1 & echo $! > /tmp/writes; wait || true"
    )
}

fn transactions(url: &str) -> String {
    format!(
        "{PGBENCH} -n -c {CLIENTS} -j 2 -T {PGBENCH_SECONDS} {url} | sed -n 's/^tps = \\([0-9.]*\\).*/\\1/p'"
    )
}

fn number(text: &str) -> f64 {
    text.trim()
        .parse()
        .unwrap_or_else(|_| panic!("a number instead of {text:?}"))
}

/// What the storage of a volume costs, in turns with the machine's own file system.
pub async fn measure(api: &Api, project: &str, folder: &Path) -> Vec<Row> {
    shell(api, project, &fill(SCALE)).await;
    let names = [
        "shared_buffers",
        "max_wal_size",
        "min_wal_size",
        "wal_level",
        "max_connections",
    ];
    let listed = names.map(|name| format!("'{name}'")).join(",");
    let settings = shell(
        api,
        project,
        &format!(
            "psql -qtAF= -c \"select name, setting || coalesce(nullif(unit, '8kB'), '') from \
             pg_settings where name in ({listed})\" \"$DATABASE_URL\""
        ),
    )
    .await;
    let mut settings: Vec<String> = settings.lines().map(str::to_owned).collect();
    // As in a project: without replication, which `minimal` does not allow, and without parallel plans.
    settings.extend(["max_wal_senders=0", "jit=off"].map(str::to_owned));
    let machine = folder.join("floor-load");
    let mut server = floor::Postgres::create(&machine, &settings);
    server.start();
    let url = format!("\"{}\"", server.url());
    floor::shell(&machine, &fill(SCALE).replace("\"$DATABASE_URL\"", &url));
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floor.push(number(&floor::shell(&machine, &transactions(&url))));
        ours.push(number(
            &shell(api, project, &transactions("\"$DATABASE_URL\"")).await,
        ));
    }
    server.stop();
    let tps = (median(ours), median(floor));

    floor::shell(&machine, &tree(super::FILES));
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floor.push(1.0 / number(&floor::shell(&machine, CHECK_OUT)));
        ours.push(1.0 / number(&shell(api, project, CHECK_OUT).await));
    }
    let files = super::FILES as f64;
    let rate = (files * median(ours), files * median(floor));
    vec![
        Row::new(
            format!(
                "pgbench in a sandbox, {CLIENTS} clients, scale {SCALE} (floor: the same settings on the machine's files)"
            ),
            tps.0,
            "/s",
            Target::AtLeast(0.6 * tps.1),
        )
        .with_floor(tps.1),
        Row::new(
            "git checkout of 50,000 files and sync, files (floor: on the machine)",
            rate.0,
            "/s",
            Target::AtLeast(0.8 * rate.1),
        )
        .with_floor(rate.1),
    ]
}
