//! Environment variable and database tests: values are encrypted, changed one by one, and revealed with an
//! audit record.

use serde_json::{Value, json};

use crate::common::{World, project};

const ENVIRONMENT: &str = "/api/projects/todo/environment";

#[tokio::test]
async fn a_patch_restarts_the_sandbox_only_if_a_variable_changed() {
    let world = World::new().await;
    let owner = world.owner().await;
    let body = json!({"name": "todo", "envVars": {"A": "1", "B": "2", "C": "3"}});
    owner.post("/api/projects", &body).await.expect(201);
    let generation = || world.database.sql("select generation from sandboxes");

    for unchanged in [
        json!({}),
        json!({"envVars": {}}),
        json!({"envVars": {"A": "1", "X": null}}),
    ] {
        let answer = owner.patch(ENVIRONMENT, &unchanged).await.expect(200).json();
        assert_eq!(answer["restarting"], false, "{unchanged}");
        assert_eq!(generation(), "1");
    }

    let changed = owner
        .patch(
            ENVIRONMENT,
            &json!({"envVars": {"A": null, "B": "two", "D": "4"}}),
        )
        .await
        .expect(200)
        .json();
    assert_eq!(changed["restarting"], true);
    assert_eq!(generation(), "2");
    assert_eq!(changed["envVars"], json!({"B": null, "C": null, "D": null}));
    let revealed = owner
        .get(&format!("{ENVIRONMENT}?reveal=true"))
        .await
        .expect(200)
        .json();
    assert_eq!(revealed["envVars"], json!({"B": "two", "C": "3", "D": "4"}));
}

#[tokio::test]
async fn a_put_replaces_all_variables_and_rejects_null() {
    let world = World::new().await;
    let owner = world.owner().await;
    let body = json!({"name": "todo", "start": false, "envVars": {"A": "1"}});
    owner.post("/api/projects", &body).await.expect(201);

    let refused = owner
        .put(ENVIRONMENT, &json!({"envVars": {"B": null}}))
        .await
        .expect(422);
    assert_eq!(refused.field(), "envVars.B");
    let replaced = owner
        .put(ENVIRONMENT, &json!({"envVars": {"B": "2"}}))
        .await
        .expect(200)
        .json();

    // A sandbox whose desired state is not running is not restarted.
    assert_eq!(replaced, json!({"envVars": {"B": null}, "restarting": false}));
    assert_eq!(world.database.sql("select generation from sandboxes"), "1");
}

#[tokio::test]
async fn reveals_are_audited() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;
    let actions = |answer: Value| -> Vec<String> {
        let items = answer["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|entry| entry["action"].as_str().unwrap().to_owned())
            .filter(|action| !action.starts_with("http."))
            .collect()
    };

    owner.get(ENVIRONMENT).await.expect(200);
    owner.get("/api/projects/todo/database").await.expect(200);
    assert!(actions(owner.get("/api/audit").await.expect(200).json()).is_empty());

    owner.get(&format!("{ENVIRONMENT}?reveal=true")).await.expect(200);
    owner
        .get("/api/projects/todo/database?reveal=true")
        .await
        .expect(200);

    let audit = owner.get("/api/audit").await.expect(200).json();
    assert_eq!(audit["items"][0]["login"], "owner");
    assert_eq!(audit["items"][0]["address"], "127.0.0.1");
    assert_eq!(actions(audit), ["database.reveal", "environment.reveal"]);
}

#[tokio::test]
async fn the_connection_string_has_the_form_that_prisma_reads() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;

    let database = owner
        .get("/api/projects/todo/database?reveal=true")
        .await
        .expect(200)
        .json();

    let url = url::Url::parse(database["connectionString"].as_str().unwrap()).unwrap();
    assert_eq!(url.scheme(), "postgresql");
    assert_eq!(url.query(), Some("schema=public"));
    assert!(url.password().is_some_and(|password| password.len() >= 40));
    assert_eq!(url.path(), format!("/{}", database["name"].as_str().unwrap()));
}

#[tokio::test]
async fn no_secret_is_stored_in_plain_text() {
    let world = World::new().await;
    let browser = world.member_in_browser("ada").await;
    let password = "a long password indeed";
    browser
        .put("/api/auth/password", &json!({"password": password}))
        .await
        .expect(204);
    let signed_in = world
        .anonymous()
        .post(
            "/api/auth/password",
            &json!({"login": "ada", "password": password}),
        )
        .await
        .expect(200);
    let cookie = signed_in.cookie().unwrap();
    let token = browser
        .post("/api/tokens", &json!({"name": "x"}))
        .await
        .expect(201)
        .json();
    let body = json!({"name": "todo", "envVars": {"KEY": "value-of-the-project"}});
    browser.post("/api/projects", &body).await.expect(201);
    let body = json!({"envVars": {"MORE": "value-of-the-request"}});
    browser.post("/api/sandbox/todo", &body).await.expect(202);
    let database = browser
        .get("/api/projects/todo/database?reveal=true")
        .await
        .expect(200)
        .json();
    let url = url::Url::parse(database["connectionString"].as_str().unwrap()).unwrap();

    let everything: String = world
        .database
        .sql("select tablename from pg_tables where schemaname = 'public'")
        .lines()
        .map(|table| world.database.sql(&format!("select t::text from {table} t")))
        .collect();

    assert!(everything.contains("todo"));
    for secret in [
        "value-of-the-project",
        "value-of-the-request",
        password,
        url.password().unwrap(),
        token["token"].as_str().unwrap(),
        cookie.split_once('=').unwrap().1,
    ] {
        assert!(!everything.contains(secret), "{secret}");
        assert!(!everything.contains(&hex::encode(secret)), "{secret}, as bytes");
    }
}

#[tokio::test]
async fn reserved_variables_are_refused_with_the_reason() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;

    for name in ["HOME", "USER", "FSA_ASKS_TOKEN"] {
        let one = json!({"envVars": {name: "x"}});
        let answers = [
            owner.patch(ENVIRONMENT, &one).await,
            owner.put(ENVIRONMENT, &one).await,
            owner
                .post("/api/projects", &json!({"name": "other", "envVars": {name: "x"}}))
                .await,
            owner.post("/api/sandbox/todo", &one).await,
        ];
        for answer in answers {
            let refused = answer.expect(422);
            assert_eq!(refused.field(), format!("envVars.{name}"));
        }
    }
    // One that an older version stored blocks no other change, and can be removed.
    let all = json!({"envVars": {"NODE_ENV": "production", "PATH": "/x", "HOME": null}});
    owner.patch(ENVIRONMENT, &all).await.expect(200);
}

#[tokio::test]
async fn a_project_with_another_database_gets_its_own_when_the_variable_is_removed() {
    let world = World::new().await;
    let owner = world.owner().await;
    let body = json!({"name": "todo", "envVars": {"DATABASE_URL": "postgresql://db.example/x"}});
    owner.post("/api/projects", &body).await.expect(201);
    owner.get("/api/projects/todo/database").await.expect(404);

    owner
        .patch(ENVIRONMENT, &json!({"envVars": {"A": "1"}}))
        .await
        .expect(200);
    owner.get("/api/projects/todo/database").await.expect(404);

    owner
        .patch(ENVIRONMENT, &json!({"envVars": {"DATABASE_URL": null}}))
        .await
        .expect(200);
    owner.get("/api/projects/todo/database").await.expect(200);
}
