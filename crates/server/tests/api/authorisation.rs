//! Every operation of the document, tried by nobody, by somebody else and by who may. A new one
//! fails this test until it is in the table.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::common::{Client, World, project};

/// Who may.
#[derive(Clone, Copy, Debug, PartialEq)]
enum May {
    Anybody,
    /// Whoever is signed in.
    User,
    /// An owner of the system.
    Owner,
    /// Whoever the thing in the path belongs to; for others it is not there.
    Its,
}

/// A body that is right for the operation, so that it is refused for nothing but who asks.
fn table() -> BTreeMap<&'static str, (May, Value)> {
    let none = Value::Null;
    let environment = json!({"envVars": {}});
    BTreeMap::from([
        ("get /healthz", (May::Anybody, none.clone())),
        ("get /readyz", (May::Anybody, none.clone())),
        ("get /metrics", (May::Anybody, none.clone())),
        ("get /api/auth/link", (May::Anybody, none.clone())),
        ("post /api/auth/link", (May::Anybody, json!({"token": "x"}))),
        (
            "post /api/auth/password",
            (May::Anybody, json!({"login": "x", "password": "x"})),
        ),
        (
            "put /api/auth/password",
            (May::User, json!({"password": "long enough"})),
        ),
        ("post /api/auth/sign-out", (May::User, none.clone())),
        ("get /api/auth/sessions", (May::User, none.clone())),
        ("delete /api/auth/sessions/{session}", (May::Its, none.clone())),
        ("post /api/auth/links", (May::User, none.clone())),
        ("get /api/auth/methods", (May::Anybody, none.clone())),
        ("post /api/auth/github", (May::Anybody, json!({}))),
        ("get /api/auth/github/callback", (May::Anybody, none.clone())),
        ("get /api/me", (May::User, none.clone())),
        ("get /api/me/github", (May::User, none.clone())),
        ("delete /api/me/github", (May::User, none.clone())),
        ("get /api/repositories", (May::User, none.clone())),
        ("get /api/tokens", (May::User, none.clone())),
        ("post /api/tokens", (May::User, json!({"name": "x"}))),
        ("delete /api/tokens/{token}", (May::Its, none.clone())),
        ("get /api/users", (May::Owner, none.clone())),
        ("post /api/users/invites", (May::Owner, none.clone())),
        ("patch /api/users/{user}", (May::Owner, json!({}))),
        ("delete /api/users/{user}", (May::Owner, none.clone())),
        ("post /api/users/{user}/link", (May::Owner, none.clone())),
        ("get /api/audit", (May::Owner, none.clone())),
        ("get /api/me/agent-credentials", (May::User, none.clone())),
        (
            "patch /api/me/agent-credentials",
            (May::User, environment.clone()),
        ),
        ("get /api/projects/{project}/agent", (May::Its, none.clone())),
        ("patch /api/projects/{project}/agent", (May::Its, json!({}))),
        (
            "put /api/projects/{project}/git-credential",
            (
                May::Its,
                json!({"url": "https://git.example/a/b", "username": "x", "password": "x"}),
            ),
        ),
        (
            "get /api/projects/{project}/git-credential",
            (May::Its, none.clone()),
        ),
        (
            "delete /api/projects/{project}/git-credential",
            (May::Its, none.clone()),
        ),
        ("get /api/projects/{project}/tasks", (May::Its, none.clone())),
        (
            "post /api/projects/{project}/tasks",
            (May::Its, json!({"prompt": "x"})),
        ),
        (
            "get /api/projects/{project}/tasks/{task}",
            (May::Its, none.clone()),
        ),
        (
            "delete /api/projects/{project}/tasks/{task}",
            (May::Its, none.clone()),
        ),
        (
            "get /api/projects/{project}/tasks/{task}/steps",
            (May::Its, none.clone()),
        ),
        ("get /api/images", (May::User, none.clone())),
        ("post /api/images", (May::Owner, none.clone())),
        ("get /api/events", (May::User, none.clone())),
        ("get /api/projects", (May::User, none.clone())),
        ("post /api/projects", (May::User, json!({"name": "another"}))),
        ("get /api/projects/{project}", (May::Its, none.clone())),
        ("patch /api/projects/{project}", (May::Its, json!({}))),
        ("delete /api/projects/{project}", (May::Its, none.clone())),
        ("get /api/sandbox/{project}", (May::Its, none.clone())),
        ("post /api/sandbox/{project}", (May::Its, none.clone())),
        ("delete /api/sandbox/{project}", (May::Its, none.clone())),
        ("post /api/projects/{project}/start", (May::Its, none.clone())),
        ("post /api/projects/{project}/stop", (May::Its, none.clone())),
        ("post /api/projects/{project}/restart", (May::Its, none.clone())),
        (
            "get /api/projects/{project}/environment",
            (May::Its, none.clone()),
        ),
        (
            "put /api/projects/{project}/environment",
            (May::Its, environment.clone()),
        ),
        (
            "patch /api/projects/{project}/environment",
            (May::Its, environment),
        ),
        ("get /api/projects/{project}/database", (May::Its, none.clone())),
        ("get /api/projects/{project}/events", (May::Its, none.clone())),
        ("get /api/auth/preview", (May::Anybody, none.clone())),
        // They answer by what the browser carries for that host.
        ("get /api/ingress/check", (May::Anybody, none.clone())),
        ("get /api/ingress/enter", (May::Anybody, none.clone())),
        ("get /api/projects/{project}/ports", (May::Its, none.clone())),
        (
            "put /api/projects/{project}/ports/{port}",
            (May::Its, json!({"sharing": "private"})),
        ),
        (
            "post /api/projects/{project}/exec",
            (May::Its, json!({"command": ["true"]})),
        ),
        ("get /api/projects/{project}/exec", (May::Its, none.clone())),
        ("get /api/projects/{project}/files", (May::Its, none.clone())),
        ("put /api/projects/{project}/files", (May::Its, none.clone())),
        ("delete /api/projects/{project}/files", (May::Its, none.clone())),
        (
            "post /api/projects/{project}/files/move",
            (May::Its, json!({"from": "x", "to": "y"})),
        ),
        ("get /api/projects/{project}/terminal", (May::Its, none.clone())),
        ("get /api/projects/{project}/terminals", (May::Its, none.clone())),
        (
            "delete /api/projects/{project}/terminals/{terminal}",
            (May::Its, none.clone()),
        ),
        ("get /api/projects/{project}/logs", (May::Its, none.clone())),
        ("get /api/projects/{project}/usage", (May::Its, none)),
    ])
}

struct Operation {
    method: Method,
    path: String,
    may: May,
    body: Value,
}

async fn operations(world: &World) -> Vec<Operation> {
    let document = world
        .anonymous()
        .get("/api/openapi.json")
        .await
        .expect(200)
        .json();
    let table = table();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let name = format!("{method} {path}");
            let (may, body) = table
                .get(name.as_str())
                .unwrap_or_else(|| panic!("{name} is not in the table: who may do it?"));
            all.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                may: *may,
                body: body.clone(),
            });
        }
    }
    assert_eq!(
        all.len(),
        table.len(),
        "the table has operations that are no longer there"
    );
    all
}

impl Operation {
    /// Tries it on things of a member, and returns the status. An answer's body is not waited for:
    /// some of them never end.
    async fn tried(&self, client: &Client, things: &BTreeMap<&str, String>) -> u16 {
        let mut path = self.path.clone();
        for (name, value) in things {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        assert!(!path.contains('{'), "{path}: what is this?");
        if path.ends_with("/images") && self.method == Method::POST {
            path.push_str("?name=x");
        }
        if ["/events", "/logs", "/steps"]
            .iter()
            .any(|end| path.ends_with(end))
        {
            path.push_str("?follow=false");
        }
        if path.ends_with("/files") {
            path.push_str("?path=x");
        }
        let body = (!self.body.is_null()).then_some(&self.body);
        client
            .send(self.method.clone(), &path, body)
            .await
            .status
            .as_u16()
    }
}

/// A member with one of everything.
async fn somebody_with_things(world: &World, login: &str) -> (Client, BTreeMap<&'static str, String>) {
    let browser = world.member_in_browser(login).await;
    let project = project(&browser, "todo").await;
    let git = format!("/api/projects/{}/git-credential", project.id);
    let login = json!({"url": "https://git.example/a/b", "username": "x", "password": "x"});
    browser.send(Method::PUT, &git, Some(&login)).await.expect(200);
    let task = browser
        .post(
            &format!("/api/projects/{}/tasks", project.id),
            &json!({"prompt": "x"}),
        )
        .await
        .expect(201)
        .json();
    let token = browser
        .post("/api/tokens", &json!({"name": "x"}))
        .await
        .expect(201)
        .json();
    let sessions = browser.get("/api/auth/sessions").await.expect(200).json();
    let user = browser.get("/api/me").await.expect(200).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let things = BTreeMap::from([
        ("project", project.id.to_string()),
        ("task", text(&task["id"])),
        ("token", text(&token["id"])),
        ("session", text(&sessions["items"][0]["id"])),
        ("user", text(&user["id"])),
        ("port", "3000".to_owned()),
        ("terminal", "main".to_owned()),
    ]);
    (browser, things)
}

#[tokio::test]
async fn nobody_may_do_anything_that_needs_a_name() {
    let world = World::new().await;
    let (_, things) = somebody_with_things(&world, "ada").await;
    for operation in operations(&world).await {
        let status = operation.tried(&world.anonymous(), &things).await;
        if operation.may == May::Anybody {
            assert_ne!(status, 404, "{} {}", operation.method, operation.path);
        } else {
            assert_eq!(status, 401, "{} {}", operation.method, operation.path);
        }
    }
}

#[tokio::test]
async fn what_belongs_to_somebody_is_not_there_for_anybody_else() {
    let world = World::new().await;
    let (_, things) = somebody_with_things(&world, "ada").await;
    let other = world.member("grace").await;
    // Not even for the owner of the system.
    let owner = world.owner().await;
    for operation in operations(&world).await {
        let name = format!("{} {}", operation.method, operation.path);
        match operation.may {
            May::Its => {
                assert_eq!(operation.tried(&other, &things).await, 404, "{name}");
                assert_eq!(operation.tried(&owner, &things).await, 404, "{name}");
            }
            May::Owner => assert_eq!(operation.tried(&other, &things).await, 403, "{name}"),
            May::Anybody | May::User => {}
        }
    }
    let state = "select wanted || ' ' || generation from sandboxes";
    assert_eq!(world.database.sql(state), "running 1");
    assert_eq!(
        world
            .database
            .sql("select count(*) from projects where deleted_at is null and name = 'todo'"),
        "1"
    );
}

#[tokio::test]
async fn who_may_is_not_refused() {
    let mut world = World::new().await;
    let mut owner = world.owner().await;
    for (number, operation) in operations(&world).await.into_iter().enumerate() {
        // Everybody here signs in from one address, from which a server takes 60 attempts at once.
        if number % 20 == 19 {
            world = World::new().await;
            owner = world.owner().await;
        }
        // Things of one's own for each, because some operations end them.
        let (browser, things) = somebody_with_things(&world, &format!("user{number}")).await;
        let client = if operation.may == May::Owner {
            &owner
        } else {
            &browser
        };
        let status = operation.tried(client, &things).await;
        let name = format!("{} {}", operation.method, operation.path);
        let refused_alone = operation.path == "/api/auth/link" || operation.path == "/api/auth/password";
        if !refused_alone {
            assert!(![401, 403, 404].contains(&status), "{name}: {status}");
        }
    }
}
