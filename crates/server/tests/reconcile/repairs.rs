//! Repair tests of reconciliation: missing or changed objects are noticed, reported and repaired.

use fsa_driver::Requeue;
use fsa_driver_testing::memory::{Call, Fault, Gate};
use fsa_model::{
    ContainerState, FailureKind, Phase, SandboxRef, StageState, api::DatabaseStatus, event::EventKind,
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
async fn a_killed_container_is_started_again_and_that_is_told() {
    let (scene, _workers) = Scene::at_work().await;
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
    let told = &scene.happened(&project, EventKind::Repaired).await[0].message;
    assert!(
        told.contains("its container had ended") && told.contains("it was killed"),
        "{told}"
    );
    scene.assert_consistent();
}

#[tokio::test]
async fn a_container_that_is_killed_again_and_again_rests_in_between() {
    let (scene, _workers) = Scene::at_work().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;

    for _ in 0..20 {
        let sandbox = scene.status(&project).await;
        if sandbox.status == Phase::Error {
            break;
        }
        if scene.world.driver.container(&resource) == ContainerState::Running {
            scene.world.driver.kill(&resource);
        }
        scene
            .when(&project, "a reaction", |sandbox| {
                sandbox.status == Phase::Error
                    || scene.world.driver.container(&resource) == ContainerState::Running
            })
            .await;
    }

    let error = scene.until(&project, Phase::Error).await.error.expect("an error");
    assert_eq!(error.failure.kind, FailureKind::Machine);
    assert!(error.next_attempt_at.is_some());
    scene.until(&project, Phase::Running).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn what_was_lost_without_a_word_is_found_when_somebody_looks() {
    let (scene, _workers) = Scene::at_work().await;
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
    assert_eq!(scene.happened(&project, EventKind::Repaired).await.len(), 2);
    scene.assert_consistent();
}

#[tokio::test]
async fn what_is_lost_while_its_sandbox_is_worked_on_is_put_right_when_that_is_done() {
    let (scene, _workers) = Scene::at_work().await;
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
        resource,
    }));
    gate.open();

    scene.kinds_until(&project, EventKind::Repaired).await;
    scene.until_settled().await;
    scene.assert_consistent();
}

#[tokio::test]
async fn a_container_that_somebody_replaced_is_put_right() {
    let (scene, _workers) = Scene::at_work().await;
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
async fn a_lost_database_is_told_loudly_before_a_new_one_is_made() {
    let (scene, _workers) = Scene::at_work().await;
    let project = scene.running("todo").await;
    scene.world.databases.lose_all();
    // It cannot be created again at once, so that the test sees the earlier report.
    scene
        .world
        .databases
        .script
        .next(Call::EnsureDatabase, Fault::transient());
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
        "what runs goes on running"
    );

    scene.until(&project, Phase::Running).await;
    assert_eq!(database().await, DatabaseStatus::Ready);
    assert_eq!(
        scene.happened(&project, EventKind::DatabaseLost).await.len(),
        1,
        "one loss is told once"
    );
    let kinds: Vec<_> = scene
        .events(&project)
        .await
        .iter()
        .map(|event| event.kind)
        .collect();
    let lost = kinds.iter().position(|kind| *kind == EventKind::DatabaseLost);
    let made = kinds.iter().rposition(|kind| *kind == EventKind::DatabaseCreated);
    assert!(lost < made, "{kinds:?}");
    scene.assert_consistent();
}

#[tokio::test]
async fn after_a_restart_of_the_machine_everything_that_should_run_does() {
    let (scene, workers) = Scene::at_work().await;
    let mut projects = Vec::new();
    for name in ["one", "two", "three"] {
        projects.push(scene.running(name).await);
    }
    scene.ask(&projects[2], "stop").await;
    scene.until(&projects[2], Phase::Stopped).await;
    workers.crash().await;
    scene.world.driver.reboot();

    let _workers = scene.work();

    for project in &projects[..2] {
        scene.kinds_until(project, EventKind::Repaired).await;
    }
    scene.until_settled().await;
    assert!(scene.happened(&projects[2], EventKind::Repaired).await.is_empty());
    scene.assert_consistent();
}

#[tokio::test]
async fn new_workers_adopt_what_runs_and_restart_nothing() {
    let (scene, workers) = Scene::at_work().await;
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
    let looks = scene.world.driver.log.count(Call::Observe);

    let _workers = Workers::of(&replica, options());

    scene
        .when(&project, "a look", |_| {
            scene.world.driver.log.count(Call::Observe) > looks
        })
        .await;
    scene.until_settled().await;
    assert_eq!(scene.changes(), changes);
    assert_eq!(scene.status(&project).await.status, Phase::Running);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_lost_home_volume_is_told() {
    let (scene, _workers) = Scene::at_work().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;

    scene.world.driver.remove_silently(&resource);
    scene.world.driver.lose_volume(project.id);
    scene.requeue();

    scene.kinds_until(&project, EventKind::Repaired).await;
    let told = &scene.happened(&project, EventKind::Repaired).await[0].message;
    assert!(told.contains("home folder"), "{told}");
    scene.until_settled().await;
    scene.assert_consistent();
}
