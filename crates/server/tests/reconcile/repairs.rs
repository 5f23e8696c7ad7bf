//! Repair tests of reconciliation: missing or changed objects are noticed, reported and repaired.

use fsa_driver::Requeue;
use fsa_driver_testing::memory::{Call, Fault, Gate};
use fsa_model::{
    ContainerState, FailureKind, Phase, SandboxRef, StageState, VolumeId, api::DatabaseStatus,
    event::EventKind,
};
use serde_json::json;

use crate::scene::{Scene, Workers, options};

const CONTAINER: Call = Call::EnsureContainer;

impl Scene {
    /// Requeue from the data plane.
    fn requeue(&self) {
        self.world.driver.requeue(Requeue::Everything);
    }
}

#[tokio::test]
async fn a_killed_container_is_restarted_and_reported() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;
    let starts = scene.world.driver.log.count(CONTAINER);

    scene.world.driver.kill(&resource);

    scene.kinds_until(&project, EventKind::Repaired).await;
    scene
        .when(&project, "a second start", |sandbox| {
            sandbox.status == Phase::Running && scene.world.driver.log.count(CONTAINER) == starts + 1
        })
        .await;
    let message = &scene.events_of(&project, EventKind::Repaired).await[0].message;
    assert!(
        message.contains("its container had ended") && message.contains("it was killed"),
        "{message}"
    );
    scene.assert_consistent();
}

#[tokio::test]
async fn a_container_that_is_killed_repeatedly_backs_off() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;

    let mut resting = None;
    for _ in 0..20 {
        if scene.world.driver.container(&resource) == ContainerState::Running {
            scene.world.driver.kill(&resource);
        }
        let sandbox = scene
            .when(&project, "a reaction", |sandbox| {
                sandbox.status == Phase::Error
                    || scene.world.driver.container(&resource) == ContainerState::Running
            })
            .await;
        if sandbox.status == Phase::Error {
            resting = Some(sandbox);
            break;
        }
    }

    let error = resting.and_then(|sandbox| sandbox.error).expect("an error");
    assert_eq!(error.failure.kind, FailureKind::Machine);
    assert!(error.next_attempt_at.is_some());
    scene.until(&project, Phase::Running).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn unreported_losses_are_found_by_observation() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;

    scene.world.driver.remove_silently(&resource);
    scene.requeue();

    scene.kinds_until(&project, EventKind::Repaired).await;
    scene.until_settled().await;
    scene.assert_consistent();

    scene.world.driver.lose_network(&resource);
    let networks = scene.world.driver.log.count(Call::EnsureNetwork);
    scene.requeue();
    scene
        .when(&project, "a network", |_| {
            scene.world.driver.log.count(Call::EnsureNetwork) > networks
        })
        .await;
    scene.until_settled().await;
    assert_eq!(scene.events_of(&project, EventKind::Repaired).await.len(), 2);
    scene.assert_consistent();
}

#[tokio::test]
async fn losses_during_an_attempt_are_repaired_after_it() {
    let (scene, _workers) = Scene::with_workers().await;
    let gate = Gate::default();
    let terminal = Call::AwaitServing;
    scene
        .world
        .driver
        .script
        .next(terminal, Fault::PauseHalfway(gate.clone()));
    let project = scene.create(json!({"name": "todo"})).await;
    gate.reached().await;

    let resource = scene.resource(&project).await;
    scene.world.driver.lose_network(&resource);
    scene.world.driver.requeue(Requeue::Sandbox(SandboxRef {
        id: scene.status(&project).await.id,
        project: project.id,
        volume: VolumeId::of_main(project.id),
        resource,
    }));
    gate.open();

    scene.kinds_until(&project, EventKind::Repaired).await;
    scene.until_settled().await;
    scene.assert_consistent();
}

#[tokio::test]
async fn a_replaced_container_is_repaired() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;
    let starts = scene.world.driver.log.count(CONTAINER);

    scene.world.driver.set_drift(&resource);
    scene.requeue();

    scene.kinds_until(&project, EventKind::Repaired).await;
    scene.until_settled().await;
    assert_eq!(scene.world.driver.log.count(CONTAINER), starts + 1);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_lost_database_is_reported_before_it_is_recreated() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene.world.databases.lose_all();
    // It cannot be created again at once, so that the test sees the earlier report.
    scene
        .world
        .databases
        .script
        .next(Call::EnsureDatabase, Fault::transient());
    scene.hold_retries();
    scene.requeue();

    scene.kinds_until(&project, EventKind::DatabaseLost).await;
    let failed = scene.until(&project, Phase::Error).await;
    assert_eq!(failed.stages[0].state, StageState::Failed);
    let database = || async {
        let answer = scene.owner.get("/api/projects/todo/database").await.expect(200);
        answer.read::<fsa_model::api::Database>().status
    };
    assert_eq!(database().await, DatabaseStatus::Lost);
    let resource = scene.resource(&project).await;
    assert_eq!(
        scene.world.driver.container(&resource),
        ContainerState::Running,
        "the container keeps running"
    );

    scene.retry();
    scene.until(&project, Phase::Running).await;
    assert_eq!(database().await, DatabaseStatus::Ready);
    assert_eq!(
        scene.events_of(&project, EventKind::DatabaseLost).await.len(),
        1,
        "a loss is reported once"
    );
    let kinds: Vec<_> = scene
        .events(&project)
        .await
        .iter()
        .map(|event| event.kind)
        .collect();
    let lost = kinds.iter().position(|kind| *kind == EventKind::DatabaseLost);
    let created = kinds.iter().rposition(|kind| *kind == EventKind::DatabaseCreated);
    assert!(lost < created, "{kinds:?}");
    scene.assert_consistent();
}

#[tokio::test]
async fn sandboxes_run_again_after_a_reboot() {
    let (scene, workers) = Scene::with_workers().await;
    let mut projects = Vec::new();
    for name in ["one", "two", "three"] {
        projects.push(scene.running(name).await);
    }
    scene.request_action(&projects[2], "stop").await;
    scene.until(&projects[2], Phase::Stopped).await;
    workers.crash().await;
    scene.world.driver.reboot();

    let _workers = scene.start_workers();

    for project in &projects[..2] {
        scene.kinds_until(project, EventKind::Repaired).await;
    }
    scene.until_settled().await;
    assert!(
        scene
            .events_of(&projects[2], EventKind::Repaired)
            .await
            .is_empty()
    );
    scene.assert_consistent();
}

#[tokio::test]
async fn new_workers_adopt_running_sandboxes() {
    let (scene, workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    workers.finish().await;
    let changes = scene.changes();
    // Another server, with other settings for the agent.
    let replica = scene
        .world
        .replica_with(|settings| {
            settings
                .agent_environment
                .insert("ANTHROPIC_MODEL".into(), "another-model".to_owned().into());
        })
        .await;
    let observations = scene.world.driver.log.count(Call::Observe);

    let _workers = Workers::of(&replica, options());

    scene
        .when(&project, "an observation", |_| {
            scene.world.driver.log.count(Call::Observe) > observations
        })
        .await;
    scene.until_settled().await;
    assert_eq!(scene.changes(), changes);
    assert_eq!(scene.status(&project).await.status, Phase::Running);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_lost_home_volume_is_reported() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;

    scene.world.driver.remove_silently(&resource);
    scene.world.driver.lose_volume(VolumeId::of_main(project.id));
    scene.requeue();

    scene.kinds_until(&project, EventKind::Repaired).await;
    let message = &scene.events_of(&project, EventKind::Repaired).await[0].message;
    assert!(message.contains("home folder"), "{message}");
    scene.until_settled().await;
    scene.assert_consistent();
}
