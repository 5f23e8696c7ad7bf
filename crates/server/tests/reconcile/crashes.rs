//! Crash tests of reconciliation: a worker dies at every step of every lifecycle action; the next one takes
//! over and reaches the desired state.

use std::time::Duration;

use fsa_driver_testing::memory::{Call, Fault, Gate};
use fsa_model::{Phase, api::Project};
use fsa_server::{reconcile::Options, store::notify::Topic};
use futures_util::{StreamExt as _, future::join_all, stream};
use serde_json::json;

use crate::scene::{Scene, Workers, options};

#[derive(Clone, Copy, Debug)]
enum Action {
    Create,
    Restart,
    Stop,
    Terminate,
    Delete,
}

const NETWORK: Call = Call::EnsureNetwork;
const CONTAINER: Call = Call::EnsureContainer;
const TERMINAL: Call = Call::AwaitServing;

/// Every call of the data plane that a lifecycle action leads to.
const CALLS: [(Action, &[Call]); 5] = [
    (
        Action::Create,
        &[
            Call::Observe,
            Call::ObserveDatabase,
            Call::EnsureDatabase,
            NETWORK,
            CONTAINER,
            TERMINAL,
            Call::Connect,
        ],
    ),
    (Action::Restart, &[Call::Observe, NETWORK, CONTAINER, TERMINAL]),
    (Action::Stop, &[Call::Observe, Call::Stop]),
    (Action::Terminate, &[Call::Observe, Call::Destroy]),
    (
        Action::Delete,
        &[Call::Destroy, Call::RemoveVolume, Call::DropDatabase],
    ),
];

impl Scene {
    fn pause(&self, call: Call, gate: Gate, halfway: bool) {
        let fault = if halfway {
            Fault::PauseHalfway(gate)
        } else {
            Fault::Pause(gate)
        };
        match call {
            Call::EnsureDatabase | Call::DropDatabase | Call::ObserveDatabase => {
                self.world.databases.script.next(call, fault);
            }
            _ => self.world.driver.script.next(call, fault),
        }
    }

    async fn perform(&self, action: Action, project: Option<&Project>) -> Option<Project> {
        let project = match (action, project) {
            (Action::Create, _) | (_, None) => return Some(self.create(json!({"name": "todo"})).await),
            (_, Some(project)) => project,
        };
        match action {
            Action::Create => {}
            Action::Restart => self.request_action(project, "restart").await,
            Action::Stop => self.request_action(project, "stop").await,
            Action::Terminate => self.terminate(project).await,
            Action::Delete => self.delete(project).await,
        }
        None
    }

    async fn until_reached(&self, action: Action, project: &Project) {
        let phase = match action {
            Action::Create | Action::Restart => Phase::Running,
            Action::Stop => Phase::Stopped,
            Action::Terminate => Phase::Terminated,
            Action::Delete => return self.until_gone(project).await,
        };
        self.until(project, phase).await;
    }
}

#[tokio::test]
async fn the_next_worker_continues_after_a_crash_at_any_step() {
    let cases = CALLS
        .into_iter()
        .flat_map(|(action, calls)| calls.iter().map(move |call| (action, *call)))
        .flat_map(|(action, call)| [false, true].map(|halfway| (action, call, halfway)));
    stream::iter(cases)
        .for_each_concurrent(6, |(action, call, halfway)| async move {
            let (scene, workers) = Scene::with_workers().await;
            let before = match action {
                Action::Create => None,
                _ => Some(scene.running("todo").await),
            };
            let gate = Gate::default();
            scene.pause(call, gate.clone(), halfway);
            let project = scene
                .perform(action, before.as_ref())
                .await
                .or(before)
                .expect("a project");
            gate.reached().await;

            workers.crash().await;
            scene.expire_leases();
            let _workers = scene.start_workers();

            scene.until_reached(action, &project).await;
            scene.assert_consistent();
        })
        .await;
}

#[tokio::test]
async fn work_of_a_dead_worker_continues_after_its_lease_expires() {
    let short = || Options {
        lease: Duration::from_secs(3),
        ..options()
    };
    let scene = Scene::new().await;
    let gate = Gate::default();
    scene.pause(CONTAINER, gate.clone(), true);
    let workers = Workers::of(&scene.world, short());
    let project = scene.create(json!({"name": "todo"})).await;
    gate.reached().await;
    workers.crash().await;

    let expires = scene.world.database.sql("select lease_until from sandboxes");
    let calls = scene.world.driver.log.count(NETWORK);
    let gate = Gate::default();
    scene.pause(Call::Observe, gate.clone(), false);
    let _workers = Workers::of(&scene.world, short());

    gate.reached().await;
    let later = format!("select now() >= '{expires}'");
    assert_eq!(
        scene.world.database.sql(&later),
        "t",
        "no worker observes before the lease has expired"
    );
    gate.open();
    scene.until(&project, Phase::Running).await;
    assert_eq!(scene.world.driver.log.count(NETWORK), calls + 1);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_slow_step_keeps_its_lease() {
    let short = || Options {
        lease: Duration::from_secs(10),
        ..options()
    };
    let scene = Scene::new().await;
    let replica = scene.world.replica().await;
    let gate = Gate::default();
    scene.pause(CONTAINER, gate.clone(), false);
    let _first = Workers::of(&scene.world, short());
    let _second = Workers::of(&replica, short());
    let project = scene.create(json!({"name": "todo"})).await;
    gate.reached().await;
    let renewed = "select count(*) from sandboxes where lease_until > now()";

    // Longer than two leases.
    for _ in 0..42 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(scene.world.database.sql(renewed), "1");
    }
    assert_eq!(scene.world.driver.log.count(CONTAINER), 1);

    gate.open();
    scene.until(&project, Phase::Running).await;
    assert_eq!(scene.world.driver.log.count(CONTAINER), 1);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_stops_and_writes_nothing() {
    let short = || Options {
        lease: Duration::from_millis(1500),
        ..options()
    };
    let scene = Scene::new().await;
    let gate = Gate::default();
    scene.pause(CONTAINER, gate.clone(), true);
    let _first = Workers::of(&scene.world, short());
    let project = scene.create(json!({"name": "todo"})).await;
    gate.reached().await;

    let id = uuid::Uuid::new_v4();
    scene.world.database.sql(&format!(
        "update sandboxes set lease_id = '{id}', lease_until = now() + interval '1 day'"
    ));

    let dropped = || {
        let entries = scene.world.driver.log.entries();
        entries.iter().any(|entry| {
            entry.call == CONTAINER
                && matches!(
                    entry.ended,
                    Some((_, fsa_driver_testing::memory::Outcome::Dropped))
                )
        })
    };
    while !dropped() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lease = "select lease_id from sandboxes";
    assert_eq!(scene.world.database.sql(lease), id.to_string());
    // When the other lease has expired too, a worker continues.
    scene.expire_leases();
    scene.world.app.hub.wake(Topic::DesiredState);
    scene.until(&project, Phase::Running).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn stopped_workers_finish_short_work_and_release_leases() {
    let (scene, workers) = Scene::with_workers().await;
    let gate = Gate::default();
    scene.pause(CONTAINER, gate.clone(), false);
    let project = scene.create(json!({"name": "todo"})).await;
    gate.reached().await;
    workers.shutdown.cancel();
    gate.open();
    workers.finish().await;
    assert_eq!(
        scene.status(&project).await.status,
        Phase::Running,
        "the start was nearly done"
    );

    let hanging = Workers::of(
        &scene.world,
        Options {
            drain: Duration::from_millis(50),
            ..options()
        },
    );
    let gate = Gate::default();
    scene.pause(Call::Stop, gate.clone(), false);
    scene.request_action(&project, "stop").await;
    gate.reached().await;
    hanging.finish().await;
    let leases = "select count(*) from sandboxes where lease_id is not null";
    assert_eq!(scene.world.database.sql(leases), "0");
    assert_eq!(scene.world.database.sql("select count(*) from replicas"), "0");

    let _workers = scene.start_workers();
    scene.until(&project, Phase::Stopped).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn a_sole_worker_does_not_wait_for_a_dead_workers_lease() {
    let scene = Scene::new().await;
    let long = Options {
        lease: Duration::from_secs(3600),
        ..options()
    };
    let workers = Workers::of(&scene.world, long);
    let gate = Gate::default();
    scene.pause(CONTAINER, gate.clone(), false);
    let project = scene.create(json!({"name": "todo"})).await;
    gate.reached().await;
    workers.crash().await;
    let expires = scene.world.database.sql("select lease_until from sandboxes");

    let _workers = Workers::of(
        &scene.world,
        Options {
            alone: true,
            ..options()
        },
    );

    scene.until(&project, Phase::Running).await;
    let earlier = format!("select now() < '{expires}'");
    assert_eq!(
        scene.world.database.sql(&earlier),
        "t",
        "the dead worker's lease would have lasted longer"
    );
    scene.assert_consistent();
}

#[tokio::test]
async fn many_projects_are_created_concurrently() {
    let (scene, _workers) = Scene::with_workers().await;
    let projects = join_all((0..50).map(|n| {
        let scene = &scene;
        async move { scene.create(json!({"name": format!("p{n}")})).await }
    }))
    .await;
    join_all(
        projects
            .iter()
            .map(|project| scene.until(project, Phase::Running)),
    )
    .await;
    scene.assert_consistent();
}

#[tokio::test]
async fn work_survives_lost_database_connections() {
    let (scene, _workers) = Scene::with_workers().await;
    let cut = || {
        scene.world.database.sql(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
    };
    let gate = Gate::default();
    scene.pause(CONTAINER, gate.clone(), true);
    scene.create(json!({"name": "todo"})).await;
    gate.reached().await;

    cut();
    gate.open();
    scene.until_settled().await;
    assert_eq!(
        scene.world.driver.log.count(CONTAINER),
        1,
        "the step in flight continued"
    );
    scene.assert_consistent();

    // No worker is active, no request arrives, and another process changes the desired state.
    cut();
    scene
        .world
        .database
        .sql("update sandboxes set desired_state = 'stopped', generation = generation + 1");
    scene.until_settled().await;
    scene.assert_consistent();
}
