//! Image tests: an owner of the system imports and removes images, and none that a project uses.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::common::{Client, World};

async fn import(owner: &Client, name: &str) {
    let path = format!("/api/images?name={name}");
    owner
        .send_bytes(
            Method::POST,
            &path,
            Some("application/x-tar"),
            Bytes::from_static(b"layers"),
        )
        .await
        .expect(201);
}

async fn names(client: &Client) -> Vec<String> {
    let images = client.get("/api/images").await.expect(200).json();
    let name = |image: &Value| image["name"].as_str().unwrap().to_owned();
    images["items"].as_array().unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn an_image_is_removed_by_its_name_once_no_project_uses_it() {
    let world = World::new().await;
    let owner = world.owner().await;
    let ada = world.member("ada").await;
    import(&owner, "tools").await;
    import(&owner, "example.test/tools:1").await;
    let shop = json!({"name": "shop", "image": "tools", "start": false});
    ada.post("/api/projects", &shop).await.expect(201);

    ada.delete("/api/images/tools").await.expect(403);
    let used = owner.delete("/api/images/tools").await.expect(409);
    assert!(used.error().error.contains("ada/shop"), "{}", used.text());
    owner
        .delete("/api/images/example.test%2Ftools:1")
        .await
        .expect(204);
    assert_eq!(names(&ada).await, ["tools"]);
    owner
        .delete("/api/images/example.test%2Ftools:1")
        .await
        .expect(404);

    ada.patch("/api/projects/shop", &json!({"template": "host"}))
        .await
        .expect(200);
    owner.delete("/api/images/tools").await.expect(204);
    assert_eq!(names(&ada).await, Vec::<String>::new());
    let audit = owner.get("/api/audit").await.expect(200).text();
    assert!(audit.contains("image tools (sha256:0)"), "{audit}");
}
