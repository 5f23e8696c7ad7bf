//! System tests: what owners of the system see of it, and what all users see of its regions.

use fsa_driver_testing::memory::{Call, Fault};
use fsa_model::system::{Check, CheckState};
use fsa_server::settings::Checks;
use serde_json::json;

use crate::common::{World, project};

#[tokio::test]
async fn regions_checks_and_usage_are_listed() {
    let world = World::with(|settings| {
        settings.checks = Checks::new(async || vec![Check::good("kernel", "Linux 6.1.0")]);
    })
    .await;
    let owner = world.owner().await;
    let ada = world.member("ada").await;
    fsa_server::reconcile::Worker::spawn(
        world.app.core().clone(),
        world.app.callback.clone(),
        world.app.shutdown.clone(),
    );
    let shop = project(&ada, "shop").await;
    let waiting = ada.with("prefer", "wait=30");
    waiting.post_empty("/api/sandbox/shop").await.expect(200);

    let regions = ada.get("/api/regions").await.expect(200).json();
    assert_eq!(
        regions["items"],
        json!([
            {"name": "here", "kind": "memory", "default": true, "healthy": true, "snapshots": true, "backups": false},
            {"name": "there", "kind": "memory", "default": false, "healthy": true, "snapshots": true, "backups": false},
        ])
    );
    let used = owner.get("/api/system/usage").await.expect(200).json();
    assert_eq!(used["omitted"], 0);
    assert_eq!(used["items"][0]["projectId"], json!(shop.id));
    assert_eq!(used["items"][0]["ownerLogin"], "ada");
    assert_eq!(used["items"][0]["usage"]["pids"], 2);

    // Another server, which has not queried the region yet.
    let replica = world.replica().await;
    replica.driver.script.always(Call::Inventory, Fault::transient());
    let owner = replica.owner().await;
    let found = owner.get("/api/system/checks").await.expect(200).json();
    let found: Vec<Check> = serde_json::from_value(found["items"].clone()).unwrap();
    let region = found.iter().find(|check| check.name == "region here").unwrap();
    assert_eq!(region.state, CheckState::Bad);
}
