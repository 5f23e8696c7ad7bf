//! Crash tests of reconciliation: a worker dies at every step of every lifecycle action; the next one takes
//! over and reaches the desired state.

use std::time::Duration;

use fsa_driver_testing::memory::{Call, Fault, Gate};
use fsa_model::{Phase, api::Project};
use fsa_server::reconcile::Options;
use futures_util::{StreamExt as _, future::join_all, stream};
use serde_json::json;

use crate::scene::{Scene, Workers, options};

#[derive(Clone, Copy, Debug)]
enum Wish {
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
const PLACES: [(Wish, &[Call]); 5] = [
    (
        Wish::Create,
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
    (Wish::Restart, &[Call::Observe, NETWORK, CONTAINER, TERMINAL]),
    (Wish::Stop, &[Call::Observe, Call::Stop]),
    (Wish::Terminate, &[Call::Observe, Call::Destroy]),
    (
        Wish::Delete,
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

    async fn wish(&self, wish: Wish, project: Option<&Project>) -> Option<Project> {
        let project = match (wish, project) {
            (Wish::Create, _) | (_, None) => return Some(self.create(json!({"name": "todo"})).await),
            (_, Some(project)) => project,
        };
        match wish {
            Wish::Create => {}
            Wish::Restart => self.ask(project, "restart").await,
            Wish::Stop => self.ask(project, "stop").await,
            Wish::Terminate => self.terminate(project).await,
            Wish::Delete => self.delete(project).await,
        }
        None
    }

    async fn until_reached(&self, wish: Wish, project: &Project) {
        let phase = match wish {
            Wish::Create | Wish::Restart => Phase::Running,
            Wish::Stop => Phase::Stopped,
            Wish::Terminate => Phase::Terminated,
            Wish::Delete => return self.until_gone(project).await,
        };
        self.until(project, phase).await;
    }
}

#[tokio::test]
async fn whoever_comes_after_a_dead_worker_reaches_what_it_was_at() {
    let stories = PLACES
        .into_iter()
        .flat_map(|(wish, calls)| calls.iter().map(move |call| (wish, *call)))
        .flat_map(|(wish, call)| [false, true].map(|halfway| (wish, call, halfway)));
    stream::iter(stories)
        .for_each_concurrent(6, |(wish, call, halfway)| async move {
            let (scene, workers) = Scene::at_work().await;
            let before = match wish {
                Wish::Create => None,
                _ => Some(scene.running("todo").await),
            };
            let gate = Gate::default();
            scene.pause(call, gate.clone(), halfway);
            let project = scene
                .wish(wish, before.as_ref())
                .await
                .or(before)
                .expect("a project");
            gate.reached().await;

            workers.crash().await;
            scene.expire_leases();
            let _workers = scene.work();

            scene.until_reached(wish, &project).await;
            scene.assert_consistent();
        })
        .await;
}

#[tokio::test]
async fn a_dead_worker_is_followed_only_when_its_lease_has_run_out() {
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

    let _workers = Workers::of(&scene.world, short());

    let left = "select coalesce(lease_until > now(), false) from sandboxes";
    let calls = scene.world.driver.log.count(NETWORK);
    if scene.world.driver.log.count(Call::Observe) == 1 {
        assert_eq!(scene.world.database.sql(left), "t", "nobody looks before that");
    }
    scene.until(&project, Phase::Running).await;
    assert_eq!(scene.world.driver.log.count(NETWORK), calls + 1);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_slow_step_keeps_its_lease_and_nobody_else_acts() {
    let short = || Options {
        lease: Duration::from_secs(4),
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
    for _ in 0..18 {
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
async fn a_worker_whose_lease_was_taken_stops_where_it_is_and_writes_nothing() {
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
        "update sandboxes set lease_id = '{id}', lease_until = now() + interval '5 seconds'"
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
    scene.until(&project, Phase::Running).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn workers_that_are_told_to_end_finish_what_is_short_and_give_back_the_rest() {
    let (scene, workers) = Scene::at_work().await;
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
        "it was nearly there"
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
    scene.ask(&project, "stop").await;
    gate.reached().await;
    hanging.finish().await;
    let leases = "select count(*) from sandboxes where lease_id is not null";
    assert_eq!(scene.world.database.sql(leases), "0");
    assert_eq!(scene.world.database.sql("select count(*) from replicas"), "0");

    let _workers = scene.work();
    scene.until(&project, Phase::Stopped).await;
    scene.assert_consistent();
}

#[tokio::test]
async fn one_that_is_alone_waits_for_no_dead_ones_lease() {
    let (scene, workers) = Scene::at_work().await;
    let gate = Gate::default();
    scene.pause(CONTAINER, gate.clone(), false);
    let project = scene.create(json!({"name": "todo"})).await;
    gate.reached().await;
    workers.crash().await;

    let _workers = Workers::of(
        &scene.world,
        Options {
            alone: true,
            ..options()
        },
    );

    scene.until(&project, Phase::Running).await;
    let until = "select now() < created_at + interval '25 seconds' from sandboxes";
    assert_eq!(
        scene.world.database.sql(until),
        "t",
        "the dead one's lease would have been longer"
    );
    scene.assert_consistent();
}

#[tokio::test]
async fn many_projects_are_made_at_once_by_few_workers() {
    let (scene, _workers) = Scene::at_work().await;
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
async fn a_control_database_that_ends_all_connections_costs_time_and_nothing_else() {
    let (scene, _workers) = Scene::at_work().await;
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
        "what was under way went on"
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
