//! Fault tests of reconciliation: every failure is reported, retried, and recovered from.

use fsa_driver::{Requeue, Warning};
use fsa_driver_testing::memory::{Call, Fault, Gate, MISSING_IMAGE};
use fsa_model::{
    ContainerState, Failure, FailureKind, Phase, SandboxRef, Stage, StageState, VolumeId, event::EventKind,
    sandboxd::RepositoryState,
};
use futures_util::future::join_all;
use serde_json::json;

use fsa_server::reconcile::Options;

use crate::scene::{Scene, TIMEOUT, Workers, options};

const CONTAINER: Call = Call::EnsureContainer;
const TERMINAL: Call = Call::AwaitServing;
const NETWORK: Call = Call::EnsureNetwork;

impl Scene {
    fn fault(&self, call: Call, fault: Fault) {
        match call {
            Call::EnsureDatabase | Call::DropDatabase | Call::ObserveDatabase => {
                self.world.databases.script.next(call, fault);
            }
            _ => self.world.driver.script.next(call, fault),
        }
    }
}

#[tokio::test]
async fn a_failed_step_of_a_start_is_reported_and_retried() {
    let cases = [
        (Call::EnsureDatabase, Some(Stage::DatabaseReady)),
        (NETWORK, Some(Stage::NetworkReady)),
        (CONTAINER, Some(Stage::ContainerReady)),
        (TERMINAL, Some(Stage::TerminalReady)),
        (Call::Observe, None),
    ];
    let faults = [Fault::transient(), Fault::transient_halfway()];
    let stories = cases
        .iter()
        .flat_map(|case| faults.iter().map(move |fault| (case, fault)));
    join_all(stories.map(|((call, stage), fault)| async move {
        let (scene, _workers) = Scene::with_workers().await;
        scene.fault(*call, fault.clone());
        scene.hold_retries();
        let project = scene.create(json!({"name": "todo"})).await;

        let failed = scene.until(&project, Phase::Error).await;
        let error = failed.error.expect("an error says why");
        assert_eq!(error.attempts, 1, "{call:?}");
        assert!(error.next_attempt_at.is_some());
        if let Some(stage) = stage {
            assert_eq!(
                failed.stages[*stage as usize].state,
                StageState::Failed,
                "{call:?}"
            );
            assert!(failed.stages[*stage as usize].message.is_some());
        }

        scene.retry();
        let running = scene.until(&project, Phase::Running).await;
        assert!(running.error.is_none());
        assert!(running.stages.iter().all(|stage| stage.state == StageState::Done));
        assert_eq!(scene.events_of(&project, EventKind::AttemptFailed).await.len(), 1);
        scene.assert_consistent();
    }))
    .await;
}

#[tokio::test]
async fn a_failed_stop_or_termination_is_retried() {
    let faults = [Fault::transient(), Fault::transient_halfway()];
    join_all(faults.iter().map(|fault| async move {
        let (scene, _workers) = Scene::with_workers().await;
        let project = scene.running("todo").await;

        scene.fault(Call::Stop, fault.clone());
        scene.hold_retries();
        scene.request_action(&project, "stop").await;
        scene.until(&project, Phase::Error).await;
        scene.retry();
        scene.until(&project, Phase::Stopped).await;

        scene.fault(Call::Destroy, fault.clone());
        scene.hold_retries();
        scene.terminate(&project).await;
        scene.until(&project, Phase::Error).await;
        scene.retry();
        scene.until(&project, Phase::Terminated).await;

        scene.fault(Call::RemoveVolume, fault.clone());
        scene.fault(Call::DropDatabase, fault.clone());
        scene.delete(&project).await;
        scene.until_gone(&project).await;
        assert_eq!(scene.world.driver.volumes(), []);
        assert!(scene.world.databases.roles().is_empty());
        scene.assert_consistent();
    }))
    .await;
}

#[tokio::test]
async fn a_missing_image_is_reported_and_its_replacement_is_used_at_once() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene
        .create(json!({"name": "todo", "image": MISSING_IMAGE}))
        .await;

    let failed = scene.until(&project, Phase::Error).await;
    let error = failed.error.expect("an error says why");
    assert_eq!(error.failure.kind, FailureKind::Input);
    assert!(error.failure.message.contains(MISSING_IMAGE));

    // The next attempt would be long after this.
    scene
        .world
        .database
        .sql("update sandboxes set next_attempt_at = now() + interval '1 hour'");
    scene
        .owner
        .patch("/api/projects/todo", &json!({"image": "debian"}))
        .await
        .expect(200);
    scene.until(&project, Phase::Running).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn failed_attempts_back_off() {
    let (scene, _workers) = Scene::with_workers().await;
    scene.world.driver.script.always(NETWORK, Fault::transient());
    let project = scene.create(json!({"name": "todo"})).await;

    let failed = scene
        .when(&project, "three attempts", |sandbox| {
            sandbox.error.as_ref().is_some_and(|error| error.attempts >= 3)
        })
        .await;

    let next = failed
        .error
        .and_then(|error| error.next_attempt_at)
        .expect("a next attempt");
    let wait = next - failed.updated_at;
    assert!(wait > chrono::TimeDelta::seconds(2), "{wait}");
    scene.world.driver.script.clear();
    scene.until(&project, Phase::Running).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn unreachable_databases_do_not_block_a_start() {
    let (scene, _workers) = Scene::with_workers().await;
    scene
        .world
        .databases
        .script
        .always(Call::ObserveDatabase, Fault::transient());
    let project = scene.create(json!({"name": "todo"})).await;

    let failed = scene.until(&project, Phase::Error).await;
    assert_eq!(failed.stages[0].state, StageState::Failed);
    assert_eq!(
        scene.world.driver.container(&scene.resource(&project).await),
        ContainerState::Running
    );

    scene.world.databases.script.clear();
    scene.until(&project, Phase::Running).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn a_failed_clone_is_an_error_with_a_working_terminal_and_is_retried() {
    let (scene, _workers) = Scene::with_workers().await;
    let url = "https://example.org/todo.git";
    let message = "fatal: repository not found".to_owned();
    scene.world.driver.set_clone_result(
        url,
        RepositoryState::Failed {
            message: message.clone(),
        },
    );
    let project = scene
        .create(json!({"name": "todo", "repository": {"url": url}}))
        .await;

    let failed = scene.until(&project, Phase::Error).await;
    let error = failed.error.expect("an error says why");
    assert_eq!(error.failure.kind, FailureKind::Input);
    assert!(error.failure.message.contains(&message));
    let state = |stage: Stage| failed.stages[stage as usize].state;
    assert_eq!(state(Stage::TerminalReady), StageState::Done);
    assert_eq!(state(Stage::Ready), StageState::Failed);
    let resource = scene.resource(&project).await;
    assert_eq!(scene.world.driver.container(&resource), ContainerState::Running);
    let starts = scene.world.driver.log.count(CONTAINER);

    scene.world.driver.set_clone_result(url, RepositoryState::Cloned);
    scene.until(&project, Phase::Running).await;
    assert_eq!(
        scene.world.driver.log.count(CONTAINER),
        starts,
        "the container is the same"
    );
    scene.kinds_until(&project, EventKind::RepositoryCloned).await;
    assert_eq!(
        scene.events_of(&project, EventKind::RepositoryFailed).await.len(),
        1
    );
    scene.assert_consistent();
}

#[tokio::test]
async fn a_sandbox_runs_only_when_its_repository_is_cloned() {
    let (scene, _workers) = Scene::with_workers().await;
    let url = "https://example.org/todo.git";
    scene.world.driver.set_clone_result(url, RepositoryState::Cloning);
    let project = scene
        .create(json!({"name": "todo", "repository": {"url": url}}))
        .await;

    let cloning = scene
        .when(&project, "an open terminal", |sandbox| {
            sandbox.stages[Stage::Ready as usize].state == StageState::Active
        })
        .await;
    assert_eq!(cloning.status, Phase::Creating);
    assert_eq!(
        cloning.stages[Stage::TerminalReady as usize].state,
        StageState::Done
    );

    let resource = scene.resource(&project).await;
    assert!(scene.world.driver.set_status(&resource, |status| {
        status.repository = RepositoryState::Cloned;
    }));
    scene.until(&project, Phase::Running).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn a_stop_interrupts_a_slow_start() {
    let cases = [NETWORK, CONTAINER, TERMINAL, Call::EnsureDatabase, Call::Observe];
    join_all(cases.map(|call| async move {
        let (scene, _workers) = Scene::with_workers().await;
        let gate = Gate::default();
        scene.fault(call, Fault::Pause(gate.clone()));
        let project = scene.create(json!({"name": "todo"})).await;
        gate.reached().await;

        scene.request_action(&project, "stop").await;

        scene.until(&project, Phase::Stopped).await;
        scene.assert_consistent();
        scene.request_action(&project, "start").await;
        scene.until(&project, Phase::Running).await;
        scene.assert_consistent();
    }))
    .await;
}

#[tokio::test]
async fn a_delete_interrupts_a_slow_start() {
    let cases = [NETWORK, CONTAINER, TERMINAL, Call::EnsureDatabase];
    join_all(cases.map(|call| async move {
        let (scene, _workers) = Scene::with_workers().await;
        let gate = Gate::default();
        scene.fault(call, Fault::Pause(gate.clone()));
        let project = scene.create(json!({"name": "todo"})).await;
        gate.reached().await;

        scene.delete(&project).await;

        scene.until_gone(&project).await;
        assert_eq!(scene.world.driver.volumes(), []);
        assert!(scene.world.databases.roles().is_empty());
        scene.assert_consistent();
    }))
    .await;
}

#[tokio::test]
async fn a_hanging_start_does_not_delay_others() {
    let (scene, _workers) = Scene::with_workers().await;
    scene.fault(CONTAINER, Fault::Hang);
    let slow = scene.create(json!({"name": "slow"})).await;
    scene
        .when(&slow, "an active container", |sandbox| {
            sandbox.stages[Stage::ContainerReady as usize].state == StageState::Active
        })
        .await;

    scene.running("quick").await;
    scene.request_action(&slow, "stop").await;
    scene.until(&slow, Phase::Stopped).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn a_hanging_region_does_not_delay_other_regions() {
    let scene = Scene::new().await;
    let few = Options {
        concurrent: 2,
        ..options()
    };
    let workers = Workers::of(&scene.world, few);
    scene.world.there.script.always(CONTAINER, Fault::Hang);
    for at in 0..3 {
        let name = format!("slow-{at}");
        scene.create(json!({"name": name, "region": "there"})).await;
    }
    while scene.world.there.log.count(CONTAINER) < 2 {
        tokio::task::yield_now().await;
    }

    let quick = scene.running("quick").await;

    assert_eq!(
        scene.world.there.log.count(CONTAINER),
        2,
        "no more than the limit"
    );
    scene.delete(&quick).await;
    scene.until_gone(&quick).await;
    workers.crash().await;
}

#[tokio::test]
async fn a_terminal_that_does_not_answer_is_restarted_after_several_attempts() {
    let (scene, _workers) = Scene::with_workers().await;
    let script = &scene.world.driver.script;
    script.always(TERMINAL, Fault::transient());
    script.always(Call::Connect, Fault::transient());
    let project = scene.create(json!({"name": "todo"})).await;
    scene
        .when(&project, "a stop", |_| {
            scene.world.driver.log.count(Call::Stop) == 1
        })
        .await;
    script.clear();
    scene.until(&project, Phase::Running).await;
    assert_eq!(scene.world.driver.log.count(Call::Stop), 1);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_damaged_secret_blocks_a_start_but_not_a_stop() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene
        .world
        .database
        .sql("update projects set environment = 'damaged'");

    scene.request_action(&project, "restart").await;
    let failed = scene.until(&project, Phase::Error).await;
    assert!(failed.error.expect("an error").failure.message.contains("secret"));

    scene.request_action(&project, "stop").await;
    scene.until(&project, Phase::Stopped).await;
    scene.delete(&project).await;
    scene.until_gone(&project).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn an_unconfigured_region_is_reported() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.create(json!({"name": "todo", "start": false})).await;
    scene.until(&project, Phase::Stopped).await;
    scene
        .world
        .database
        .sql("update projects set region = 'elsewhere'");
    scene.request_action(&project, "start").await;

    let failed = scene.until(&project, Phase::Error).await;

    let error = failed.error.expect("an error");
    assert_eq!(error.failure.kind, FailureKind::Machine);
    assert!(error.failure.message.contains("elsewhere"));
}

#[tokio::test]
async fn a_recovered_region_ends_the_backoff_of_transient_failures_only() {
    let (scene, _workers) = Scene::with_workers().await;
    // One sandbox's spec can never succeed, and the other waits for a region that does not answer.
    let wrong = scene
        .create(json!({"name": "wrong", "image": MISSING_IMAGE}))
        .await;
    scene.until(&wrong, Phase::Error).await;
    scene.world.driver.script.always(CONTAINER, Fault::transient());
    let waits = scene.create(json!({"name": "waits"})).await;
    scene.until(&waits, Phase::Error).await;
    scene
        .world
        .database
        .sql("update sandboxes set next_attempt_at = now() + interval '1 day'");
    scene.world.driver.script.clear();

    scene.world.driver.requeue(Requeue::Recovered);

    scene.until(&waits, Phase::Running).await;
    let left = scene.status(&wrong).await.error.expect("an error");
    let wait = left.next_attempt_at.expect("a time") - chrono::Utc::now();
    assert!(wait > chrono::TimeDelta::hours(1), "{wait}");
}

#[tokio::test]
async fn warnings_are_reported_once_and_then_counted() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;
    let sandbox = SandboxRef {
        id: scene.sandbox_id(&resource),
        project: project.id,
        volume: VolumeId::of_main(project.id),
        resource,
    };
    let warning = |source: &str, count| Warning {
        sandbox: sandbox.clone(),
        source: source.into(),
        cause: "volume",
        failure: Failure {
            kubernetes_status: Some("FailedMount: no secret".into()),
            ..Failure::new(FailureKind::Machine, "a volume cannot be mounted")
        },
        count,
    };
    let foreign = Warning {
        sandbox: SandboxRef {
            id: fsa_model::SandboxId::generate(),
            ..sandbox.clone()
        },
        ..warning("pod", 1)
    };
    for warning in [
        foreign,
        warning("pod", 1),
        warning("pod", 1),
        warning("pod", 2),
        warning("pod", 12),
        warning("other", 1),
    ] {
        scene.world.driver.warning(warning);
    }

    let wait = async {
        loop {
            let events = scene.events_of(&project, EventKind::Warned).await;
            if events.len() >= 3 {
                return events;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let events = tokio::time::timeout(TIMEOUT, wait)
        .await
        .expect("the warnings are reported");
    let counts: Vec<_> = events.iter().map(|event| event.data["count"].clone()).collect();
    assert_eq!(counts, [1, 12, 1], "{events:#?}");
    assert_eq!(events[0].message, "A volume cannot be mounted.");
    assert!(events[1].message.contains("12 times"), "{:?}", events[1]);
    assert_eq!(events[0].data["kubernetesStatus"], "FailedMount: no secret");
}
