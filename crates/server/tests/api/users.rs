//! User tests: invite, disable, remove; the last owner stays.

use serde_json::json;

use crate::common::{World, project};

async fn id_of(client: &crate::common::Client) -> String {
    client.get("/api/me").await.expect(200).json()["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn only_an_owner_lists_and_changes_users() {
    let world = World::new().await;
    let (owner, ada) = (world.owner().await, world.member("ada").await);
    let listed = owner.get("/api/users").await.expect(200).json();
    let logins: Vec<_> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|u| u["login"].as_str().unwrap())
        .collect();
    assert_eq!(logins, ["ada", "owner"]);

    ada.get("/api/users").await.expect(403);
    ada.post_empty("/api/users/invites").await.expect(403);
    ada.get("/api/audit").await.expect(403);
    let owners = format!("/api/users/{}", id_of(&owner).await);
    ada.patch(&owners, &json!({"disabled": true})).await.expect(403);
    ada.delete(&owners).await.expect(403);
    ada.post_empty(&format!("{owners}/link")).await.expect(403);
}

#[tokio::test]
async fn only_a_browser_session_creates_sign_in_links_for_others() {
    let world = World::new().await;
    let (owner, ada) = (world.owner().await, world.member("ada").await);
    let path = format!("/api/users/{}/link", id_of(&ada).await);
    owner.post_empty(&path).await.expect(403);
    let link = world.owner_in_browser().await.post_empty(&path).await.expect(201);
    let signed_in = world.sign_in(&crate::common::token_of_link(&link)).await;
    assert_eq!(signed_in.get("/api/me").await.expect(200).json()["login"], "ada");
}

#[tokio::test]
async fn a_disabled_user_is_locked_out_until_enabled() {
    let world = World::new().await;
    let (owner, ada) = (world.owner().await, world.member("ada").await);
    let path = format!("/api/users/{}", id_of(&ada).await);
    let in_browser = world.owner_in_browser().await;
    let link =
        crate::common::token_of_link(&in_browser.post_empty(&format!("{path}/link")).await.expect(201));

    owner.patch(&path, &json!({"disabled": true})).await.expect(200);
    ada.get("/api/me").await.expect(401);
    world
        .anonymous()
        .post("/api/auth/link", &json!({"token": link}))
        .await
        .expect(403);

    owner.patch(&path, &json!({"disabled": false})).await.expect(200);
    ada.get("/api/me").await.expect(200);
}

#[tokio::test]
async fn the_last_owner_cannot_be_removed() {
    let world = World::new().await;
    let (owner, ada) = (world.owner().await, world.member("ada").await);
    let own = format!("/api/users/{}", id_of(&owner).await);
    owner.patch(&own, &json!({"disabled": true})).await.expect(409);
    owner.patch(&own, &json!({"role": "member"})).await.expect(409);
    owner.delete(&own).await.expect(409);

    let adas = format!("/api/users/{}", id_of(&ada).await);
    owner.patch(&adas, &json!({"role": "owner"})).await.expect(200);
    ada.get("/api/users").await.expect(200);
    owner.patch(&own, &json!({"role": "member"})).await.expect(200);
    owner.get("/api/users").await.expect(403);
}

#[tokio::test]
async fn a_removed_user_is_deleted_with_their_last_project() {
    let world = World::new().await;
    let (owner, ada) = (world.owner().await, world.member("ada").await);
    project(&ada, "todo").await;
    let path = format!("/api/users/{}", id_of(&ada).await);

    owner.delete(&path).await.expect(202);

    ada.get("/api/me").await.expect(401);
    assert_eq!(
        world.database.sql("select desired_state from sandboxes"),
        "terminated"
    );
    assert_eq!(
        world
            .database
            .sql("select count(*) from users where login = 'ada'"),
        "1"
    );
    world.database.sql("delete from projects");
    assert_eq!(
        world
            .database
            .sql("select count(*) from users where login = 'ada'"),
        "0"
    );
    owner.delete(&path).await.expect(404);
}
