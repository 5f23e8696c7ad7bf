//! Projects: made, listed, changed, deleted.

use serde_json::json;

use crate::common::{World, project};

#[tokio::test]
async fn a_new_project_comes_with_its_sandbox_and_database() {
    let world = World::new().await;
    let owner = world.owner().await;

    let answer = owner
        .post("/api/projects", &json!({"name": "todo-app", "description": "Things to do"}))
        .await
        .expect(201);

    let created = answer.json();
    let id = created["id"].as_str().unwrap();
    assert_eq!(answer.headers["location"], format!("/api/projects/{id}").as_str());
    assert_eq!(created["template"], "web");
    assert_eq!(created["size"], "small");
    assert_eq!(created["region"], "here");
    assert_eq!(created["sandbox"]["status"], "CREATING");
    assert_eq!(created["sandbox"]["stages"].as_array().unwrap().len(), 5);
    let port = world.address.port();
    assert_eq!(
        created["sandbox"]["publicUrl"],
        format!("http://todo-app--3000.apps.localhost:{port}")
    );
    assert_eq!(
        created["sandbox"]["terminalUrl"],
        format!("http://127.0.0.1:{port}/projects/todo-app/terminal")
    );
    for same in [id, "todo-app"] {
        let shown = owner.get(&format!("/api/projects/{same}")).await.expect(200).json();
        assert_eq!(shown["id"], created["id"]);
        let sandbox = owner.get(&format!("/api/sandbox/{same}")).await.expect(200).json();
        assert_eq!(sandbox["id"], created["sandbox"]["id"]);
    }
    let database = owner.get("/api/projects/todo-app/database").await.expect(200).json();
    assert_eq!(database["status"], "CREATING");
    assert_eq!(database["connectionString"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_name_of_another_spelling_is_refused_with_a_suggestion() {
    let world = World::new().await;
    let owner = world.owner().await;

    let refused = owner.post("/api/projects", &json!({"name": "My App!"})).await.expect(422);

    let field = refused.error().details.field.unwrap();
    assert_eq!((field.name.as_str(), field.suggestion.as_deref()), ("name", Some("my-app")));
    assert!(owner.get("/api/projects").await.json()["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_name_is_unique_per_owner_and_free_again_after_deletion() {
    let world = World::new().await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    let first = project(&ada, "todo").await;
    project(&grace, "todo").await;

    let refused = ada.post("/api/projects", &json!({"name": "todo"})).await.expect(409);
    assert_eq!(refused.field(), "name");

    ada.delete("/api/projects/todo").await.expect(202);
    let second = project(&ada, "todo").await;
    assert_ne!(first.id, second.id);
}
