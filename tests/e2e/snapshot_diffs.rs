//! Differences since a snapshot on this machine: the text of files, and the tables of the database.

use fsa_model::{
    database_diff::{DatabaseDiff, RowChanges},
    file_diff::{FileDiff, NotShown},
    snapshot::{ChangeKind, Snapshot, SnapshotCause},
};
use fsa_tests::World;
use reqwest::Method;
use serde_json::json;

const BTRFS: &[&str] = &["--storage", "btrfs", "--storage-size-mib", "4096"];
const SNAPSHOTS: &str = "/api/projects/shop/snapshots";

const BEFORE: &str = "
    create table orders (id bigint primary key, total numeric, note text);
    insert into orders select n, n * 1.5, 'note ' || n from generate_series(1, 1000) n;
    create table visits (page text, at timestamptz default now());
    insert into visits select 'page ' || n % 3 from generate_series(1, 30) n;
    create table obsolete (id int primary key);
    insert into obsolete values (1), (2);
    create table same (id int primary key, body text);
    insert into same select n, repeat('x', 100) from generate_series(1, 500) n;
";

const AFTER: &str = "
    update orders set total = total + 1 where id <= 7;
    delete from orders where id > 990;
    insert into orders values (2001, 1, 'new'), (2002, 2, 'new'), (2003, 3, 'new');
    alter table orders add column paid boolean not null default false, drop column note;
    delete from visits where page = 'page 1';
    insert into visits values ('page 9');
    drop table obsolete;
    create table added (id int primary key, body text);
    insert into added values (1, 'a'), (2, 'b');
    update same set body = body;
";

async fn story(world: World) {
    let api = world.api();
    api.create_running("shop").await;
    let sql = async |statements: &str| {
        let path = "/api/projects/shop/files?path=statements.sql";
        let written = api.request(Method::PUT, path).body(statements.to_owned());
        assert!(api.answer(written).await.0.is_success());
        api.shell("shop", "psql -v ON_ERROR_STOP=1 -q -f statements.sql")
            .await;
    };
    sql(BEFORE).await;
    api.shell("shop", "printf 'one\\ntwo\\n' > text; printf 'a\\0b' > binary")
        .await;
    let _: Snapshot = api.send(Method::POST, SNAPSHOTS, &json!({"name": "first"})).await;
    sql(AFTER).await;
    api.shell(
        "shop",
        "printf 'one\\n2\\n' > text; printf 'a\\0c' > binary; ln -s /etc/passwd link",
    )
    .await;

    let up_to_now: DatabaseDiff = api.get(&format!("{SNAPSHOTS}/first/diff/database")).await;
    let second: Snapshot = api
        .send(Method::POST, SNAPSHOTS, &json!({"name": "second"}))
        .await;
    sql("drop table added, orders, visits, same").await;
    let up_to_second: DatabaseDiff = api
        .get(&format!("{SNAPSHOTS}/first/diff/database?to=second"))
        .await;

    assert_eq!((up_to_now.to, up_to_second.to), (None, Some(second.id)));
    assert_eq!(up_to_now.database, up_to_second.database);
    let found: Vec<_> = up_to_now
        .database
        .tables
        .iter()
        .map(|table| (table.name.as_str(), table.change, table.rows))
        .collect();
    let rows = |inserted, updated, deleted| {
        Some(RowChanges {
            inserted,
            updated,
            deleted,
        })
    };
    assert_eq!(
        found,
        [
            ("added", ChangeKind::Added, rows(2, 0, 0)),
            ("obsolete", ChangeKind::Removed, rows(0, 0, 2)),
            ("orders", ChangeKind::Changed, rows(3, 7, 10)),
            ("visits", ChangeKind::Changed, rows(1, 0, 10)),
        ]
    );
    let orders = &up_to_now.database.tables[2];
    let columns: Vec<_> = orders
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.change, column.now.as_deref()))
        .collect();
    assert_eq!(
        columns,
        [
            ("note", ChangeKind::Removed, None),
            ("paid", ChangeKind::Added, Some("boolean not null default false")),
        ]
    );
    assert_eq!(
        (up_to_now.database.unchanged, up_to_now.database.truncated),
        (1, false)
    );

    // Nothing of a comparison is left, and the project's server was not stopped.
    api.until_event_matching("shop", "the end of the present state's snapshot", |event| {
        event["kind"] == "snapshotDeleted" && event["data"]["cause"] == "branch"
    })
    .await;
    let kept: fsa_model::api::Page<Snapshot> = api.get(SNAPSHOTS).await;
    assert!(
        kept.items
            .iter()
            .all(|snapshot| snapshot.cause == SnapshotCause::Manual)
    );
    assert_eq!(api.shell("shop", "psql -Atc 'select 1'").await.trim(), "1");

    let file = async |name: &str| {
        let path = format!("{SNAPSHOTS}/first/diff/file?path=/home/dev/project/{name}");
        api.get::<FileDiff>(&path).await
    };
    let text = file("text").await.text.expect("a text");
    assert!(text.ends_with("@@ -1,2 +1,2 @@\n one\n-two\n+2\n"), "{text}");
    assert_eq!(file("binary").await.not_shown, Some(NotShown::Binary));
    assert_eq!(file("link").await.not_shown, Some(NotShown::NotAFile));
    assert_eq!(file("absent").await.not_shown, Some(NotShown::Absent));

    let shown = |arguments: &[&str]| {
        let output = world.fsa(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let database = shown(&[
        "snapshot",
        "diff",
        "shop",
        "first",
        "--to",
        "second",
        "--database",
    ]);
    assert!(
        database.contains("M orders  3 inserted, 7 updated, 10 deleted\n    D note text\n"),
        "{database}"
    );
    let texts = shown(&["snapshot", "diff", "shop", "first", "--text"]);
    assert!(
        texts.contains("-two\n+2\n") && texts.contains("binary: binary files differ"),
        "{texts}"
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_on_btrfs_say_exactly_what_changed() {
    story(World::start(BTRFS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_in_plain_folders_say_exactly_what_changed() {
    story(World::start(&[])).await;
}
