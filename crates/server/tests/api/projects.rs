//! Project tests: create, list, change, delete.

use serde_json::json;

use crate::common::{World, project};

#[tokio::test]
async fn a_new_project_has_a_sandbox_and_a_database() {
    let world = World::new().await;
    let owner = world.owner().await;

    let answer = owner
        .post(
            "/api/projects",
            &json!({"name": "todo-app", "description": "Things to do"}),
        )
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
        format!("http://127.0.0.1:{port}/p/todo-app?view=terminal")
    );
    for same in [id, "todo-app"] {
        let shown = owner
            .get(&format!("/api/projects/{same}"))
            .await
            .expect(200)
            .json();
        assert_eq!(shown["id"], created["id"]);
        let sandbox = owner
            .get(&format!("/api/sandbox/{same}"))
            .await
            .expect(200)
            .json();
        assert_eq!(sandbox["id"], created["sandbox"]["id"]);
    }
    let database = owner
        .get("/api/projects/todo-app/database")
        .await
        .expect(200)
        .json();
    assert_eq!(database["status"], "CREATING");
    assert_eq!(database["connectionString"], serde_json::Value::Null);
}

#[tokio::test]
async fn an_invalid_name_is_refused_with_a_suggestion() {
    let world = World::new().await;
    let owner = world.owner().await;

    let refused = owner
        .post("/api/projects", &json!({"name": "My App!"}))
        .await
        .expect(422);

    let field = refused.error().details.field.unwrap();
    assert_eq!(
        (field.name.as_str(), field.suggestion.as_deref()),
        ("name", Some("my-app"))
    );
    assert!(
        owner.get("/api/projects").await.json()["items"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_name_is_unique_per_owner_and_free_again_after_deletion() {
    let world = World::new().await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    let first = project(&ada, "todo").await;
    project(&grace, "todo").await;

    let refused = ada
        .post("/api/projects", &json!({"name": "todo"}))
        .await
        .expect(409);
    assert_eq!(refused.field(), "name");

    ada.delete("/api/projects/todo").await.expect(202);
    let second = project(&ada, "todo").await;
    assert_ne!(first.id, second.id);
}

#[tokio::test]
async fn projects_of_other_users_are_not_found() {
    let world = World::new().await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    let theirs = project(&ada, "secret-plan").await;

    for path in [
        "/api/projects/secret-plan".to_owned(),
        format!("/api/projects/{}", theirs.id),
    ] {
        let refused = grace.get(&path).await.expect(404);
        let unknown = grace.get("/api/projects/no-such-project").await.expect(404);
        assert_eq!(refused.error().error, unknown.error().error);
        assert_eq!(refused.error().project_id, None);
    }
    let list = grace.get("/api/projects").await.expect(200).json();
    assert!(list["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn equal_project_names_get_different_host_names() {
    let world = World::new().await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    let url = |project: fsa_model::api::Project| project.sandbox.unwrap().public_url;
    let port = world.address.port();

    let first = project(&ada, "todo").await;
    let second = project(&grace, "todo").await;

    assert_eq!(url(first), format!("http://todo--3000.apps.localhost:{port}"));
    assert_eq!(
        url(second),
        format!("http://todo--3000--grace.apps.localhost:{port}")
    );

    // A failed rename to a name that is in use does not take over its host name either.
    project(&grace, "older").await;
    project(&ada, "newer").await;
    let renamed = grace
        .patch("/api/projects/older", &json!({"name": "newer"}))
        .await
        .expect(200);
    assert_eq!(
        url(renamed.read()),
        format!("http://newer--3000--grace.apps.localhost:{port}")
    );
}

#[tokio::test]
async fn the_list_continues_after_its_cursor() {
    let world = World::new().await;
    let owner = world.owner().await;
    let names: Vec<_> = (0..103).map(|n| format!("p{n:03}")).collect();
    for name in &names {
        owner
            .post("/api/projects", &json!({"name": name, "start": false}))
            .await
            .expect(201);
    }

    let first = owner.get("/api/projects").await.expect(200).json();
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = owner
        .get(&format!("/api/projects?cursor={cursor}"))
        .await
        .expect(200)
        .json();

    let listed: Vec<_> = [&first, &second]
        .into_iter()
        .flat_map(|page| page["items"].as_array().unwrap())
        .map(|project| project["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed, names);
    assert_eq!(second["nextCursor"], serde_json::Value::Null);
    // Invalid cursors, and ones that the database would refuse.
    for cursor in ["p001%2Fnonsense", "No%20Name", "p001%00", "%00"] {
        let refused = owner.get(&format!("/api/projects?cursor={cursor}")).await;
        assert_eq!(refused.expect(422).error().details.field.unwrap().name, "cursor");
    }
    owner.get("/api/users?cursor=%00").await.expect(422);
    owner
        .post("/api/tokens", &json!({"name": "a\u{0}b"}))
        .await
        .expect(422);
    owner.get("/api/projects/p%00").await.expect(404);
}

#[tokio::test]
async fn only_changes_that_need_a_restart_bump_the_generation() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;
    let generation = || world.database.sql("select generation from sandboxes");
    assert_eq!(generation(), "1");

    let described = owner
        .patch(
            "/api/projects/todo",
            &json!({"description": "new", "name": "done"}),
        )
        .await
        .expect(200)
        .json();
    assert_eq!(
        (described["name"].as_str(), described["description"].as_str()),
        (Some("done"), Some("new"))
    );
    assert_eq!(generation(), "1");

    owner
        .patch("/api/projects/done", &json!({"description": null}))
        .await
        .expect(200);
    let changed = owner
        .patch(
            "/api/projects/done",
            &json!({"size": "large", "startCommand": "npm start"}),
        )
        .await
        .expect(200)
        .json();
    assert_eq!(changed["size"], "large");
    assert_eq!(changed.get("description"), None);
    assert_eq!(generation(), "2");
    owner
        .patch("/api/projects/done", &json!({"size": "large"}))
        .await
        .expect(200);
    assert_eq!(generation(), "2");
}

#[tokio::test]
async fn a_repository_can_be_changed_until_it_is_cloned() {
    let world = World::new().await;
    let owner = world.owner().await;
    let body = json!({"name": "todo", "repository": {"url": "https://git.example/a/typo"}});
    owner.post("/api/projects", &body).await.expect(201);
    let repository = json!({"url": "https://git.example/a/b", "branch": "main"});
    let changed = owner
        .patch("/api/projects/todo", &json!({"repository": repository}))
        .await
        .expect(200)
        .json();
    assert_eq!(changed["repository"], repository);
    assert_eq!(world.database.sql("select generation from sandboxes"), "2");
    let ssh = json!({"repository": {"url": "ssh://git.example/a/b"}});
    owner.patch("/api/projects/todo", &ssh).await.expect(422);
    let none = json!({"repository": null});
    let cleared = owner.patch("/api/projects/todo", &none).await.expect(200).json();
    assert_eq!(cleared.get("repository"), None);

    let again = json!({"repository": repository});
    owner.patch("/api/projects/todo", &again).await.expect(200);
    let cloned = fsa_model::sandboxd::Status {
        repository: fsa_model::sandboxd::RepositoryState::Cloned,
        ..Default::default()
    };
    let cloned = serde_json::to_string(&cloned).unwrap();
    world
        .database
        .sql(&format!("update sandboxes set status = '{cloned}' returning 1"));
    // The same again is no change.
    owner.patch("/api/projects/todo", &again).await.expect(200);
    let refused = owner.patch("/api/projects/todo", &none).await.expect(409).json();
    let message = refused["details"]["message"].as_str().unwrap();
    assert!(message.contains("git remote set-url"), "{message}");
}

#[tokio::test]
async fn invalid_project_fields_are_refused() {
    let world = World::new().await;
    let owner = world.owner().await;
    for (body, field) in [
        (json!({"name": "a", "template": "next"}), "template"),
        (
            json!({"name": "a", "template": "web", "image": "alpine"}),
            "image",
        ),
        (json!({"name": "a", "image": "-v"}), "image"),
        (json!({"name": "a", "size": "huge"}), "size"),
        (json!({"name": "a", "region": "mars"}), "region"),
        (
            json!({"name": "a", "repository": {"url": "file:///etc"}}),
            "repository.url",
        ),
        (
            json!({"name": "a", "repository": {"url": "https://u:p@h/r"}}),
            "repository.url",
        ),
        (
            json!({"name": "a", "repository": {"url": "https://h/r", "branch": "-x"}}),
            "repository.branch",
        ),
        (json!({"name": "a", "startCommand": " "}), "startCommand"),
        (json!({"name": "a", "envVars": {"A-B": "1"}}), "envVars.A-B"),
        (json!({"name": "a", "envVars": {"A": "\u{0}"}}), "envVars.A"),
        (json!({"name": "a", "color": "red"}), "color"),
        (json!({"name": "xn"}), "name"),
        (json!({}), "name"),
    ] {
        let refused = owner.post("/api/projects", &body).await.expect(422);
        assert_eq!(refused.field(), field, "{body}");
    }
    assert_eq!(world.database.sql("select count(*) from projects"), "0");
    assert_eq!(world.database.sql("select count(*) from events"), "0");
}
