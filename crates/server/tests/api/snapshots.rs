//! Snapshot tests: create, list, show, compare, delete and restore over the API. Crashes are in the tests of the
//! reconciliation.

use bytes::Bytes;
use fsa_driver_testing::memory::{Call, Fault};
use fsa_model::{Failure, FailureKind, event::EventKind};
use http::Method;
use serde_json::{Value, json};

use crate::common::{Client, World, project, running_project};

const SNAPSHOTS: &str = "/api/projects/todo/snapshots";

async fn write(client: &Client, name: &str, content: &'static str) {
    let path = format!("/api/projects/todo/files?path={name}");
    let content = Bytes::from(content);
    let written = client.send_bytes(Method::PUT, &path, None, content).await;
    assert!(written.status.is_success(), "{}", written.text());
}

async fn read(client: &Client, name: &str) -> Option<String> {
    let answer = client.get(&format!("/api/projects/todo/files?path={name}")).await;
    answer.status.is_success().then(|| answer.text())
}

async fn take(client: &Client, body: Value) -> Value {
    client.post(SNAPSHOTS, &body).await.expect(201).json()
}

fn id(snapshot: &Value) -> &str {
    snapshot["id"].as_str().expect("an id")
}

/// The kinds of the project's events that are about snapshots, oldest first.
fn events(world: &World) -> Vec<String> {
    let rows = world
        .database
        .sql("select kind from events where kind like 'snapshot%' order by id");
    rows.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_snapshot_is_taken_listed_found_by_name_and_audited() {
    let world = World::working().await;
    let owner = world.owner().await;
    running_project(&owner, "todo").await;

    let first = take(&owner, json!({"name": "before the upgrade"})).await;
    let second = owner.post_empty(SNAPSHOTS).await.expect(201).json();

    assert_eq!(first["state"], "ready");
    assert_eq!(first["cause"], "manual");
    assert_eq!(first["createdBy"], "owner");
    assert_eq!(second["name"], Value::Null);
    let listed = owner.get(SNAPSHOTS).await.expect(200).json();
    let listed: Vec<_> = listed["items"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(listed, [id(&second), id(&first)]);
    for reference in [id(&first), "before%20the%20upgrade"] {
        let found = owner
            .get(&format!("{SNAPSHOTS}/{reference}"))
            .await
            .expect(200)
            .json();
        assert_eq!(found, first);
    }
    owner.get(&format!("{SNAPSHOTS}/another")).await.expect(404);
    assert_eq!(events(&world), ["snapshotCreated", "snapshotCreated"]);
    let audited = world
        .database
        .sql("select count(*) from audit where action = 'snapshot.create'");
    assert_eq!(audited, "2");
}

#[tokio::test]
async fn names_are_unique_and_checked() {
    let world = World::working().await;
    let owner = world.owner().await;
    running_project(&owner, "todo").await;
    let first = take(&owner, json!({"name": "one"})).await;

    let refused = owner
        .post(SNAPSHOTS, &json!({"name": "one"}))
        .await
        .expect(409)
        .text();
    assert!(refused.contains("one"), "{refused:?}");
    let refused = owner.post(SNAPSHOTS, &json!({"name": ""})).await.expect(422);
    assert_eq!(refused.field(), "name");
    let refused = owner
        .post(SNAPSHOTS, &json!({"name": id(&first)}))
        .await
        .expect(422);
    assert_eq!(refused.field(), "name");

    // The name of a deleted snapshot is free at once.
    owner.delete(&format!("{SNAPSHOTS}/one")).await.expect(202);
    take(&owner, json!({"name": "one"})).await;
}

#[tokio::test]
async fn a_repeated_request_with_the_same_key_takes_one_snapshot() {
    let world = World::working().await;
    let owner = world.owner().await;
    running_project(&owner, "todo").await;
    let keyed = owner.with("idempotency-key", "a-1");

    let (one, other) = tokio::join!(
        take(&keyed, json!({"name": "one"})),
        take(&keyed, json!({"name": "one"}))
    );

    assert_eq!(one, other);
    assert_eq!(world.driver.all_snapshots().len(), 1);
    let refused = keyed.post(SNAPSHOTS, &json!({"name": "two"})).await.expect(422);
    assert_eq!(refused.field(), "Idempotency-Key");
    let another = take(&owner.with("idempotency-key", "a-2"), json!({})).await;
    assert_ne!(id(&another), id(&one));
}

#[tokio::test]
async fn a_restored_snapshot_has_the_old_files_and_the_new_ones_are_kept() {
    let world = World::working().await;
    let owner = world.owner().await;
    running_project(&owner, "todo").await;
    write(&owner, "file", "old").await;
    let snapshot = take(&owner, json!({"name": "old"})).await;
    write(&owner, "file", "new").await;
    write(&owner, "added", "new").await;

    let waiting = owner.with("prefer", "wait=60");
    let restored = waiting
        .post_empty(&format!("{SNAPSHOTS}/old/restore"))
        .await
        .expect(200)
        .json();

    assert_eq!(restored["status"], "RUNNING");
    assert_eq!(read(&owner, "file").await.as_deref(), Some("old"));
    assert_eq!(read(&owner, "added").await, None);
    let listed = owner.get(SNAPSHOTS).await.expect(200).json();
    let before = &listed["items"][0];
    assert_eq!(
        (&before["cause"], &before["state"]),
        (&json!("before-restore"), &json!("ready"))
    );
    assert_eq!(listed["items"][1]["id"], snapshot["id"]);
    assert_eq!(
        events(&world),
        ["snapshotCreated", "snapshotCreated", "snapshotRestored"]
    );

    // The restore can be undone.
    let path = format!("{SNAPSHOTS}/{}/restore", id(before));
    waiting.post_empty(&path).await.expect(200);
    assert_eq!(read(&owner, "file").await.as_deref(), Some("new"));
    assert_eq!(read(&owner, "added").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_stopped_project_stays_stopped_and_a_terminated_one_is_not_restored() {
    let world = World::working().await;
    let owner = world.owner().await.with("prefer", "wait=60");
    running_project(&owner, "todo").await;
    write(&owner, "file", "old").await;
    take(&owner, json!({"name": "old"})).await;
    write(&owner, "file", "new").await;
    owner.post_empty("/api/projects/todo/stop").await.expect(200);

    let restored = owner
        .post_empty(&format!("{SNAPSHOTS}/old/restore"))
        .await
        .expect(200)
        .json();

    assert_eq!(restored["status"], "STOPPED");
    owner.post_empty("/api/projects/todo/start").await.expect(200);
    assert_eq!(read(&owner, "file").await.as_deref(), Some("old"));
    owner.delete("/api/sandbox/todo").await.expect(200);
    owner
        .post_empty(&format!("{SNAPSHOTS}/old/restore"))
        .await
        .expect(409);
}

#[tokio::test]
async fn a_diff_says_what_changed_up_to_another_snapshot_or_up_to_now() {
    let world = World::working().await;
    let owner = world.owner().await;
    running_project(&owner, "todo").await;
    write(&owner, "changed", "one").await;
    take(&owner, json!({"name": "first"})).await;
    write(&owner, "changed", "three").await;
    let second = take(&owner, json!({"name": "second"})).await;
    write(&owner, "added", "new").await;

    let up_to_second = owner
        .get(&format!("{SNAPSHOTS}/first/diff?to=second"))
        .await
        .expect(200)
        .json();
    let up_to_now = owner
        .get(&format!("{SNAPSHOTS}/first/diff"))
        .await
        .expect(200)
        .json();

    assert_eq!(up_to_second["to"], second["id"]);
    let change = json!({"path": "/home/dev/project/changed", "change": "changed", "kind": "file", "sizeBefore": 3, "size": 5});
    assert_eq!(up_to_second["changes"], json!([change]));
    assert_eq!(
        (&up_to_now["added"], &up_to_now["changed"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(up_to_now["truncated"], false);
    owner
        .get(&format!("{SNAPSHOTS}/first/diff?to=absent"))
        .await
        .expect(404);
}

#[tokio::test]
async fn the_text_of_a_change_is_shown_and_what_is_not_text_is_said() {
    let world = World::working().await;
    let owner = world.owner().await;
    running_project(&owner, "todo").await;
    write(&owner, "text", "one\ntwo\n").await;
    write(&owner, "binary", "a\0b").await;
    take(&owner, json!({"name": "first"})).await;
    write(&owner, "text", "one\n2\n").await;
    write(&owner, "binary", "a\0c").await;
    let diff = async |query: &str| {
        let path = format!("{SNAPSHOTS}/first/diff/file?path=/home/dev/project/{query}");
        owner.get(&path).await.expect(200).json()
    };

    let text = diff("text").await;
    assert_eq!(text["path"], "/home/dev/project/text");
    let expected =
        "--- a/home/dev/project/text\n+++ b/home/dev/project/text\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n";
    assert_eq!(
        (&text["text"], &text["truncated"]),
        (&json!(expected), &json!(false))
    );
    assert_eq!(diff("binary").await["notShown"], "binary");
    assert_eq!(diff("absent").await["notShown"], "absent");
    take(&owner, json!({"name": "second"})).await;
    write(&owner, "text", "three\n").await;
    assert_eq!(diff("text&to=second").await["text"], expected);

    for path in ["", "text", "/a/../b", "/a%00b"] {
        let path = format!("{SNAPSHOTS}/first/diff/file?path={path}");
        assert_eq!(owner.get(&path).await.expect(422).field(), "path");
    }
    owner
        .get(&format!("{SNAPSHOTS}/absent/diff/file?path=/a"))
        .await
        .expect(404);
    // The databases of this driver are in no snapshot.
    let refused = owner
        .get(&format!("{SNAPSHOTS}/first/diff/database"))
        .await
        .expect(409);
    assert!(refused.text().contains("no database"), "{}", refused.text());
}

#[tokio::test]
async fn a_deleted_snapshot_goes_with_an_event_and_so_do_all_with_their_project() {
    let world = World::working().await;
    let owner = world.owner().await;
    let created = running_project(&owner, "todo").await;
    take(&owner, json!({"name": "one"})).await;
    take(&owner, json!({"name": "two"})).await;

    let deleting = owner.delete(&format!("{SNAPSHOTS}/one")).await.expect(202).json();

    assert_eq!(deleting["state"], "deleting");
    let path = format!("{SNAPSHOTS}/{}", id(&deleting));
    until(&world, &created, async || owner.get(&path).await.status == 404).await;
    assert_eq!(world.driver.all_snapshots().len(), 1);
    assert_eq!(events(&world).last().map(String::as_str), Some("snapshotDeleted"));

    let path = "/api/projects/todo";
    owner.with("prefer", "wait=60").delete(path).await.expect(204);
    assert_eq!(world.driver.all_snapshots(), []);
    assert_eq!(world.database.sql("select count(*) from snapshots"), "0");
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_taken_says_why_and_can_be_deleted() {
    let world = World::working().await;
    let owner = world.owner().await;
    let created = running_project(&owner, "todo").await;
    let full = Failure::new(FailureKind::Machine, "the storage pool is full");
    world.driver.script.next(Call::CreateSnapshot, Fault::Fail(full));

    let refused = owner
        .post(SNAPSHOTS, &json!({"name": "one"}))
        .await
        .expect(503)
        .text();

    assert!(refused.contains("the storage pool is full"), "{refused:?}");
    let failed = owner.get(&format!("{SNAPSHOTS}/one")).await.expect(200).json();
    assert_eq!(failed["state"], "failed");
    owner
        .post_empty(&format!("{SNAPSHOTS}/one/restore"))
        .await
        .expect(409);
    owner.delete(&format!("{SNAPSHOTS}/one")).await.expect(202);
    let path = format!("{SNAPSHOTS}/{}", id(&failed));
    until(&world, &created, async || owner.get(&path).await.status == 404).await;
    assert_eq!(events(&world), ["snapshotFailed", "snapshotDeleted"]);
}

#[tokio::test]
async fn a_project_that_was_never_started_has_nothing_to_take_a_snapshot_of() {
    let world = World::working().await;
    let owner = world.owner().await;
    owner
        .post("/api/projects", &json!({"name": "todo", "start": false}))
        .await
        .expect(201);
    let refused = owner.post_empty(SNAPSHOTS).await.expect(409).text();
    assert!(refused.contains("start"), "{refused:?}");
}

#[tokio::test]
async fn the_number_of_snapshots_is_limited() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;
    world.database.sql(
        "insert into snapshots (id, project_id, volume_id, sandbox_id, resource, cause, state)
         select gen_random_uuid(), s.project_id, s.project_id, s.id, s.resource, 'manual', 'ready'
         from sandboxes s, generate_series(1, 200)",
    );
    let refused = owner.post_empty(SNAPSHOTS).await.expect(409).text();
    assert!(refused.contains("200"), "{refused:?}");

    let page = owner.get(SNAPSHOTS).await.expect(200).json();
    assert_eq!(page["items"].as_array().unwrap().len(), 100);
    let next_page = page["nextCursor"].as_str().unwrap().to_owned();
    let page = owner
        .get(&format!("{SNAPSHOTS}?cursor={next_page}"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (page["items"].as_array().unwrap().len(), &page["nextCursor"]),
        (100, &Value::Null)
    );

    // Failed ones make room after a while.
    world.database.sql(
        "update snapshots set state = 'failed', created_at = now() - interval '2 hours'
         where id = (select id from snapshots limit 1)",
    );
    let waits_not = owner.with("prefer", "wait=0");
    waits_not.post_empty(SNAPSHOTS).await.expect(202);
}

/// Waits until a condition holds, which is checked at every change of the project.
async fn until(world: &World, project: &Value, condition: impl AsyncFn() -> bool) {
    use fsa_server::store::notify::Topic;
    let id = project["id"].as_str().unwrap().parse().expect("a project's id");
    let mut subscription = world.app.hub.subscribe(Topic::Project(id));
    let wait = async {
        while !condition().await {
            // A notification may be lost with its connection.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(2), subscription.changed()).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(240), wait)
        .await
        .expect("it happens before the timeout");
}

#[test]
fn kinds_of_events_have_the_names_that_the_page_knows() {
    let kinds = [
        EventKind::SnapshotCreated,
        EventKind::SnapshotFailed,
        EventKind::SnapshotDeleted,
        EventKind::SnapshotRestored,
    ];
    let names = serde_json::to_value(kinds).unwrap();
    assert_eq!(
        names,
        json!([
            "snapshotCreated",
            "snapshotFailed",
            "snapshotDeleted",
            "snapshotRestored"
        ])
    );
}
