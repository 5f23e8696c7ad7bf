//! Lifecycle tests of reconciliation: sandboxes and projects without faults.

use fsa_driver_testing::memory::{Call, Fault, Gate};
use fsa_model::{
    ContainerState, Phase, Stage, StageState, VolumeId, api::DatabaseStatus, condition::ImageProgress,
    event::EventKind,
};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::scene::Scene;

#[tokio::test]
async fn a_start_that_waits_for_its_image_says_how_far_it_is() {
    let (scene, _workers) = Scene::with_workers().await;
    let gate = Gate::default();
    let driver = &scene.world.driver;
    driver
        .script
        .next(Call::EnsureContainer, Fault::Pause(gate.clone()));
    let project = scene.create(json!({"name": "todo"})).await;
    let mut progress = ImageProgress {
        bytes: 40_000_000,
        total_bytes: 100_000_000,
        unpacked_layers: 1,
        total_layers: 3,
    };
    for bytes in [40_000_000, 80_000_000] {
        progress.bytes = bytes;
        driver.set_image_progress(Some(progress));
        let pulling = scene
            .when(&project, "the progress of the image", |sandbox| {
                sandbox.stages[Stage::ContainerReady as usize].progress == Some(progress)
            })
            .await;
        let message = pulling.stages[Stage::ContainerReady as usize].message.as_deref();
        assert_eq!(message, Some(progress.message().as_str()));
    }
    driver.set_image_progress(None);
    gate.open();

    let running = scene.until(&project, Phase::Running).await;
    let container = &running.stages[Stage::ContainerReady as usize];
    assert_eq!((container.progress, &container.message), (None, &None));
    let reported = scene.events_of(&project, EventKind::StageChanged).await;
    let progress: Vec<_> = reported
        .iter()
        .filter_map(|event| event.data["progress"]["bytes"].as_u64())
        .collect();
    assert_eq!(progress, [40_000_000, 80_000_000]);
}

#[tokio::test]
async fn a_created_project_runs_with_environment_and_database() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene
        .create(json!({"name": "todo", "envVars": {"COLOR": "green", "NODE_ENV": "production"}}))
        .await;

    let sandbox = scene.until(&project, Phase::Running).await;

    for (condition, stage) in sandbox.stages.iter().zip(Stage::ALL) {
        assert_eq!((condition.stage, condition.state), (stage, StageState::Done));
    }
    let resource = scene.resource(&project).await;
    assert_eq!(scene.world.driver.container(&resource), ContainerState::Running);
    let environment = scene.world.driver.environment(&resource).expect("it runs");
    let variable = |name: &str| environment[name].expose_secret().to_owned();
    assert_eq!(variable("ANTHROPIC_BASE_URL"), "http://127.0.0.1:7682/anthropic");
    assert!(variable("ANTHROPIC_AUTH_TOKEN").starts_with("fsa-sandbox-"));
    let values = environment.values().map(|value| value.expose_secret());
    assert!(!values.into_iter().any(|value| value.contains("agent-key")));
    assert_eq!(variable("COLOR"), "green");
    assert_eq!(
        variable("NODE_ENV"),
        "production",
        "the project's own variable wins"
    );
    assert_eq!(variable("DATABASE_URL"), variable("POSTGRES_URL"));
    assert!(!variable("DATABASE_URL").contains('?'));
    assert_eq!(variable("FSA_PUBLIC_URL"), sandbox.public_url);
    let preview_url = variable("FSA_PREVIEW_URL");
    assert!(preview_url.contains("//todo--{port}."), "{preview_url}");
    assert_eq!(preview_url.replace("{port}", "3000"), sandbox.public_url);
    let database: fsa_model::api::Database = scene
        .owner
        .get("/api/projects/todo/database")
        .await
        .expect(200)
        .read();
    assert_eq!(database.status, DatabaseStatus::Ready);
    assert_eq!(variable("PGDATABASE"), database.name);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_project_with_another_database_runs_without_its_own() {
    let (scene, _workers) = Scene::with_workers().await;
    let url = "postgresql://me@db.example/mine";
    let project = scene
        .create(json!({"name": "todo", "envVars": {"DATABASE_URL": url}}))
        .await;

    let sandbox = scene.until(&project, Phase::Running).await;

    for (condition, stage) in sandbox.stages.iter().zip(Stage::ALL) {
        assert_eq!((condition.stage, condition.state), (stage, StageState::Done));
    }
    let resource = scene.resource(&project).await;
    let environment = scene.world.driver.environment(&resource).expect("it runs");
    assert_eq!(environment["DATABASE_URL"].expose_secret(), url);
    assert!(!environment.contains_key("PGHOST"));
    scene.assert_consistent();
}

#[tokio::test]
async fn a_rename_changes_the_addresses_of_the_next_start() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let url = async || {
        let resource = scene.resource(&project).await;
        let environment = scene.world.driver.environment(&resource).expect("it runs");
        environment["FSA_PUBLIC_URL"].expose_secret().to_owned()
    };

    scene
        .owner
        .patch("/api/projects/todo", &json!({"name": "shop"}))
        .await
        .expect(200);
    let sandbox = scene.until(&project, Phase::Running).await;
    assert!(url().await.contains("//todo--3000."));
    assert!(sandbox.public_url.contains("//shop--3000."));

    scene
        .owner
        .patch("/api/projects/shop/environment", &json!({"envVars": {"A": "1"}}))
        .await
        .expect(200);
    scene.until(&project, Phase::Running).await;
    assert_eq!(url().await, sandbox.public_url);
}

#[tokio::test]
async fn a_start_is_reported_in_events() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;

    let events = scene.events(&project).await;

    assert_eq!(events[0].kind, EventKind::ProjectCreated);
    let done: Vec<_> = events
        .iter()
        .filter(|event| event.kind == EventKind::StageChanged && event.data["state"] == "done")
        .map(|event| event.data["stage"].as_str().expect("a stage").to_owned())
        .collect();
    assert_eq!(done.len(), 5, "each stage is reported as done once: {done:?}");
    assert_eq!(done[4], "Ready");
    assert_eq!(
        scene.events_of(&project, EventKind::DatabaseCreated).await.len(),
        1
    );
    let last = events.last().expect("there are events");
    assert_eq!(last.kind, EventKind::PhaseChanged);
    assert_eq!(last.data["phase"], "RUNNING");
}

#[tokio::test]
async fn a_project_that_was_not_started_has_no_resources() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.create(json!({"name": "todo", "start": false})).await;

    scene.until(&project, Phase::Stopped).await;

    assert_eq!(scene.world.driver.resources(), []);
    assert!(scene.world.databases.roles().is_empty());
    scene.assert_consistent();
}

#[tokio::test]
async fn a_stopped_sandbox_keeps_its_identity() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;

    scene.request_action(&project, "stop").await;
    let stopped = scene.until(&project, Phase::Stopped).await;
    assert_eq!(scene.world.driver.container(&resource), ContainerState::Stopped);
    assert_eq!(stopped.stages[0].state, StageState::Done, "its database is kept");
    assert_eq!(stopped.stages[1].state, StageState::Pending);
    assert!(stopped.ports.is_empty());

    scene.request_action(&project, "start").await;
    scene.until(&project, Phase::Running).await;
    assert_eq!(scene.resource(&project).await, resource);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_restart_replaces_the_container_and_is_an_update() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene
        .owner
        .patch(
            "/api/projects/todo/environment",
            &json!({"envVars": {"COLOR": "red"}}),
        )
        .await
        .expect(200);

    let resource = scene.resource(&project).await;
    scene
        .when(&project, "the new color", |sandbox| {
            let environment = scene.world.driver.environment(&resource);
            sandbox.status == Phase::Running
                && environment.is_some_and(|all| all.get("COLOR").is_some_and(|v| v.expose_secret() == "red"))
        })
        .await;

    let phases: Vec<_> = scene
        .events_of(&project, EventKind::PhaseChanged)
        .await
        .iter()
        .map(|event| event.data["phase"].as_str().expect("a phase").to_owned())
        .collect();
    assert!(!phases.contains(&"ERROR".to_owned()), "{phases:?}");
    assert!(!phases.contains(&"STARTING".to_owned()), "{phases:?}");
    scene.assert_consistent();
}

#[tokio::test]
async fn database_and_files_survive_a_termination() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let first = scene.resource(&project).await;

    scene.terminate(&project).await;
    scene.until(&project, Phase::Terminated).await;
    assert_eq!(scene.world.driver.resources(), []);
    assert_eq!(scene.world.driver.volumes(), [VolumeId::of_main(project.id)]);
    assert_eq!(scene.world.databases.roles().len(), 1);

    scene
        .owner
        .post(&format!("/api/sandbox/{}", project.id), &json!({}))
        .await
        .expect(202);
    scene.until(&project, Phase::Running).await;
    assert_ne!(scene.resource(&project).await, first);
    assert_eq!(scene.world.databases.roles().len(), 1);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_deleted_project_leaves_nothing_but_its_events() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let other = scene.running("other").await;
    let grace = scene.world.member("grace").await;
    let share = format!("/api/projects/{}/members/grace", project.id);
    scene
        .owner
        .put(&share, &json!({"role": "viewer"}))
        .await
        .expect(200);

    scene.delete(&project).await;
    scene.until_gone(&project).await;

    // The user with whom it was shared receives that event, and no other event of the project.
    let received = grace.get("/api/events?follow=false").await.expect(200).json();
    assert_eq!(received["items"][0]["kind"], "shareEnded");
    assert_eq!(received["items"].as_array().map(Vec::len), Some(1));

    assert_eq!(scene.world.driver.volumes(), [VolumeId::of_main(other.id)]);
    assert_eq!(scene.world.databases.roles().len(), 1);
    let kinds: Vec<_> = scene
        .events(&project)
        .await
        .iter()
        .map(|event| event.kind)
        .collect();
    assert!(kinds.ends_with(&[EventKind::DatabaseDropped, EventKind::ProjectDeleted]));
    assert_eq!(scene.status(&other).await.status, Phase::Running);
    scene.assert_consistent();
}

#[tokio::test]
async fn an_unchanged_desired_state_changes_nothing() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let changes = scene.changes();

    scene
        .world
        .database
        .sql("update sandboxes set generation = generation + 1");
    let rows = "select observed_generation from sandboxes";
    scene
        .when(&project, "the second generation", |_| {
            scene.world.database.sql(rows) == "2"
        })
        .await;

    assert_eq!(scene.changes(), changes);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_container_waits_for_the_credentials_of_its_database() {
    use crate::{common::World, scene::Workers, scene::options};
    let world =
        World::with_databases(fsa_driver_testing::memory::MemoryDatabases::without_predictable_credentials())
            .await;
    let scene = Scene::of(world).await;
    let _workers = Workers::of(&scene.world, options());
    let project = scene.running("todo").await;

    let resource = scene.resource(&project).await;
    let environment = scene.world.driver.environment(&resource).expect("it runs");
    assert!(environment.contains_key("DATABASE_URL"));
    scene.assert_consistent();
}
