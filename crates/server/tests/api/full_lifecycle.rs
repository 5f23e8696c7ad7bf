//! Project lifecycle test: one project from creation to deletion, with workers that reconcile it.

use fsa_model::event::EventKind;
use serde_json::json;

use crate::common::World;

#[tokio::test]
async fn a_project_runs_stops_restarts_and_is_deleted_completely() {
    let world = World::working().await;
    let owner = world.owner().await;
    let waiting = owner.with("prefer", "wait=60");
    let mut events = owner.events("/api/events").await;

    let created = waiting
        .post("/api/projects", &json!({"name": "todo"}))
        .await
        .expect(201)
        .json();
    assert_eq!(created["sandbox"]["status"], "RUNNING");
    for stage in created["sandbox"]["stages"].as_array().unwrap() {
        assert_eq!(stage["state"], "done", "{stage}");
    }
    let database = owner.get("/api/projects/todo/database").await.expect(200).json();
    assert_eq!(database["status"], "READY");

    let stopped = waiting
        .post_empty("/api/projects/todo/stop")
        .await
        .expect(200)
        .json();
    assert_eq!(stopped["status"], "STOPPED");
    let started = waiting
        .post_empty("/api/projects/todo/start")
        .await
        .expect(200)
        .json();
    assert_eq!(started["status"], "RUNNING");
    let changed = waiting
        .patch("/api/projects/todo/environment", &json!({"envVars": {"A": "1"}}))
        .await
        .expect(200)
        .json();
    assert_eq!(changed["restarting"], true);
    let terminated = waiting.delete("/api/sandbox/todo").await.expect(200).json();
    assert_eq!(terminated["status"], "TERMINATED");
    assert_eq!(world.databases.roles().len(), 1, "the database is kept");
    waiting.post_empty("/api/sandbox/todo").await.expect(200);
    waiting.delete("/api/projects/todo").await.expect(204);

    assert!(world.driver.resources().is_empty());
    assert!(world.driver.volumes().is_empty());
    assert!(world.databases.roles().is_empty());
    let mut kinds = Vec::new();
    while kinds.last() != Some(&EventKind::ProjectDeleted) {
        kinds.push(events.next().await.unwrap().event.kind);
    }
    assert_eq!(kinds[0], EventKind::ProjectCreated);
    assert!(kinds.contains(&EventKind::EnvironmentChanged));
}

#[tokio::test]
async fn a_missing_image_is_reported_at_once() {
    let world = World::working().await;
    let waiting = world.owner().await.with("prefer", "wait=60");

    let body = json!({"name": "todo", "image": fsa_driver_testing::memory::MISSING_IMAGE});
    let created = waiting.post("/api/projects", &body).await.expect(201).json();

    assert_eq!(created["sandbox"]["status"], "ERROR");
    assert_eq!(created["sandbox"]["error"]["kind"], "input");
    assert!(created["sandbox"]["error"]["nextAttemptAt"].is_string());
}
