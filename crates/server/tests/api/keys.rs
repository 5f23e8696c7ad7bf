//! Encryption key tests: the keys of all stored secrets are listed, and a rotation works during writes.

use std::collections::BTreeSet;

use fsa_model::api::{EncryptionKey, Page};
use fsa_server::{
    encryption::KeyRing,
    store::key_rotation::{self, UnusableSecrets},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::common::{KEY, OTHER_KEY, World, project};

#[tokio::test]
async fn all_binary_columns_are_encrypted_or_hashes() {
    let world = World::new().await;

    let found = world.database.sql(
        "select table_name || '.' || column_name from information_schema.columns
         where table_schema = 'public' and data_type = 'bytea' and table_name not like '\\_sqlx%'
           and column_name not like '%\\_hash'",
    );

    let found: BTreeSet<String> = found.lines().map(str::to_owned).collect();
    assert_eq!(found, key_rotation::columns().collect::<BTreeSet<_>>());
}

#[tokio::test]
async fn secrets_are_reencrypted_during_writes() {
    let world = World::new().await;
    let store = &world.app.store;
    let ada = world.member("ada").await;
    for number in 0..5 {
        project(&ada, &format!("p{number}")).await;
    }
    ada.patch(
        "/api/me/agent-credentials",
        &json!({"envVars": {"ANTHROPIC_API_KEY": "k"}}),
    )
    .await
    .expect(200);
    // The state after a rotation; the server here still writes with the previous key.
    let both = KeyRing::new(&[KEY, OTHER_KEY]);
    let stop = CancellationToken::new();

    let writes = async {
        for number in 0..20 {
            let body = json!({"envVars": {"N": number.to_string()}});
            ada.patch("/api/projects/p0/environment", &body).await.expect(200);
        }
    };
    let (done, ()) = tokio::join!(key_rotation::reencrypt(store, &both, &stop), writes);
    assert!(done.unwrap() > 5);

    key_rotation::reencrypt(store, &both, &stop).await.unwrap();
    let new = KeyRing::new(&[OTHER_KEY]);
    assert_eq!(
        key_rotation::keys(store)
            .await
            .unwrap()
            .into_keys()
            .collect::<Vec<_>>(),
        [new.current().to_vec()]
    );
    assert_eq!(key_rotation::reencrypt(store, &both, &stop).await.unwrap(), 0);
    key_rotation::check(store, &new).await.unwrap();
    // No concurrent write is lost.
    let environment = ada
        .get("/api/projects/p0/environment?reveal=true")
        .await
        .expect(200)
        .json();
    assert_eq!(environment["envVars"]["N"], "19", "{environment}");
}

#[tokio::test]
async fn missing_and_wrong_keys_are_reported() {
    let world = World::new().await;
    let store = &world.app.store;
    project(&world.member("ada").await, "shop").await;
    key_rotation::check(store, &world.app.key_ring).await.unwrap();

    let missing = key_rotation::check(store, &KeyRing::new(&[OTHER_KEY]))
        .await
        .unwrap_err();
    assert!(
        matches!(missing, UnusableSecrets::UnknownKeys { count, .. } if count > 2),
        "{missing}"
    );

    // The correct key's name on a value that another key encrypted.
    world
        .database
        .sql("update projects set environment = set_byte(environment, 40, 255 - get_byte(environment, 40))");
    let damaged = key_rotation::check(store, &world.app.key_ring).await.unwrap_err();
    assert!(matches!(damaged, UnusableSecrets::Damaged { .. }), "{damaged}");
}

#[tokio::test]
async fn an_owner_lists_keys_and_cannot_remove_used_ones() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "shop").await;

    let all = owner
        .get("/api/keys")
        .await
        .expect(200)
        .read::<Page<EncryptionKey>>()
        .items;

    let newest = hex::encode(world.app.key_ring.current());
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(
        all[1].current && all[1].id == newest && all[1].values > 2,
        "{all:?}"
    );
    assert!(
        !all[0].current && all[0].available && all[0].values == 0,
        "{all:?}"
    );
    let used = owner.delete(&format!("/api/keys/{newest}")).await.expect(409);
    assert!(
        used.error()
            .error
            .contains("stored secrets are encrypted with it")
    );
    owner.delete("/api/keys/00000000").await.expect(404);
    // This server's keys are not in a file, so they cannot be changed.
    let other = owner
        .delete(&format!("/api/keys/{}", all[0].id))
        .await
        .expect(409);
    assert!(other.error().error.contains("not in a file"));
    // Values whose key is missing are reported.
    world
        .database
        .sql("update databases set password = overlay(password placing '\\x01020304'::bytea from 2 for 4)");
    let all = owner
        .get("/api/keys")
        .await
        .expect(200)
        .read::<Page<EncryptionKey>>()
        .items;
    let lost = all.iter().find(|key| !key.available).expect("it is listed");
    assert_eq!((lost.id.as_str(), lost.values), ("01020304", 1));
}
