//! API token tests: tokens with fewer permissions than their user (read-only, or one project only).

use serde_json::{Value, json};

use crate::common::{ApiResponse, Client, World, project};

async fn token(world: &World, of: &Client, body: Value) -> Client {
    let mut body = body;
    body["name"] = json!("narrow");
    let created = of.post("/api/tokens", &body).await.expect(201).json();
    world.anonymous().token(created["token"].as_str().unwrap())
}

#[tokio::test]
async fn a_programs_token_creates_no_credentials() {
    let world = World::new().await;
    let browser = world.owner_in_browser().await;
    let program = token(&world, &browser, json!({})).await;
    let ada = world.member("ada").await.get("/api/me").await.expect(200).json();
    let user = format!("/api/users/{}", ada["id"].as_str().unwrap());

    refuses_credentials(&program, &user).await;
    // It goes on doing everything else.
    project(&program, "todo").await;
    program
        .patch(&user, &json!({"limits": {"projects": 3}}))
        .await
        .expect(200);
}

#[tokio::test]
async fn an_hour_after_a_sign_in_credentials_need_another_one() {
    let world = World::new().await;
    let browser = world.owner_in_browser().await;
    let login = token(&world, &browser, json!({"signIn": true})).await;
    let ada = world.member("ada").await.get("/api/me").await.expect(200).json();
    let user = format!("/api/users/{}", ada["id"].as_str().unwrap());
    // The command line creates a token for a script just after `fsa login`, but that one creates none.
    let script = token(&world, &login, json!({"signIn": true})).await;
    refuses_credentials(&script, &user).await;

    world.outdate_sign_ins();

    for late in [&browser, &login] {
        refuses_credentials(late, &user).await;
        late.get("/api/users").await.expect(200);
    }
    // A first password would be another way in.
    let password = json!({"password": "correct horse battery"});
    let error = browser
        .put("/api/auth/password", &password)
        .await
        .expect(403)
        .error();
    assert_eq!(error.details.name, "SignInAgain");
    // The link that a restart prints is the way back of an owner without a password.
    let link = fsa_server::auth::first_link(&world.app)
        .await
        .unwrap()
        .expect("a link");
    let url = secrecy::ExposeSecret::expose_secret(&link.url).to_owned();
    let again = world.sign_in(url.split_once('#').unwrap().1).await;
    again.post_empty("/api/auth/links").await.expect(201);
    again.put("/api/auth/password", &password).await.expect(204);
}

#[tokio::test]
async fn an_admin_token_creates_credentials_at_any_time() {
    let world = World::new().await;
    let browser = world.owner_in_browser().await;
    project(&browser, "todo").await;
    let narrow = json!({"name": "x", "scope": "admin", "project": "todo"});
    let refused = browser.post("/api/tokens", &narrow).await.expect(422);
    assert_eq!(refused.field(), "scope");
    let admin = token(&world, &browser, json!({"scope": "admin"})).await;

    world.outdate_sign_ins();

    admin.post_empty("/api/users/invites").await.expect(201);
    token(&world, &admin, json!({}))
        .await
        .get("/api/me")
        .await
        .expect(200);
}

/// Each operation that creates a credential, or changes a user, asks for a new sign-in.
async fn refuses_credentials(client: &Client, user: &str) {
    let token = json!({"name": "x"});
    for refused in [
        client.post("/api/tokens", &token).await,
        client.post_empty("/api/auth/links").await,
        client.post_empty("/api/users/invites").await,
        client.patch(user, &json!({"role": "owner"})).await,
        client.patch(user, &json!({"disabled": false})).await,
        client.delete(user).await,
    ] {
        assert_eq!(refused.expect(403).error().details.name, "SignInAgain");
    }
}

#[tokio::test]
async fn a_read_token_changes_nothing_and_reveals_nothing() {
    let world = World::new().await;
    let ada = world.member("ada").await;
    let todo = project(&ada, "todo").await;
    let reader = token(&world, &ada, json!({"scope": "read"})).await;

    let path = format!("/api/projects/{}", todo.id);
    for read in ["/api/me", "/api/projects", &path, &format!("{path}/environment")] {
        reader.get(read).await.expect(200);
    }
    reader.post_empty(&format!("{path}/stop")).await.expect(403);
    reader.delete(&path).await.expect(403);
    reader
        .post("/api/projects", &json!({"name": "more"}))
        .await
        .expect(403);
    // It cannot create a token with more permissions either.
    reader
        .post("/api/tokens", &json!({"name": "x"}))
        .await
        .expect(403);
    reader
        .get(&format!("{path}/environment?reveal=true"))
        .await
        .expect(403);
    reader
        .get(&format!("{path}/database?reveal=true"))
        .await
        .expect(403);
    // A WebSocket counts as a write, although it begins with a GET.
    let upgrade = reader.with("upgrade", "websocket");
    upgrade.get(&format!("{path}/terminal")).await.expect(403);
    assert_eq!(
        world
            .database
            .sql("select desired_state || generation from sandboxes"),
        "running1"
    );
}

#[tokio::test]
async fn a_project_token_cannot_access_other_projects() {
    let world = World::new().await;
    let ada = world.member("ada").await;
    let (todo, other) = (project(&ada, "todo").await, project(&ada, "other").await);
    let narrow = token(&world, &ada, json!({"project": "todo"})).await;

    let listed = narrow.get("/api/projects").await.expect(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["id"], todo.id.to_string());
    narrow.post_empty("/api/projects/todo/stop").await.expect(202);
    for its in [other.id.to_string(), "other".to_owned()] {
        for path in [
            format!("/api/projects/{its}"),
            format!("/api/sandbox/{its}"),
            format!("/api/projects/{its}/environment"),
            format!("/api/projects/{its}/events?follow=false"),
            format!("/api/projects/{its}/files?path=x"),
            format!("/api/projects/{its}/logs?follow=false"),
        ] {
            narrow.get(&path).await.expect(404);
        }
        narrow
            .post_empty(&format!("/api/projects/{its}/stop"))
            .await
            .expect(404);
        narrow.delete(&format!("/api/projects/{its}")).await.expect(404);
        narrow
            .patch(&format!("/api/projects/{its}"), &json!({}))
            .await
            .expect(404);
    }
    for path in [
        "/api/tokens",
        "/api/auth/sessions",
        "/api/events?follow=false",
        "/api/images",
    ] {
        narrow.get(path).await.expect(403);
    }
    narrow
        .post("/api/projects", &json!({"name": "more"}))
        .await
        .expect(403);
    narrow
        .post("/api/tokens", &json!({"name": "x"}))
        .await
        .expect(403);
}

#[tokio::test]
async fn an_owners_project_token_has_no_owner_permissions() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;
    let narrow = token(&world, &owner, json!({"project": "todo"})).await;

    for path in ["/api/users", "/api/audit"] {
        narrow.get(path).await.expect(403);
    }
    narrow.post_empty("/api/users/invites").await.expect(403);
}

#[tokio::test]
async fn a_project_token_needs_an_own_project_and_ends_with_it() {
    let world = World::new().await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    let todo = project(&ada, "todo").await;
    let body = json!({"name": "x", "project": todo.id});
    grace.post("/api/tokens", &body).await.expect(404);
    let narrow = token(&world, &ada, json!({"project": "todo"})).await;
    narrow.get("/api/me").await.expect(200);

    world.database.sql("delete from sandboxes; delete from projects");

    let left = "select count(*) from api_tokens where name = 'narrow'";
    assert_eq!(world.database.sql(left), "0");
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let world = World::new().await;
    let ada = world.member("ada").await;
    let end = chrono::Utc::now() + chrono::Duration::hours(1);
    let short = token(&world, &ada, json!({"expiresAt": end, "scope": "read"})).await;
    world
        .database
        .sql("update api_tokens set expires_at = now() - interval '1 second' where name = 'narrow'");
    short.get("/api/me").await.expect(401);
}

#[tokio::test]
async fn a_token_expires_in_ninety_days_unless_its_user_chooses_otherwise() {
    let world = World::new().await;
    let browser = world.owner_in_browser().await;
    let create = async |body: serde_json::Value| browser.post("/api/tokens", &body).await;
    let days = |answer: ApiResponse| {
        let end = answer.expect(201).json()["expiresAt"].as_str()?.to_owned();
        let left = end.parse::<chrono::DateTime<chrono::Utc>>().unwrap() - chrono::Utc::now();
        Some(left.num_days())
    };
    // 89 whole days and a part of one are left.
    assert_eq!(days(create(json!({"name": "a"})).await), Some(89));
    assert_eq!(
        days(create(json!({"name": "b", "neverExpires": true})).await),
        None
    );
    let chosen = chrono::Utc::now() + chrono::Duration::days(10);
    assert_eq!(
        days(create(json!({"name": "c", "expiresAt": chosen})).await),
        Some(9)
    );
    let both = json!({"name": "d", "expiresAt": chosen, "neverExpires": true});
    assert_eq!(create(both).await.expect(422).field(), "neverExpires");
}
