//! Sweep tests: an object without a row is removed, and nothing else.

use std::time::Duration;

use fsa_driver_testing::memory::Call;
use fsa_model::{Phase, ProjectId, ProjectName, ResourceName, SandboxId, SandboxRef, VolumeId};
use fsa_server::reconcile::Options;

use crate::scene::{Scene, TIMEOUT, Workers, options};

fn sweeping() -> Options {
    Options {
        sweep: Some(Duration::from_millis(100)),
        grace: Duration::from_millis(100),
        ..options()
    }
}

fn orphan() -> SandboxRef {
    let project = ProjectId::generate();
    SandboxRef {
        id: SandboxId::generate(),
        project,
        volume: VolumeId::of_main(project),
        resource: ResourceName::generate(&ProjectName::parse("stray").expect("a name")),
    }
}

impl Scene {
    /// Waits for this number of sweeps from now on.
    async fn sweeps(&self, count: usize) {
        let until = self.world.driver.log.count(Call::Inventory) + count;
        let wait = async {
            while self.world.driver.log.count(Call::Inventory) < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, wait)
            .await
            .expect("there are sweeps");
    }
}

#[tokio::test]
async fn an_orphan_is_destroyed_at_the_second_sighting_and_audited() {
    let scene = Scene::new().await;
    let leftover = orphan();
    scene.world.driver.add_orphan(leftover.clone());
    let _workers = Workers::of(&scene.world, sweeping());

    scene.sweeps(4).await;

    assert_eq!(scene.world.driver.resources(), []);
    let calls = scene.world.driver.log.entries();
    let sightings = calls
        .iter()
        .take_while(|entry| entry.call != Call::Destroy)
        .filter(|entry| entry.call == Call::Inventory)
        .count();
    assert!(sightings >= 2, "not at the first sighting");
    let audited = scene
        .world
        .database
        .sql("select object, result from audit where action = 'sandbox.sweep'");
    assert!(
        audited.contains(leftover.resource.as_str()) && audited.ends_with("ok"),
        "{audited}"
    );
}

#[tokio::test]
async fn sandboxes_with_a_row_are_not_swept() {
    let scene = Scene::new().await;
    let _workers = Workers::of(&scene.world, sweeping());
    let running = scene.running("running").await;
    let stopped = scene.running("stopped").await;
    scene.request_action(&stopped, "stop").await;
    scene.until(&stopped, Phase::Stopped).await;
    let destroyed = scene.world.driver.log.count(Call::Destroy);

    scene.sweeps(4).await;

    assert_eq!(scene.world.driver.log.count(Call::Destroy), destroyed);
    assert_eq!(scene.status(&running).await.status, Phase::Running);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_resource_name_under_another_project_is_not_touched() {
    let scene = Scene::new().await;
    let _workers = Workers::of(&scene.world, sweeping());
    let project = scene.running("todo").await;
    scene.terminate(&project).await;
    scene.until(&project, Phase::Terminated).await;
    // A sweep that began earlier may have seen the sandbox and have it destroyed again, by its name.
    scene.sweeps(2).await;
    scene.until_settled().await;
    let foreign = SandboxRef {
        resource: scene.resource(&project).await,
        ..orphan()
    };
    let destroyed = scene.world.driver.log.count(Call::Destroy);
    scene.world.driver.add_orphan(foreign.clone());

    scene.sweeps(4).await;

    assert_eq!(scene.world.driver.resources(), [foreign.resource]);
    assert_eq!(scene.world.driver.log.count(Call::Destroy), destroyed);
}

#[tokio::test]
async fn leftovers_of_a_terminated_sandbox_are_destroyed() {
    let scene = Scene::new().await;
    let _workers = Workers::of(&scene.world, sweeping());
    let project = scene.running("todo").await;
    scene.terminate(&project).await;
    scene.until(&project, Phase::Terminated).await;
    let resource = scene.resource(&project).await;
    let id = scene.sandbox_id(&resource);
    scene.world.driver.add_orphan(SandboxRef {
        id,
        project: project.id,
        volume: VolumeId::of_main(project.id),
        resource,
    });

    scene.sweeps(4).await;
    scene.until_settled().await;

    assert_eq!(scene.world.driver.resources(), []);
    scene.assert_consistent();
}

#[tokio::test]
async fn a_database_of_no_project_is_not_dropped() {
    let scene = Scene::new().await;
    let _workers = Workers::of(&scene.world, sweeping());
    let orphan = orphan();
    let unknown = fsa_model::DatabaseSpec {
        project: orphan.project,
        volume: orphan.volume,
        resource: orphan.resource,
        password: "x".to_owned().into(),
        resources: fsa_model::Size::Micro.resources(),
    };
    fsa_driver::Databases::ensure(&*scene.world.databases, &unknown)
        .await
        .expect("a database");

    scene.sweeps(4).await;

    assert_eq!(scene.world.databases.roles(), [unknown.role()]);
}
