//! Watch tests: one process watches each running sandbox for changes inside.

use std::time::Duration;

use chrono::Utc;
use fsa_model::{
    Phase, ResourceName,
    event::EventKind,
    sandboxd::{Exit, ListeningPort, StartCommand, Status},
};
use fsa_server::reconcile::Options;
use futures_util::future::join_all;
use serde_json::json;

use crate::scene::{Scene, TIMEOUT, Workers, options};

fn listens(status: &mut Status, port: u16) {
    status.ports.push(ListeningPort {
        port,
        process: Some("node".into()),
    });
}

impl Scene {
    /// Waits until a sandbox has this number of watching connections.
    async fn until_watched(&self, resource: &ResourceName, by: usize) {
        let wait = async {
            while self.world.driver.watchers(resource) != by {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, wait)
            .await
            .expect("the number of watching connections is reached");
    }
}

#[tokio::test]
async fn opened_and_closed_ports_are_listed_and_reported() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;

    scene
        .world
        .driver
        .set_status(&resource, |status| listens(status, 3000));
    let sandbox = scene
        .when(&project, "an open port", |sandbox| !sandbox.ports.is_empty())
        .await;
    assert_eq!(
        (sandbox.ports[0].port, sandbox.ports[0].process.as_deref()),
        (3000, Some("node"))
    );

    scene
        .world
        .driver
        .set_status(&resource, |status| status.ports.clear());
    scene
        .when(&project, "a closed port", |sandbox| sandbox.ports.is_empty())
        .await;
    for kind in [EventKind::PortOpened, EventKind::PortClosed] {
        let events = scene.events_of(&project, kind).await;
        assert_eq!(events.len(), 1, "{kind:?}");
        assert_eq!(events[0].data["port"], 3000);
    }
}

#[tokio::test]
async fn the_exit_of_a_start_command_is_reported() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;

    scene.world.driver.set_status(&resource, |status| {
        status.start_command = StartCommand::BackOff {
            exit: Exit::Code(3),
            restarts: 1,
            next_attempt: Utc::now(),
        };
    });

    scene.kinds_until(&project, EventKind::StartCommandExited).await;
    let events = &scene.events_of(&project, EventKind::StartCommandExited).await[0];
    assert_eq!(events.data["exitCode"], 3);
    assert_eq!(scene.status(&project).await.status, Phase::Running);
}

#[tokio::test]
async fn status_writes_of_a_flapping_sandbox_are_batched() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let resource = scene.resource(&project).await;
    scene.until_watched(&resource, 1).await;

    for round in 0..600_u32 {
        scene.world.driver.set_status(&resource, |status| {
            status.ports.clear();
            if round % 2 == 0 {
                listens(status, 3000);
            }
        });
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    scene.world.driver.set_status(&resource, |status| {
        status.ports.clear();
        listens(status, 4000);
    });

    scene
        .when(&project, "the last status", |sandbox| {
            sandbox.ports.first().is_some_and(|open| open.port == 4000)
        })
        .await;
    let events = scene.events_of(&project, EventKind::PortOpened).await.len();
    assert!(events < 20, "{events} events about 600 changes");
}

#[tokio::test]
async fn each_sandbox_is_watched_by_one_process_and_taken_over() {
    let short_lifetime = || Options {
        lifetime: Duration::from_secs(1),
        ..options()
    };
    let scene = Scene::new().await;
    let replica = scene.world.replica().await;
    let first = Workers::of(&scene.world, short_lifetime());
    let _second = Workers::of(&replica, short_lifetime());
    let names = ["one", "two", "three", "four", "five", "six"];
    let projects = join_all(names.map(|name| scene.running(name))).await;
    let resources = join_all(projects.iter().map(|project| scene.resource(project))).await;
    for resource in &resources {
        scene.until_watched(resource, 1).await;
    }

    first.crash().await;

    for (project, resource) in projects.iter().zip(&resources) {
        scene.until_watched(resource, 1).await;
        scene
            .world
            .driver
            .set_status(resource, |status| listens(status, 3000));
        scene
            .when(project, "an open port", |sandbox| !sandbox.ports.is_empty())
            .await;
        assert_eq!(scene.events_of(project, EventKind::PortOpened).await.len(), 1);
    }
    assert_eq!(
        scene
            .world
            .database
            .sql("select count(distinct follower) from sandboxes"),
        "1"
    );
    scene.assert_consistent();
}

#[tokio::test]
async fn a_stopped_sandbox_is_not_watched_and_has_no_ports() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene
        .create(json!({"name": "todo", "startCommand": "echo-on 3000"}))
        .await;
    scene
        .when(&project, "an open port", |sandbox| !sandbox.ports.is_empty())
        .await;

    scene.request_action(&project, "stop").await;
    let stopped = scene.until(&project, Phase::Stopped).await;
    assert!(stopped.ports.is_empty());
    assert!(scene.events_of(&project, EventKind::Repaired).await.is_empty());

    scene.request_action(&project, "start").await;
    scene.until(&project, Phase::Running).await;
    scene
        .when(&project, "an open port", |sandbox| !sandbox.ports.is_empty())
        .await;
    scene.assert_consistent();
}
