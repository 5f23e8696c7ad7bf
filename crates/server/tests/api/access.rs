//! Sign-in tests: login links, passwords, sessions, tokens, and the refusal of cross-site requests.

use bytes::Bytes;
use fsa_server::{auth, store::notify::Topic};
use http::Method;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::common::{World, token_of_link};

const PASSWORD: &str = "correct horse battery";

#[tokio::test]
async fn the_first_start_prints_a_link_for_the_owner() {
    let world = World::new().await;

    let link = auth::first_link(&world.app)
        .await
        .unwrap()
        .expect("no user can sign in yet");
    let url = link.url.expose_secret().to_owned();
    let (page, token) = url.split_once('#').expect("the token is in the fragment");
    assert_eq!(page, format!("http://{}/sign-in", world.address));
    world.anonymous().get("/sign-in").await.expect(200);

    let body = json!({"token": token});
    let signed_in = world.anonymous().post("/api/auth/link", &body).await.expect(200);
    assert_eq!(signed_in.json()["role"], "owner");
    let cookie = signed_in.headers["set-cookie"].to_str().unwrap();
    for part in ["fsa_session=", "HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let browser = world.anonymous().browser(&signed_in);
    assert_eq!(browser.get("/api/me").await.expect(200).json()["login"], "owner");
    // A link works once. After that there is a way to sign in.
    world.anonymous().post("/api/auth/link", &body).await.expect(403);
    assert!(auth::first_link(&world.app).await.unwrap().is_none());
}

#[tokio::test]
async fn a_get_does_not_use_up_a_link() {
    let world = World::new().await;
    let owner = world.owner().await;
    let token = token_of_link(&owner.post_empty("/api/auth/links").await.expect(201));

    let form = world
        .anonymous()
        .get(&format!("/api/auth/link?token={token}"))
        .await
        .expect(200);
    assert!(form.text().contains(&token));
    world
        .anonymous()
        .get("/api/auth/link?token=%22%3E%3Cscript%3E")
        .await
        .expect(200);

    // The form works without a script, and redirects to the first page.
    let body = Bytes::from(format!("token={token}&login="));
    let kind = Some("application/x-www-form-urlencoded");
    let answer = world
        .anonymous()
        .send_bytes(Method::POST, "/api/auth/link", kind, body)
        .await
        .expect(303);
    assert_eq!(answer.headers["location"], "/");
    let page = world.anonymous().browser(&answer).get("/").await.expect(200);
    assert!(page.text().contains("signed in as <strong>owner</strong>"));
}

#[tokio::test]
async fn an_expired_link_is_refused() {
    let world = World::new().await;
    let token = token_of_link(
        &world
            .owner()
            .await
            .post_empty("/api/auth/links")
            .await
            .expect(201),
    );
    world
        .database
        .sql("update login_links set expires_at = now() - interval '1 second'");

    let refused = world
        .anonymous()
        .post("/api/auth/link", &json!({"token": token}))
        .await
        .expect(403);

    assert!(refused.headers.get("set-cookie").is_none());
}

#[tokio::test]
async fn an_invitation_needs_a_login_and_survives_an_invalid_one() {
    let world = World::new().await;
    let owner = world.owner().await;
    let token = token_of_link(&owner.post_empty("/api/users/invites").await.expect(201));
    let accept = |body: serde_json::Value| {
        let mut body = body;
        body["token"] = json!(token);
        let anonymous = world.anonymous();
        async move { anonymous.post("/api/auth/link", &body).await }
    };

    assert_eq!(accept(json!({})).await.expect(422).field(), "login");
    let refused = accept(json!({"login": "Ada L"})).await.expect(422);
    assert_eq!(
        refused.error().details.field.unwrap().suggestion.as_deref(),
        Some("ada-l")
    );
    assert_eq!(
        accept(json!({"login": "owner"})).await.expect(409).field(),
        "login"
    );
    assert_eq!(
        accept(json!({"login": "ada", "password": "short"}))
            .await
            .expect(422)
            .field(),
        "password"
    );
    let member = accept(json!({"login": "ada", "password": PASSWORD}))
        .await
        .expect(200);

    assert_eq!(member.json()["role"], "member");
    accept(json!({"login": "eve"})).await.expect(403);
    let body = json!({"login": "ada", "password": PASSWORD});
    world
        .anonymous()
        .post("/api/auth/password", &body)
        .await
        .expect(200);
}

#[tokio::test]
async fn wrong_passwords_and_unknown_logins_get_the_same_error() {
    let world = World::new().await;
    let ada = world.member_in_browser("ada").await;
    ada.put("/api/auth/password", &json!({"password": PASSWORD}))
        .await
        .expect(204);
    world.member("grace").await;

    let mut refusals = Vec::new();
    for (login, password) in [
        ("ada", "wrong password"),
        ("nobody", PASSWORD),
        ("grace", PASSWORD),
    ] {
        let body = json!({"login": login, "password": password});
        let refused = world
            .anonymous()
            .post("/api/auth/password", &body)
            .await
            .expect(401);
        assert!(refused.headers.get("set-cookie").is_none());
        refusals.push((refused.error().error, refused.error().details.message));
    }

    refusals.dedup();
    assert_eq!(refusals.len(), 1);
}

#[tokio::test]
async fn throttled_sign_ins_report_the_retry_time() {
    let world = World::new().await;
    let body = json!({"login": "owner", "password": "guess"});
    // At most ten at once. A slow machine sometimes allows one more while it computes hashes.
    let mut tries = 0;
    let refused = loop {
        let answer = world.anonymous().post("/api/auth/password", &body).await;
        if answer.status != 401 {
            break answer.expect(429);
        }
        tries += 1;
        assert!(tries < 100, "guesses are not throttled");
    };

    assert!(tries >= 10);
    let after: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=20).contains(&after));
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions() {
    let world = World::new().await;
    let here = world.member_in_browser("ada").await;
    let link = token_of_link(&here.post_empty("/api/auth/links").await.expect(201));
    let there = world.sign_in(&link).await;
    assert_eq!(
        here.get("/api/auth/sessions").await.expect(200).json()["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    here.put("/api/auth/password", &json!({"password": PASSWORD}))
        .await
        .expect(204);

    here.get("/api/me").await.expect(200);
    there.get("/api/me").await.expect(401);
}

#[tokio::test]
async fn an_older_session_needs_the_current_password_to_change_it() {
    let world = World::new().await;
    let browser = world.member_in_browser("ada").await;
    browser
        .put("/api/auth/password", &json!({"password": PASSWORD}))
        .await
        .expect(204);
    world
        .database
        .sql("update sessions set created_at = now() - interval '20 minutes'");
    world.app.hub.wake(Topic::DesiredState);
    let set = |body: serde_json::Value| {
        let browser = browser.clone();
        async move { browser.put("/api/auth/password", &body).await }
    };
    // The cached session is dropped first.
    browser.post_empty("/api/auth/links").await.expect(201);
    fsa_server::auth::sign_in::invalidate(&world.app, world_user(&world, "ada"));

    assert_eq!(
        set(json!({"password": "another long one"}))
            .await
            .expect(422)
            .field(),
        "current"
    );
    set(json!({"password": "another long one", "current": "wrong"}))
        .await
        .expect(403);
    set(json!({"password": "another long one", "current": PASSWORD}))
        .await
        .expect(204);

    // An API token is not enough, whatever its permissions.
    let token = world.owner().await;
    token
        .put("/api/auth/password", &json!({"password": PASSWORD}))
        .await
        .expect(403);
}

fn world_user(world: &World, login: &str) -> fsa_model::UserId {
    let id = world
        .database
        .sql(&format!("select id from users where login = '{login}'"));
    id.parse().expect("a user's id")
}

#[tokio::test]
async fn a_revoked_credential_is_refused_at_once_here_and_with_the_notification_elsewhere() {
    let world = World::new().await;
    let replica = world.replica().await;
    let browser = world.member_in_browser("ada").await;
    let created = browser
        .post("/api/tokens", &json!({"name": "x"}))
        .await
        .expect(201)
        .json();
    let token = created["token"].as_str().unwrap();
    let (here, there) = (world.anonymous().token(token), replica.anonymous().token(token));
    while !replica.app.hub.is_listening() {
        tokio::task::yield_now().await;
    }
    here.get("/api/me").await.expect(200);
    there.get("/api/me").await.expect(200);
    let mut subscription = replica
        .app
        .hub
        .subscribe(Topic::Credentials(world_user(&world, "ada")));

    browser
        .delete(&format!("/api/tokens/{}", created["id"].as_str().unwrap()))
        .await
        .expect(204);

    here.get("/api/me").await.expect(401);
    subscription.changed().await;
    there.get("/api/me").await.expect(401);
}

#[tokio::test]
async fn a_session_can_be_ended_by_its_user_only() {
    let world = World::new().await;
    let here = world.member_in_browser("ada").await;
    let link = token_of_link(&here.post_empty("/api/auth/links").await.expect(201));
    let there = world.sign_in(&link).await;
    let sessions = there.get("/api/auth/sessions").await.expect(200).json();
    let other = sessions["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["current"] == false)
        .unwrap();
    let path = format!("/api/auth/sessions/{}", other["id"].as_str().unwrap());

    world.owner().await.delete(&path).await.expect(404);
    here.get("/api/me").await.expect(200);
    there.delete(&path).await.expect(204);

    here.get("/api/me").await.expect(401);
    there.delete(&path).await.expect(404);
}

#[tokio::test]
async fn cross_site_writes_are_refused_and_reads_are_not_exposed() {
    let world = World::new().await;
    let browser = world.member_in_browser("ada").await;
    let body = json!({"name": "todo"});
    let elsewhere = browser.with("origin", "https://evil.example");

    elsewhere.post("/api/projects", &body).await.expect(403);
    browser
        .with("origin", "null")
        .post("/api/projects", &body)
        .await
        .expect(403);
    let app = format!("http://todo--3000.apps.localhost:{}", world.address.port());
    browser
        .with("origin", &app)
        .post("/api/projects", &body)
        .await
        .expect(403);
    // A WebSocket is opened by a GET that no browser refuses.
    elsewhere
        .with("upgrade", "websocket")
        .with("connection", "upgrade")
        .get("/api/me")
        .await
        .expect(403);
    let read = elsewhere.get("/api/projects").await.expect(200);
    assert!(read.headers.get("access-control-allow-origin").is_none());
    assert_eq!(world.database.sql("select count(*) from projects"), "0");

    browser.post("/api/projects", &body).await.expect(201);
}

#[tokio::test]
async fn a_cookie_needs_an_origin_and_a_token_does_not() {
    let world = World::new().await;
    let invite = world
        .owner()
        .await
        .post_empty("/api/users/invites")
        .await
        .expect(201);
    let body = json!({"token": token_of_link(&invite), "login": "ada"});
    let signed_in = world.anonymous().post("/api/auth/link", &body).await.expect(200);
    let silent = world.anonymous().with("cookie", &signed_in.cookie().unwrap());

    silent
        .post("/api/projects", &json!({"name": "one"}))
        .await
        .expect(403);
    silent
        .with("sec-fetch-site", "cross-site")
        .post("/api/projects", &json!({"name": "one"}))
        .await
        .expect(403);
    silent
        .with("sec-fetch-site", "same-origin")
        .post("/api/projects", &json!({"name": "one"}))
        .await
        .expect(201);
    world
        .member("grace")
        .await
        .with("origin", "https://evil.example")
        .post("/api/projects", &json!({"name": "two"}))
        .await
        .expect(201);
    // Another site cannot sign a user in either.
    world
        .anonymous()
        .with("origin", "https://evil.example")
        .post("/api/auth/password", &json!({"login": "ada", "password": "x"}))
        .await
        .expect(403);
}

#[tokio::test]
async fn a_token_is_shown_once_and_expires() {
    let world = World::new().await;
    let owner = world.owner().await;
    let refused = owner
        .post(
            "/api/tokens",
            &json!({"name": "x", "expiresAt": "2001-01-01T00:00:00Z"}),
        )
        .await
        .expect(422);
    assert_eq!(refused.field(), "expiresAt");
    let created = owner
        .post(
            "/api/tokens",
            &json!({"name": "x", "expiresAt": "2999-01-01T00:00:00Z"}),
        )
        .await
        .expect(201)
        .json();
    let token = created["token"].as_str().unwrap();
    assert!(token.starts_with("fsa_") && token.len() > 40);

    let listed = owner.get("/api/tokens").await.expect(200);
    assert!(!listed.text().contains(token));
    world
        .database
        .sql("update api_tokens set expires_at = now() where name = 'x'");
    world.anonymous().token(token).get("/api/me").await.expect(401);
    let refused = world
        .anonymous()
        .token("fsa_nonsense")
        .get("/api/me")
        .await
        .expect(401);
    assert_eq!(refused.headers["www-authenticate"], "Bearer");
}
