//! Audit log tests: every write is recorded, no record can be deleted, and the log is exported as lines.

use http::Method;
use serde_json::{Value, json};

use crate::common::{ApiResponse, World, project};

fn entries(answer: &ApiResponse) -> Vec<Value> {
    answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

#[tokio::test]
async fn every_write_is_audited_with_user_action_and_result() {
    let world = World::new().await;
    let (owner, ada) = (world.owner().await, world.member("ada").await);
    let todo = project(&ada, "todo").await;
    let path = format!("/api/projects/{}", todo.id);
    ada.post_empty(&format!("{path}/stop")).await.expect(202);
    owner.post_empty(&format!("{path}/stop")).await.expect(404);
    ada.get(&path).await.expect(200);

    let all = entries(&owner.get("/api/audit?format=jsonl").await.expect(200));

    let of = |object: &str| -> Vec<_> {
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        all.iter()
            .filter(|entry| entry["object"] == object)
            .map(|entry| (text(entry, "login"), text(entry, "action"), text(entry, "result")))
            .collect()
    };
    let entry = |login: &str, result: &str| (login.to_owned(), "http.post".to_owned(), result.to_owned());
    assert_eq!(of("/api/projects"), [entry("ada", "ok")]);
    assert_eq!(
        of(&format!("{path}/stop")),
        [entry("ada", "ok"), entry("owner", "refused")]
    );
    assert!(of(&path).is_empty(), "a read is not audited");
    assert!(
        all.iter()
            .all(|entry| entry["at"].is_string() && entry["address"].is_string())
    );
}

#[tokio::test]
async fn the_export_is_ordered_and_resumes_after_a_cursor() {
    let world = World::new().await;
    let owner = world.owner().await;
    world.database.sql(
        "insert into audit (action, object, result) select 'test', n::text, 'ok' from generate_series(1, 2500) n",
    );

    let all = entries(
        &owner
            .with("accept", "application/x-ndjson")
            .get("/api/audit")
            .await
            .expect(200),
    );
    let tests: Vec<_> = all.iter().filter(|entry| entry["action"] == "test").collect();
    assert_eq!(tests.len(), 2500);
    assert!(
        tests
            .iter()
            .enumerate()
            .all(|(at, entry)| entry["object"].as_str() == Some(&*(at + 1).to_string()))
    );

    let last = all.last().unwrap()["id"].as_i64().unwrap();
    let path = format!("/api/audit?format=jsonl&cursor={}", last - 3);
    assert_eq!(entries(&owner.get(&path).await.expect(200)).len(), 3);
    let page = owner.get("/api/audit").await.expect(200).json();
    assert_eq!(page["items"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn audit_entries_cannot_be_changed_or_deleted() {
    let world = World::new().await;
    let owner = world.owner().await;
    owner.post("/api/tokens", &json!({"name": "x"})).await.expect(201);
    let count = "select count(*) from audit";
    let before = world.database.sql(count);
    assert_ne!(before, "0");

    for statement in [
        "update audit set result = 'ok'",
        "delete from audit",
        "truncate audit",
    ] {
        let refused = sqlx::query(statement)
            .execute(world.app.store.pool())
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("append-only"),
            "{statement}: {refused}"
        );
    }

    assert_eq!(world.database.sql(count), before);
    // HTTP has no way to delete a record either.
    owner.send(Method::DELETE, "/api/audit", None).await.expect(405);
}
