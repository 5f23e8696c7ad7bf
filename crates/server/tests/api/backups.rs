//! Backup tests: create, list, restore as a new project, verify, cancel and delete over the API.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fsa_driver_testing::memory::{Call, Fault, Gate};
use fsa_model::{Failure, FailureKind};
use fsa_server::store::notify::Topic;
use http::Method;
use serde_json::{Value, json};

use crate::common::{Client, World, running_project};

const BACKUPS: &str = "/api/projects/todo/backups";

async fn write(client: &Client, project: &str, name: &str, content: &'static str) {
    let path = format!("/api/projects/{project}/files?path={name}");
    let content = Bytes::from(content);
    let written = client.send_bytes(Method::PUT, &path, None, content).await;
    assert!(written.status.is_success(), "{}", written.text());
}

async fn read(client: &Client, project: &str, name: &str) -> Option<String> {
    let answer = client
        .get(&format!("/api/projects/{project}/files?path={name}"))
        .await;
    answer.status.is_success().then(|| answer.text())
}

fn id(value: &Value) -> String {
    value["id"].as_str().expect("an id").to_owned()
}

/// The project todo with a variable, and a file of each part.
async fn todo(world: &World, owner: &Client) -> String {
    let project = running_project(owner, "todo").await;
    let variables = json!({"envVars": {"SECRET": "s3cret", "DATABASE_URL": "postgres://elsewhere/x"}});
    owner
        .with("prefer", "wait=60")
        .put("/api/projects/todo/environment", &variables)
        .await
        .expect(200);
    until_running(world, owner, "todo").await;
    write(owner, "todo", "file", "one").await;
    write(owner, "todo", "%2Fetc%2Fmotd", "hello").await;
    id(&project)
}

async fn until_running(world: &World, client: &Client, name: &str) {
    let path = format!("/api/projects/{name}");
    let project = client.get(&path).await.expect(200).json();
    let topic = Topic::Project(id(&project).parse().expect("an id"));
    let mut changes = world.app.hub.subscribe(topic);
    while client.get(&path).await.expect(200).json()["sandbox"]["status"] != "RUNNING" {
        changes.changed().await;
    }
}

/// The backup once `done` is true of it.
async fn until(world: &World, client: &Client, backup: &Value, done: impl Fn(&Value) -> bool) -> Value {
    let project = backup["projectId"].as_str().expect("a project");
    let topic = Topic::Project(project.parse().expect("an id"));
    let mut changes = world.app.hub.subscribe(topic);
    loop {
        let now = client
            .get(&format!("/api/backups/{}", id(backup)))
            .await
            .expect(200)
            .json();
        if done(&now) {
            return now;
        }
        changes.changed().await;
    }
}

async fn until_ended(world: &World, client: &Client, backup: &Value) -> Value {
    until(world, client, backup, |backup| {
        backup["state"] != "queued" && backup["state"] != "running"
    })
    .await
}

async fn stored(world: &World, client: &Client) -> Value {
    let backup = client.post_empty(BACKUPS).await.expect(202).json();
    let backup = until_ended(world, client, &backup).await;
    assert_eq!(backup["state"], "ready", "{backup}");
    backup
}

#[tokio::test]
async fn a_backup_is_restored_as_a_new_project_with_files_and_variables() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_backups(folder.path()).await;
    let owner = world.owner().await;
    todo(&world, &owner).await;

    let backup = stored(&world, &owner).await;
    write(&owner, "todo", "file", "two").await;
    let restored = owner
        .post(
            &format!("/api/backups/{}/restore", id(&backup)),
            &json!({"name": "again"}),
        )
        .await
        .expect(201)
        .json();
    until_running(&world, &owner, "again").await;

    assert_eq!(restored["name"], "again");
    assert_eq!(read(&owner, "again", "file").await.as_deref(), Some("one"));
    assert_eq!(
        read(&owner, "again", "%2Fetc%2Fmotd").await.as_deref(),
        Some("hello")
    );
    assert_eq!(read(&owner, "todo", "file").await.as_deref(), Some("two"));
    let variables = owner
        .get("/api/projects/again/environment?reveal=true")
        .await
        .expect(200)
        .json();
    assert_eq!(variables["envVars"]["SECRET"], "s3cret");
    let listed = owner.get(BACKUPS).await.expect(200).json();
    assert_eq!(listed["items"][0]["id"], backup["id"]);
    assert_eq!(backup["files"], 3);
    // What the backup needed is gone.
    assert_eq!(
        world
            .database
            .sql("select count(*) from snapshots where deleted_at is null"),
        "0"
    );
}

#[tokio::test]
async fn another_server_restores_a_backup_that_it_finds_in_the_repository() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_backups(folder.path()).await;
    let owner = world.owner().await;
    todo(&world, &owner).await;
    let backup = stored(&world, &owner).await;

    let other = World::with_backups(folder.path()).await;
    let administrator = other.owner().await;
    let found = administrator
        .get("/api/backups?foreign=true")
        .await
        .expect(200)
        .json();
    let path = format!("/api/backups/{}/restore", id(&backup));
    let member = other.member("ada").await;
    member.get("/api/backups?foreign=true").await.expect(403);
    member.post_empty(&path).await.expect(404);
    administrator.post_empty(&path).await.expect(201);
    until_running(&other, &administrator, "todo").await;

    assert_eq!(found["items"][0]["id"], backup["id"]);
    assert_eq!(found["items"][0]["projectName"], "todo");
    assert_eq!(read(&administrator, "todo", "file").await.as_deref(), Some("one"));
    let own = owner.get("/api/backups?foreign=true").await.expect(200).json();
    assert_eq!(own["items"], json!([]));
}

#[tokio::test]
async fn a_backup_outlives_its_project_and_belongs_to_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_backups(folder.path()).await;
    let owner = world.owner().await;
    todo(&world, &owner).await;
    let backup = stored(&world, &owner).await;
    owner
        .with("prefer", "wait=60")
        .delete("/api/projects/todo")
        .await
        .expect(204);
    let member = world.member("ada").await;

    let path = format!("/api/backups/{}", id(&backup));
    member.get(&path).await.expect(404);
    member.post_empty(&format!("{path}/restore")).await.expect(404);
    owner.post_empty(&format!("{path}/restore")).await.expect(201);
    until_running(&world, &owner, "todo").await;

    assert_eq!(read(&owner, "todo", "file").await.as_deref(), Some("one"));
}

#[tokio::test]
async fn without_a_repository_there_are_no_backups() {
    let world = World::working().await;
    let owner = world.owner().await;
    running_project(&owner, "todo").await;

    let refused = owner.post_empty(BACKUPS).await.expect(409).text();

    assert!(refused.contains("backup_repository"), "{refused}");
    assert_eq!(owner.get(BACKUPS).await.expect(200).json()["items"], json!([]));
}

#[tokio::test]
async fn a_file_that_cannot_be_read_fails_the_backup_and_nothing_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_backups(folder.path()).await;
    let owner = world.owner().await;
    todo(&world, &owner).await;
    let broken = Failure::new(FailureKind::Machine, "its disk failed");
    world
        .driver
        .script
        .always(Call::OpenSnapshotFile, Fault::Fail(broken));

    let backup = owner.post_empty(BACKUPS).await.expect(202).json();
    // A read may succeed later, so it is tried again.
    let failed = until_ended(&world, &owner, &backup).await;

    assert_eq!(failed["state"], "failed");
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("its disk failed"), "{message}");
    let path = format!("/api/backups/{}", id(&backup));
    owner.post_empty(&format!("{path}/restore")).await.expect(409);
    world.driver.script.clear();
    stored(&world, &owner).await;
}

#[tokio::test]
async fn a_canceled_backup_ends_and_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_backups(folder.path()).await;
    let owner = world.owner().await;
    todo(&world, &owner).await;
    let gate = Gate::default();
    world
        .driver
        .script
        .always(Call::OpenSnapshotFile, Fault::Pause(gate.clone()));

    let backup = owner.post_empty(BACKUPS).await.expect(202).json();
    gate.reached().await;
    let path = format!("/api/backups/{}", id(&backup));
    owner.post_empty(&format!("{path}/cancel")).await.expect(202);
    gate.open();
    let ended = until_ended(&world, &owner, &backup).await;

    assert!(
        ["canceled", "ready"].contains(&ended["state"].as_str().unwrap()),
        "{ended}"
    );
    owner.post_empty(&format!("{path}/cancel")).await.expect(409);
}

fn packs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(packs(&path)),
            false => found.push(path),
        }
    }
    found
}

#[tokio::test]
async fn a_verification_finds_what_was_damaged_and_a_deleted_backup_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_backups(folder.path()).await;
    let owner = world.owner().await;
    todo(&world, &owner).await;
    let backup = stored(&world, &owner).await;
    let path = format!("/api/backups/{}", id(&backup));
    let verified = |backup: &Value| backup["verifying"] == false && !backup["verification"].is_null();

    owner.post_empty(&format!("{path}/verify")).await.expect(202);
    let whole = until(&world, &owner, &backup, verified).await;
    for pack in packs(&folder.path().join("data")) {
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
    }
    owner.post_empty(&format!("{path}/verify")).await.expect(202);
    let damaged = until(&world, &owner, &backup, |backup| {
        verified(backup) && backup["verification"]["at"] != whole["verification"]["at"]
    })
    .await;

    assert_eq!(whole["verification"]["problems"], json!([]));
    assert_ne!(damaged["verification"]["problems"], json!([]));
    owner.delete(&path).await.expect(202);
    let project = backup["projectId"].as_str().unwrap().parse().unwrap();
    let mut changes = world.app.hub.subscribe(Topic::Project(project));
    while owner.get(&path).await.status != 404 {
        changes.changed().await;
    }
    assert_eq!(
        owner.get("/api/backups").await.expect(200).json()["items"],
        json!([])
    );
}
