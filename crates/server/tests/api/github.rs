//! GitHub sign-in tests: who may sign in, who may not, and what is stored.

use fsa_model::ProjectId;
use fsa_server::{git_credentials::RepositoryLocation, settings::Join};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::common::{ApiResponse, Client, World, github::Github};

const BEGIN: &str = "/api/auth/github";

fn anyone() -> Join {
    Join {
        anyone: true,
        ..Join::default()
    }
}

async fn world(join: Join) -> (World, Github) {
    let github = Github::new().await;
    let world = World::with(|settings| settings.github = Some(github.settings(join))).await;
    (world, github)
}

/// A browser at GitHub's page: the browser, and the URL to which GitHub redirects it.
async fn begin_sign_in(github: &Github, browser: &Client) -> (Client, String) {
    let started = browser.post(BEGIN, &json!({})).await.expect(200);
    let back = github.allow(started.json()["url"].as_str().unwrap());
    (browser.with("cookie", &started.cookie().unwrap()), back)
}

/// The complete sign-in of a browser without a session.
async fn sign_in(world: &World, github: &Github) -> ApiResponse {
    let (browser, back) = begin_sign_in(github, &world.anonymous()).await;
    browser.get(&back).await
}

async fn signed_in(world: &World, github: &Github) -> Client {
    let answer = sign_in(world, github).await.expect(303);
    world.anonymous().browser(&answer)
}

async fn login(client: &Client) -> String {
    client.get("/api/me").await.expect(200).json()["login"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[track_caller]
fn refused(answer: ApiResponse, status: u16) {
    let answer = answer.expect(status);
    assert!(answer.text().contains("Not signed in"), "{}", answer.text());
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert!(
        cookies
            .iter()
            .all(|cookie| !cookie.to_str().unwrap().starts_with("fsa_session")),
        "{cookies:?}"
    );
}

fn users(world: &World) -> String {
    world.database.sql("select count(*) from users")
}

#[tokio::test]
async fn a_new_user_joins_and_is_identified_by_the_github_id() {
    let (world, github) = world(anyone()).await;

    let first = sign_in(&world, &github).await.expect(303);

    assert_eq!(first.headers["location"], "/");
    let ada = world.anonymous().browser(&first);
    assert_eq!(login(&ada).await, "ada-l");
    assert_eq!(github.scopes(), "read:user user:email repo");
    let mine = ada.get("/api/me/github").await.expect(200).json();
    assert_eq!(mine["account"]["id"], 1);
    assert_eq!(mine["account"]["needsSignIn"], false);

    github.person(1, "renamed");
    assert_eq!(login(&signed_in(&world, &github).await).await, "ada-l");
    // The old login belongs to another account now, which is another user here too.
    github.person(2, "Ada-L");
    assert_eq!(login(&signed_in(&world, &github).await).await, "ada-l-2");
}

#[tokio::test]
async fn a_sign_in_ends_the_previous_session() {
    let (world, github) = world(anyone()).await;
    let old = world
        .sign_in(&{
            let owner = world.owner().await;
            crate::common::token_of_link(&owner.post_empty("/api/auth/links").await.expect(201))
        })
        .await;
    let started = old.post(BEGIN, &json!({})).await.expect(200);
    let back = github.allow(started.json()["url"].as_str().unwrap());
    let session = old.get("/api/auth/sessions").await.expect(200).json();
    assert_eq!(session["items"].as_array().unwrap().len(), 1);
    let both = old.also_cookie(&started.cookie().unwrap());

    let answer = both.get(&back).await.expect(303);

    assert_eq!(login(&world.anonymous().browser(&answer)).await, "ada-l");
    old.get("/api/me").await.expect(401);
}

#[tokio::test]
async fn invalid_and_reused_states_are_refused() {
    let (world, github) = world(anyone()).await;
    let (browser, back) = begin_sign_in(&github, &world.anonymous()).await;
    let (attacker, others) = begin_sign_in(&github, &world.anonymous()).await;

    let (path, _) = back.split_once("&state=").unwrap();
    refused(browser.get(&format!("{path}&state=guessed")).await, 403);
    refused(browser.get(path).await, 403);
    // A browser is led to the attacker's redirect, without and with a cookie for its own attempt.
    refused(world.anonymous().get(&others).await, 403);
    refused(browser.get(&others).await, 403);
    // The attempt used the state up: its own browser cannot use it now either.
    refused(attacker.get(&others).await, 403);
    assert_eq!(users(&world), "0");

    browser.get(&back).await.expect(303);
    refused(browser.get(&back).await, 403);
    assert_eq!(users(&world), "1");
}

#[tokio::test]
async fn a_code_is_valid_once_and_for_its_redirect_and_verifier() {
    let (world, github) = world(anyone()).await;

    let (browser, back) = begin_sign_in(&github, &world.anonymous()).await;
    github.bind_to_another_redirect();
    refused(browser.get(&back).await, 403);

    let (browser, back) = begin_sign_in(&github, &world.anonymous()).await;
    github.bind_to_another_verifier();
    refused(browser.get(&back).await, 403);

    // A used code, sent again with a fresh state.
    let (browser, used) = begin_sign_in(&github, &world.anonymous()).await;
    browser.get(&used).await.expect(303);
    let (browser, back) = begin_sign_in(&github, &world.anonymous()).await;
    let code = used.split_once("&state=").unwrap().0;
    let state = back.split_once("&state=").unwrap().1;
    refused(browser.get(&format!("{code}&state={state}")).await, 403);
    assert_eq!(users(&world), "1");
    assert_eq!(github.codes(), 1, "the last code was never sent");
}

#[tokio::test]
async fn expired_and_denied_sign_ins_are_refused() {
    let (world, github) = world(anyone()).await;
    let (browser, back) = begin_sign_in(&github, &world.anonymous()).await;
    world
        .database
        .sql("update github_sign_ins set expires_at = now() - interval '1 second'");
    refused(browser.get(&back).await, 403);
    assert_eq!(github.codes(), 1, "the code was not exchanged");

    let denied = "/api/auth/github/callback?error=access_denied&state=x";
    refused(browser.get(denied).await, 400);
}

#[tokio::test]
async fn another_site_cannot_begin_a_sign_in() {
    let (world, _github) = world(anyone()).await;
    let elsewhere = world.anonymous().with("origin", "https://elsewhere.example");
    elsewhere.post(BEGIN, &json!({})).await.expect(403);
}

#[tokio::test]
async fn equal_logins_and_emails_are_different_users() {
    let (world, github) = world(anyone()).await;
    world.member("ada-l").await;
    github.email("owner@example.org");

    let new_user = signed_in(&world, &github).await;

    assert_eq!(login(&new_user).await, "ada-l-2");
    assert_eq!(
        new_user.get("/api/projects").await.expect(200).json()["items"],
        json!([])
    );
}

#[tokio::test]
async fn settings_decide_who_may_join() {
    let (closed, github) = world(Join::default()).await;
    refused(sign_in(&closed, &github).await, 403);
    assert_eq!(users(&closed), "0");

    let listed = Join {
        logins: vec!["ada-l".into()],
        ..Join::default()
    };
    let (listed, github) = world(listed).await;
    sign_in(&listed, &github).await.expect(303);
    github.person(2, "grace");
    refused(sign_in(&listed, &github).await, 403);

    let members = Join {
        organizations: vec!["Engines".into()],
        ..Join::default()
    };
    let (members, github) = world(members).await;
    refused(sign_in(&members, &github).await, 403);
    assert!(github.scopes().ends_with("read:org"), "{}", github.scopes());
    github.member_of("engines");
    sign_in(&members, &github).await.expect(303);
}

#[tokio::test]
async fn an_account_is_linked_and_unlinked() {
    let (world, github) = world(Join::default()).await;
    let ada = world.member_in_browser("ada").await;
    let link = |browser: Client| {
        let github = &github;
        async move {
            let started = browser.post(BEGIN, &json!({"link": true})).await.expect(200);
            let back = github.allow(started.json()["url"].as_str().unwrap());
            (browser.also_cookie(&started.cookie().unwrap()), back)
        }
    };
    world
        .anonymous()
        .post(BEGIN, &json!({"link": true}))
        .await
        .expect(401);

    let (browser, back) = link(ada.clone()).await;
    browser.get(&back).await.expect(303);

    // New users may not join here, and a user with a linked account may still sign in.
    assert_eq!(login(&signed_in(&world, &github).await).await, "ada");
    // An account is linked to one user, and a user has one account.
    let grace = world.member_in_browser("grace").await;
    let (browser, back) = link(grace.clone()).await;
    refused(browser.get(&back).await, 409);
    github.person(2, "second");
    let (browser, back) = link(ada.clone()).await;
    refused(browser.get(&back).await, 409);
    // The user who is signed in when the browser comes back must be the one who began.
    let started = ada.post(BEGIN, &json!({"link": true})).await.expect(200);
    let back = github.allow(started.json()["url"].as_str().unwrap());
    refused(
        grace.also_cookie(&started.cookie().unwrap()).get(&back).await,
        403,
    );

    ada.delete("/api/me/github").await.expect(409);
    ada.put(
        "/api/auth/password",
        &json!({"password": "correct horse battery"}),
    )
    .await
    .expect(204);
    ada.delete("/api/me/github").await.expect(204);
    github.person(1, "Ada-L");
    refused(sign_in(&world, &github).await, 403);
    let actions = "select string_agg(action, ' ' order by id) from audit where action like 'github.%'";
    assert_eq!(world.database.sql(actions), "github.link github.unlink");
}

#[tokio::test]
async fn a_disabled_user_cannot_sign_in_with_github() {
    let (world, github) = world(anyone()).await;
    signed_in(&world, &github).await;
    world
        .database
        .sql("update users set disabled_at = now() where login = 'ada-l'");
    refused(sign_in(&world, &github).await, 403);
}

#[tokio::test]
async fn all_pages_of_repositories_are_searched() {
    let (world, github) = world(anyone()).await;
    for number in 0..230 {
        github.repository(&format!("ada-l/thing-{number}"), "one of many");
    }
    github.repository("engines/Difference", "computes tables");
    let ada = signed_in(&world, &github).await;

    let all = ada.get("/api/repositories").await.expect(200).json();
    assert_eq!(all["items"].as_array().unwrap().len(), 231);
    assert_eq!(all["truncated"], false);
    for search in ["difference", "TABLES"] {
        let path = format!("/api/repositories?search={search}");
        let found = ada.get(&path).await.expect(200).json();
        assert_eq!(found["items"].as_array().unwrap().len(), 1, "{search}");
        assert_eq!(found["items"][0]["name"], "engines/Difference");
        assert_eq!(found["items"][0]["defaultBranch"], "main");
    }
    // A user without a linked account has no repositories.
    world
        .member("grace")
        .await
        .get("/api/repositories")
        .await
        .expect(409);
}

#[tokio::test]
async fn a_refused_github_token_requires_a_new_sign_in() {
    let (world, github) = world(anyone()).await;
    let ada = signed_in(&world, &github).await;
    ada.get("/api/repositories").await.expect(200);

    github.revoke();

    ada.get("/api/repositories").await.expect(409);
    let mine = ada.get("/api/me/github").await.expect(200).json();
    assert_eq!(mine["account"]["needsSignIn"], true);
    let again = signed_in(&world, &github).await;
    again.get("/api/repositories").await.expect(200);
}

#[tokio::test]
async fn no_github_secret_is_stored_in_plain_text() {
    let (world, github) = world(anyone()).await;
    let (_, back) = begin_sign_in(&github, &world.anonymous()).await;
    signed_in(&world, &github).await;

    let rows = world.database.sql(
        "select (select string_agg(to_jsonb(a)::text, '') from github_accounts a)
             || (select string_agg(to_jsonb(s)::text, '') from github_sign_ins s)",
    );

    let hex_of = |text: &str| hex::encode(text);
    let state = back.split_once("&state=").unwrap().1;
    assert!(rows.contains("state_hash"), "{rows}");
    for secret in ["gho_", "client-secret", state] {
        assert!(
            !rows.contains(secret) && !rows.contains(&hex_of(secret)),
            "{secret}: {rows}"
        );
    }
}

#[tokio::test]
async fn sign_in_with_github_needs_a_configuration() {
    let world = World::new().await;
    world.anonymous().post(BEGIN, &json!({})).await.expect(409);
    let methods = world
        .anonymous()
        .get("/api/auth/methods")
        .await
        .expect(200)
        .json();
    assert_eq!(methods, json!({"password": true, "github": false}));
}

/// A project of `client` that is cloned from this repository of `github`.
async fn import(client: &Client, github: &Github, name: &str) -> ProjectId {
    let url = format!("http://{}/ada-l/{name}.git", github.address);
    let body = json!({"name": name, "start": false, "repository": {"url": url}});
    let created = client.post("/api/projects", &body).await.expect(201).json();
    created["id"].as_str().unwrap().parse().unwrap()
}

/// The password that git in the project's sandboxes gets for this repository, or why it gets none.
async fn git_password(
    world: &World,
    github: &Github,
    project: ProjectId,
    name: &str,
) -> Result<Option<String>, String> {
    let location = RepositoryLocation::from_url(&format!("http://{}/{name}", github.address)).unwrap();
    let answer = world
        .app
        .callback
        .git_credentials
        .login(&world.app, project, &location)
        .await;
    answer
        .map(|login| login.map(|login| login.password.expose_secret().to_owned()))
        .map_err(|error| error.message().to_owned())
}

#[tokio::test]
async fn git_gets_the_owners_token_for_the_projects_repository_only() {
    let (world, github) = world(anyone()).await;
    let ada = signed_in(&world, &github).await;
    let shop = import(&ada, &github, "shop").await;
    let without = world.member("grace").await;
    let graces = import(&without, &github, "shop").await;

    let token = git_password(&world, &github, shop, "ada-l/shop").await.unwrap();

    assert!(token.unwrap().starts_with("gho_"));
    for other in ["ada-l/diary", "ada-l", "ada-l/shop/x"] {
        assert_eq!(
            git_password(&world, &github, shop, other).await,
            Ok(None),
            "{other}"
        );
    }
    let why = git_password(&world, &github, graces, "ada-l/shop")
        .await
        .unwrap_err();
    assert!(why.contains("no account at GitHub"), "{why}");
    github.revoke();
    let location = RepositoryLocation::from_url(&format!("http://{}/ada-l/shop", github.address)).unwrap();
    let another = "another".to_owned().into();
    let advice = world
        .app
        .callback
        .git_credentials
        .refused(&world.app, shop, &location, &another)
        .await
        .unwrap();
    // The refusal of another password than the issued one does not invalidate the issued one.
    assert!(advice.unwrap().contains("try again"));
    assert!(git_password(&world, &github, shop, "ada-l/shop").await.is_ok());
    ada.get("/api/repositories").await.expect(409);
    let why = git_password(&world, &github, shop, "ada-l/shop")
        .await
        .unwrap_err();
    assert!(why.contains("link the account again"), "{why}");
}

#[tokio::test]
async fn expiring_tokens_are_renewed_and_app_tokens_are_for_one_repository() {
    let github = Github::new().await;
    github.expire_after(60);
    let world = World::with(|settings| settings.github = Some(github.app(anyone()))).await;
    let ada = signed_in(&world, &github).await;
    assert_eq!(github.scopes(), "", "the permissions of an app are set at GitHub");
    let shop = import(&ada, &github, "shop").await;
    let tokens = "select encode(sha256(token), 'hex') from github_accounts";
    let first = world.database.sql(tokens);

    let given = git_password(&world, &github, shop, "ada-l/shop").await;

    assert_eq!(given, Ok(Some("ghs_ada-l/shop".into())));
    assert_ne!(world.database.sql(tokens), first, "it was about to expire");
    // GitHub refuses it although it has not expired: it is renewed as well, and git does not fail.
    github.expire_after(28_800);
    git_password(&world, &github, shop, "ada-l/shop").await.unwrap();
    github.revoke();
    ada.get("/api/repositories").await.expect(200);
    github.revoke_all();
    ada.get("/api/repositories").await.expect(409);
    let left = "select count(*) from github_accounts where token is not null or refresh_token is not null";
    assert_eq!(world.database.sql(left), "0");
}
