//! Branches over HTTP: names, limits, refusals, and host names.

use http::Method;
use serde_json::{Value, json};

use crate::common::{Client, World, project, running_project};

async fn create(client: &Client, body: Value, status: u16) -> Value {
    client
        .post("/api/projects/todo/branches", &body)
        .await
        .expect(status)
        .json()
}

#[tokio::test]
async fn an_invalid_or_taken_name_is_refused() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;

    let refused = create(&owner, json!({"name": "My Fix"}), 422).await;
    assert_eq!(refused["details"]["field"]["name"], "name");
    assert_eq!(refused["details"]["field"]["suggestion"], "my-fix");
    for name in ["", "a--b", "fix-", "xn", &"x".repeat(31)] {
        create(&owner, json!({"name": name}), 422).await;
    }
    for name in ["main", "fix"] {
        let created = create(
            &owner,
            json!({"name": name}),
            if name == "fix" { 201 } else { 409 },
        )
        .await;
        assert!(created["name"] == "fix" || created["details"]["field"]["name"] == "name");
    }
    create(&owner, json!({"name": "fix"}), 409).await;
    let refused = create(&owner, json!({"name": "other", "from": "absent"}), 422).await;
    assert_eq!(refused["details"]["field"]["name"], "from");
}

#[tokio::test]
async fn main_is_not_deleted_and_a_source_not_while_it_is_copied() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;
    create(&owner, json!({"name": "fix"}), 201).await;
    create(&owner, json!({"name": "copy", "from": "fix"}), 201).await;

    owner.delete("/api/projects/todo/branches/main").await.expect(409);
    let refused = owner.delete("/api/projects/todo/branches/fix").await.expect(409);
    assert!(refused.text().contains("copy"), "{}", refused.text());
    owner
        .delete("/api/projects/todo/branches/absent")
        .await
        .expect(404);
    owner.delete("/api/projects/todo/branches/copy").await.expect(202);
    owner.delete("/api/projects/todo/branches/fix").await.expect(202);
    // It is found no more, and its name is free before everything of it is gone.
    owner.get("/api/sandbox/todo@fix").await.expect(404);
    create(&owner, json!({"name": "fix"}), 201).await;
}

#[tokio::test]
async fn main_is_not_promoted_nor_a_branch_that_is_still_being_copied() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;
    create(&owner, json!({"name": "fix"}), 201).await;
    let promote = async |branch: &str, status: u16| {
        let path = format!("/api/projects/todo/branches/{branch}/promote");
        owner.post_empty(&path).await.expect(status).text()
    };

    assert!(promote("main", 409).await.contains("another branch"));
    assert!(promote("fix", 409).await.contains("still being copied"));
    promote("absent", 404).await;
}

#[tokio::test]
async fn a_promotion_is_requested_once_and_its_key_is_for_it_alone() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;
    for name in ["fix", "other"] {
        create(&owner, json!({"name": name}), 201).await;
    }
    world.database.sql("update branches set copied_at = now()");
    let promote = async |branch: &str, key: &str, status: u16| {
        let path = format!("/api/projects/todo/branches/{branch}/promote");
        let keyed = owner.with("idempotency-key", key);
        keyed.post_empty(&path).await.expect(status).text()
    };

    promote("fix", "a key", 422).await;
    for key in ["1", "1", "2"] {
        promote("fix", key, 202).await;
    }
    promote("other", "1", 422).await;
    assert!(
        promote("other", "3", 409)
            .await
            .contains("main is being restored")
    );
    owner.delete("/api/projects/todo/branches/fix").await.expect(409);
    assert_eq!(
        world
            .database
            .sql("select count(*) from snapshots where cause = 'before-promote'"),
        "1"
    );
}

#[tokio::test]
async fn a_project_has_as_many_branches_as_the_setting_allows() {
    let world = World::with(|settings| settings.limits.branches_per_project = 2).await;
    let owner = world.owner().await;
    project(&owner, "todo").await;

    create(&owner, json!({"name": "fix"}), 201).await;
    let refused = create(&owner, json!({"name": "more"}), 409).await;

    assert!(refused["error"].as_str().unwrap().contains("2 branches"));
}

#[tokio::test]
async fn no_branch_is_created_beside_a_replica_that_knows_none() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;
    let alive =
        "insert into replicas (id, alive_until) values (gen_random_uuid(), now() + interval '1 hour')";
    world.database.sql(alive);

    create(&owner, json!({"name": "fix"}), 503).await;

    world.database.sql("update replicas set knows_branches = true");
    create(&owner, json!({"name": "fix"}), 201).await;
}

#[tokio::test]
async fn what_concerns_the_whole_project_takes_no_branch() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;
    create(&owner, json!({"name": "fix"}), 201).await;

    owner
        .patch("/api/projects/todo@fix", &json!({"description": "x"}))
        .await
        .expect(422);
    owner.delete("/api/projects/todo@fix").await.expect(422);
    owner.get("/api/projects/todo@fix/members").await.expect(422);
    let shown = owner.get("/api/projects/todo@fix").await.expect(200).json();
    assert_eq!(shown["sandbox"]["branch"], "fix");
    owner.get("/api/projects/todo@fix?branch=main").await.expect(422);
    owner.get("/api/projects/todo@absent").await.expect(404);
    owner.get("/api/projects/todo?branch=absent").await.expect(404);
}

#[tokio::test]
async fn a_branch_counts_as_a_running_sandbox() {
    let world = World::with(|settings| settings.limits.per_owner.running = Some(2)).await;
    let owner = world.owner().await;
    project(&owner, "todo").await;

    create(&owner, json!({"name": "fix"}), 201).await;
    create(&owner, json!({"name": "more"}), 403).await;
    create(&owner, json!({"name": "more", "start": false}), 201).await;

    owner
        .post_empty("/api/projects/todo@more/start")
        .await
        .expect(403);
}

#[tokio::test]
async fn a_port_that_is_public_on_main_is_private_on_a_branch() {
    let world = World::working().await;
    let owner = world.owner().await;
    running_project(&owner, "todo").await;
    let waiting = owner.with("prefer", "wait=60");
    create(&waiting, json!({"name": "fix"}), 201).await;
    let port = "/api/projects/todo/ports/3000";
    owner.put(port, &json!({"sharing": "public"})).await.expect(200);

    let at = |host: &str| {
        let host = format!("{host}.apps.localhost");
        let client = world.anonymous().with("host", &host);
        async move { client.send(Method::GET, "/", None).await.status.as_u16() }
    };
    // Nothing listens at the public port.
    assert_eq!(at("todo--3000").await, 502);
    assert_eq!(at("fix--todo--3000").await, 401);
    assert_eq!(at("absent--todo--3000").await, 401);
    assert_eq!(at("main--todo--3000").await, 404);
    let of_branch = format!("{port}?branch=fix");
    owner
        .put(&of_branch, &json!({"sharing": "public"}))
        .await
        .expect(422);
    assert_eq!(
        owner.get(&of_branch).await.expect(200).json()["sharing"],
        "private"
    );
    let token = owner
        .header("authorization")
        .trim_start_matches("Bearer ")
        .to_owned();
    let member = world.anonymous().with("host", "fix--todo--3000.apps.localhost");
    let answer = member.with("x-fsa-token", &token).get("/").await;
    assert_eq!(answer.status, 502);
}
