//! Branch tests: a branch is a copy, is independent, and leaves nothing behind.

use bytes::Bytes;
use fsa_driver_testing::memory::{Call, Fault};
use fsa_model::{
    Failure, FailureKind, Phase, VolumeId,
    api::{Project, Sandbox},
    branch::{Branch, Branches},
    event::EventKind,
};
use http::Method;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::scene::{Scene, Workers};

impl Scene {
    async fn branch(&self, project: &Project, body: Value) -> Branch {
        let path = format!("/api/projects/{}/branches", project.id);
        self.owner.post(&path, &body).await.expect(201).read()
    }

    /// A running branch that is a copy of `main`.
    async fn running_branch(&self, project: &Project, name: &str) -> Sandbox {
        let waiting = self.owner.with("prefer", "wait=60");
        let path = format!("/api/projects/{}/branches", project.id);
        let created = waiting.post(&path, &json!({"name": name})).await.expect(201);
        let sandbox = created.read::<Branch>().sandbox.expect("a sandbox");
        assert_eq!(sandbox.status, Phase::Running, "{:?}", sandbox.error);
        sandbox
    }

    async fn sandbox_of(&self, project: &Project, branch: &str) -> Sandbox {
        let path = format!("/api/sandbox/{}?branch={branch}", project.id);
        self.owner.get(&path).await.expect(200).read()
    }

    async fn write_note(&self, project: &Project, branch: &str, content: &'static str) {
        let path = format!("/api/projects/{}/files?path=note&branch={branch}", project.id);
        let content = Bytes::from_static(content.as_bytes());
        let answer = self.owner.send_bytes(Method::PUT, &path, None, content).await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }

    async fn read_note(&self, project: &Project, branch: &str) -> String {
        let path = format!("/api/projects/{}/files?path=note&branch={branch}", project.id);
        self.owner.get(&path).await.expect(200).text()
    }

    /// Deletes a branch, and waits until it is gone.
    async fn delete_branch(&self, project: &Project, name: &str) {
        let waiting = self.owner.with("prefer", "wait=60");
        let path = format!("/api/projects/{}/branches/{name}", project.id);
        waiting.delete(&path).await.expect(204);
    }
}

#[tokio::test]
async fn a_branch_is_a_copy_and_neither_changes_the_other() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene.write_note(&project, "main", "old").await;

    let fix = scene.running_branch(&project, "fix").await;

    assert_eq!(scene.read_note(&project, "fix").await, "old");
    scene.write_note(&project, "fix", "fixed").await;
    scene.write_note(&project, "main", "new").await;
    assert_eq!(scene.read_note(&project, "fix").await, "fixed");
    assert_eq!(scene.read_note(&project, "main").await, "new");
    let main = scene.status(&project).await;
    assert_ne!((fix.id, &fix.name), (main.id, &main.name));
    assert!(
        fix.public_url.contains("//fix--todo--3000."),
        "{}",
        fix.public_url
    );
    // The surroundings are the same.
    let variable = |sandbox: &Sandbox| {
        let resource = sandbox.name.parse().expect("a resource name");
        let environment = scene.world.driver.environment(&resource).expect("it runs");
        environment["DATABASE_URL"].expose_secret().to_owned()
    };
    assert_eq!(variable(&fix), variable(&main));
    // A copy of a copy, from the branch and not from main.
    let again = json!({"name": "again", "from": "fix"});
    scene.branch(&project, again).await;
    scene.until_settled().await;
    assert_eq!(scene.read_note(&project, "again").await, "fixed");
    let path = format!("/api/projects/{}/branches", project.id);
    let all: Branches = scene.owner.get(&path).await.expect(200).read();
    let names: Vec<&str> = all.items.iter().map(|branch| branch.name.as_str()).collect();
    assert_eq!(names, ["main", "again", "fix"]);
    scene.assert_consistent();
}

#[tokio::test]
async fn actions_on_a_branch_leave_main_alone() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene.running_branch(&project, "fix").await;
    let main = scene.status(&project).await;
    let action = async |what: &str| {
        let path = format!("/api/projects/todo@fix/{what}");
        scene.owner.post_empty(&path).await.expect(202);
        scene.until_settled().await;
    };

    action("stop").await;
    assert_eq!(scene.sandbox_of(&project, "fix").await.status, Phase::Stopped);
    action("start").await;
    action("restart").await;
    assert_eq!(scene.sandbox_of(&project, "fix").await.status, Phase::Running);
    let branch = format!("/api/projects/{}/environment?branch=fix", project.id);
    let changed = scene
        .owner
        .patch(&branch, &json!({"envVars": {"COLOR": "red"}}))
        .await;
    assert_eq!(changed.expect(200).json()["restarting"], true);
    scene.until_settled().await;
    let fix = scene.sandbox_of(&project, "fix").await.name.parse().unwrap();
    let environment = scene.world.driver.environment(&fix).expect("it runs");
    assert_eq!(environment["COLOR"].expose_secret(), "red");
    scene.owner.delete("/api/sandbox/todo@fix").await.expect(202);
    scene.until_settled().await;
    let gone = scene.sandbox_of(&project, "fix").await;
    assert_eq!(gone.status, Phase::Terminated);

    let after = scene.status(&project).await;
    assert_eq!((after.id, after.status), (main.id, Phase::Running));
    assert_eq!(after.updated_at, main.updated_at);
    let resource = main.name.parse().unwrap();
    let environment = scene.world.driver.environment(&resource).expect("it runs");
    assert!(!environment.contains_key("COLOR"));
    // The files outlive the branch's sandbox.
    action("start").await;
    assert_eq!(scene.sandbox_of(&project, "fix").await.status, Phase::Running);
    scene.assert_consistent();
}

#[tokio::test]
async fn variables_of_the_project_are_those_of_all_branches() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let fix = scene.running_branch(&project, "fix").await.name.parse().unwrap();
    let change = async |branch: &str, value: &str| {
        let path = format!("/api/projects/todo{branch}/environment");
        let body = json!({"envVars": {"COLOR": value}});
        scene.owner.patch(&path, &body).await.expect(200);
        scene.until_settled().await;
    };
    let color = || scene.world.driver.environment(&fix).expect("it runs")["COLOR"].clone();

    change("", "blue").await;
    assert_eq!(color().expose_secret(), "blue");
    change("@fix", "red").await;
    change("", "green").await;
    assert_eq!(color().expose_secret(), "red");

    let shown = scene
        .owner
        .get("/api/projects/todo@fix/environment?reveal=true")
        .await;
    assert_eq!(shown.expect(200).json()["envVars"], json!({"COLOR": "red"}));
    let encrypted = "select encode(environment, 'escape') from branches where name = 'fix'";
    assert!(!scene.world.database.sql(encrypted).contains("red"));
}

#[tokio::test]
async fn a_deleted_branch_leaves_nothing_behind() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene.running_branch(&project, "fix").await;

    scene.delete_branch(&project, "fix").await;

    let main = VolumeId::of_main(project.id);
    assert_eq!(scene.world.driver.volumes(), [main]);
    assert_eq!(scene.world.driver.resources(), [scene.resource(&project).await]);
    assert_eq!(scene.world.databases.roles().len(), 1);
    assert_eq!(scene.world.database.sql("select name from branches"), "main");
    let path = format!("/api/projects/{}/branches/fix", project.id);
    scene.owner.get(&path).await.expect(404);
    scene.owner.get("/api/sandbox/todo@fix").await.expect(404);
    let deleted = scene.events_of(&project, EventKind::BranchDeleted).await;
    assert_eq!(deleted.len(), 1);
    scene.until_settled().await;
    assert_eq!(scene.world.driver.all_snapshots(), []);
    // Its name is free again.
    scene.running_branch(&project, "fix").await;
    scene.until_settled().await;
    scene.assert_consistent();
}

#[tokio::test]
async fn a_deleted_project_leaves_no_branch_behind() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene.running_branch(&project, "fix").await;
    scene
        .branch(&project, json!({"name": "stopped", "start": false}))
        .await;
    scene.until_settled().await;

    scene.delete(&project).await;
    scene.until_gone(&project).await;

    assert_eq!(scene.world.driver.volumes(), []);
    assert_eq!(scene.world.driver.resources(), []);
    assert_eq!(scene.world.databases.roles(), Vec::<String>::new());
    assert_eq!(scene.world.database.sql("select count(*) from branches"), "0");
    scene.assert_consistent();
}

#[tokio::test]
async fn a_branch_that_is_not_started_is_copied_at_once() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene.write_note(&project, "main", "old").await;
    scene
        .branch(&project, json!({"name": "later", "start": false}))
        .await;
    scene.until_settled().await;
    scene.write_note(&project, "main", "new").await;

    scene
        .owner
        .post_empty("/api/projects/todo@later/start")
        .await
        .expect(202);
    scene.until_settled().await;

    assert_eq!(scene.read_note(&project, "later").await, "old");
}

#[tokio::test]
async fn an_interrupted_copy_is_made_once() {
    let (scene, workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene.write_note(&project, "main", "old").await;
    let failure = Failure::new(FailureKind::Transient, "the disk is slow");
    let script = &scene.world.driver.script;
    script.next(Call::CreateSnapshot, Fault::Fail(failure.clone()));
    script.next(Call::CloneSnapshot, Fault::FailHalfway(failure));
    script.next(Call::EnsureContainer, Fault::Hang);

    scene.branch(&project, json!({"name": "fix"})).await;
    // The copy is made; the worker dies while it starts the sandbox.
    while scene.world.driver.log.count(Call::EnsureContainer) < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    workers.task.abort();
    scene.write_note(&project, "main", "new").await;
    scene.expire_leases();
    let _workers: Workers = scene.start_workers();
    scene.until_settled().await;

    assert_eq!(scene.read_note(&project, "fix").await, "old");
    scene.assert_consistent();
}

#[tokio::test]
async fn tasks_and_events_name_their_branch() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene.running_branch(&project, "fix").await;

    let task = scene
        .owner
        .post("/api/projects/todo@fix/tasks", &json!({"prompt": "x"}))
        .await;
    assert_eq!(task.expect(201).json()["branch"], "fix");

    let list = async |query: &str| {
        let page = scene.owner.get(&format!("/api/projects/todo{query}")).await;
        page.expect(200).json()["items"].as_array().unwrap().clone()
    };
    assert_eq!(list("@fix/tasks").await.len(), 1);
    let of_fix = list("/events?follow=false&branch=fix").await;
    assert!(of_fix.iter().all(|event| event["branch"] == "fix"));
    assert_eq!(of_fix[0]["kind"], "branchCreated");
    let all = list("/events?follow=false").await;
    assert!(all.len() > of_fix.len());
}
