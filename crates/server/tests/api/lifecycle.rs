//! Lifecycle action tests: start, stop, restart, terminate; and waiting for them.

use serde_json::json;

use crate::common::{Client, World, project};

/// Writes what a worker writes when the newest desired state is reached.
fn reached(world: &World, container: &str) {
    world.database.sql(&format!(
        "update sandboxes set observed_generation = generation, container = '{container}', failure = null, \
         observed_at = now()"
    ));
}

fn desired_state(world: &World) -> String {
    world
        .database
        .sql("select desired_state || ' ' || generation || ' ' || restarts from sandboxes order by created_at desc limit 1")
}

async fn request_action(client: &Client, what: &str, status: u16) -> serde_json::Value {
    client
        .post_empty(&format!("/api/projects/todo/{what}"))
        .await
        .expect(status)
        .json()
}

#[tokio::test]
async fn lifecycle_actions_are_stored_and_answered_at_once() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;
    reached(&world, "running");
    assert_eq!(owner.get("/api/sandbox/todo").await.json()["status"], "RUNNING");

    assert_eq!(request_action(&owner, "start", 202).await["status"], "RUNNING");
    assert_eq!(desired_state(&world), "running 1 0");
    assert_eq!(request_action(&owner, "restart", 202).await["status"], "UPDATING");
    assert_eq!(desired_state(&world), "running 2 1");
    assert_eq!(request_action(&owner, "stop", 202).await["status"], "STOPPING");
    assert_eq!(request_action(&owner, "stop", 202).await["status"], "STOPPING");
    assert_eq!(desired_state(&world), "stopped 3 1");
    reached(&world, "stopped");
    assert_eq!(request_action(&owner, "start", 202).await["status"], "STARTING");
    assert_eq!(desired_state(&world), "running 4 1");
}

#[tokio::test]
async fn a_post_does_not_restart_a_start_in_progress() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;

    let posted = owner
        .post("/api/sandbox/todo", &json!({"envVars": {}}))
        .await
        .expect(202)
        .json();
    assert_eq!(posted["status"], "CREATING");
    assert_eq!(desired_state(&world), "running 1 0");

    owner
        .post("/api/sandbox/todo", &json!({"envVars": {"A": "1"}}))
        .await
        .expect(202);
    assert_eq!(desired_state(&world), "running 2 0");
    reached(&world, "running");
    owner.post_empty("/api/sandbox/todo").await.expect(202);
    assert_eq!(desired_state(&world), "running 3 1");
}

#[tokio::test]
async fn a_terminated_sandbox_is_recreated_under_another_name() {
    let world = World::new().await;
    let owner = world.owner().await;
    let first = project(&owner, "todo").await.sandbox.unwrap();

    let ended = owner.delete("/api/sandbox/todo").await.expect(202).json();
    assert_eq!(ended["status"], "TERMINATING");
    owner.delete("/api/sandbox/todo").await.expect(409);
    owner.post_empty("/api/projects/todo/stop").await.expect(409);
    let again = owner.post_empty("/api/sandbox/todo").await.expect(202).json();

    assert_eq!(again["status"], "CREATING");
    assert_ne!(again["name"], json!(first.name));
    // The old sandbox's desired state stays terminated: no later start can undo that.
    assert_eq!(
        world.database.sql(&format!(
            "select desired_state from sandboxes where id = '{}'",
            first.id
        )),
        "terminated"
    );
    assert_eq!(world.database.sql("select count(*) from databases"), "1");
}

#[tokio::test]
async fn a_wait_ends_when_the_desired_state_is_reached() {
    let world = World::new().await;
    let owner = world.owner().await;
    let waiting = owner.with("prefer", "wait=60");

    let created = tokio::spawn({
        let waiting = waiting.clone();
        async move { waiting.post("/api/projects", &json!({"name": "todo"})).await }
    });
    while world.database.sql("select count(*) from sandboxes") == "0" {
        tokio::task::yield_now().await;
    }
    reached(&world, "running");
    let created = created.await.unwrap().expect(201);
    assert_eq!(created.headers["preference-applied"], "wait=60");
    assert_eq!(created.json()["sandbox"]["status"], "RUNNING");

    let stopped = tokio::spawn(async move { waiting.post_empty("/api/projects/todo/stop").await });
    while !desired_state(&world).starts_with("stopped") {
        tokio::task::yield_now().await;
    }
    reached(&world, "stopped");
    let stopped = stopped.await.unwrap().expect(200);
    assert_eq!(stopped.json()["status"], "STOPPED");
}

#[tokio::test]
async fn a_wait_that_times_out_returns_the_current_state() {
    let world = World::new().await;
    let owner = world.owner().await.with("prefer", "wait=0");
    project(&owner, "todo").await;

    let answer = owner.post_empty("/api/projects/todo/restart").await.expect(202);

    assert_eq!(answer.headers["preference-applied"], "wait=0");
    assert_eq!(answer.json()["status"], "CREATING");
}

#[tokio::test]
async fn a_wait_ends_when_only_the_user_can_fix_the_failure() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;

    let waiting = owner.with("prefer", "wait=60");
    let restarted = tokio::spawn(async move { waiting.post_empty("/api/projects/todo/restart").await });
    while desired_state(&world) != "running 2 1" {
        tokio::task::yield_now().await;
    }
    world.database.sql(
        "update sandboxes set failure = '{\"kind\": \"input\", \"message\": \"There is no image nope.\"}', \
         attempts = 1, next_attempt_at = now() + interval '1 minute', observed_at = clock_timestamp()",
    );

    let answer = restarted.await.unwrap().expect(202).json();
    assert_eq!(answer["status"], "ERROR");
    assert_eq!(answer["error"]["message"], "There is no image nope.");
    assert!(answer["error"]["nextAttemptAt"].is_string());
}

#[tokio::test]
async fn a_deleted_project_leaves_the_list_at_once_and_its_deletion_can_be_awaited() {
    let world = World::new().await;
    let owner = world.owner().await;
    let created = project(&owner, "todo").await;
    let by_id = format!("/api/projects/{}", created.id);

    let waiting = owner.with("prefer", "wait=60");
    let gone = tokio::spawn(async move { waiting.delete("/api/projects/todo").await });
    while world
        .database
        .sql("select count(*) from projects where deleted_at is null")
        != "0"
    {
        tokio::task::yield_now().await;
    }
    owner.get("/api/projects/todo").await.expect(404);
    assert!(
        owner.get("/api/projects").await.json()["items"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        owner.get(&by_id).await.expect(200).json()["sandbox"]["status"],
        "TERMINATING"
    );
    owner.post_empty(&format!("{by_id}/start")).await.expect(404);
    // A repeated request changes nothing.
    assert_eq!(
        owner.delete(&by_id).await.expect(202).json()["id"],
        json!(created.id)
    );

    world.database.sql("delete from projects");
    gone.await.unwrap().expect(204);
    owner.get(&by_id).await.expect(404);
}
