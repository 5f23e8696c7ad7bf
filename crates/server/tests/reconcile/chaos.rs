//! Chaos test of reconciliation: two processes on one control database, fifty sandboxes, random lifecycle
//! actions, random faults, and occasional crashes of one process. In the end every sandbox is in its last
//! desired state.

use std::time::Duration;

use fsa_driver_testing::memory::{Call, Fault};
use fsa_model::api::Project;
use fsa_server::reconcile::Options;
use futures_util::future::join_all;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::json;

use crate::{
    common::World,
    scene::{Scene, TIMEOUT, Workers, options},
};

const PROJECTS: usize = 50;
const ACTIONS: usize = 250;

fn short_leases() -> Options {
    Options {
        concurrent: 8,
        lease: Duration::from_secs(2),
        lifetime: Duration::from_secs(2),
        ..options()
    }
}

impl Scene {
    /// One random lifecycle action, whether or not it is valid now.
    async fn random_action(&self, project: &Project, rng: &mut StdRng) {
        let (sandbox, id) = (format!("/api/sandbox/{}", project.id), project.id);
        let answer = match rng.random_range(0..10) {
            0..3 => self.owner.post_empty(&format!("/api/projects/{id}/start")).await,
            3..6 => self.owner.post_empty(&format!("/api/projects/{id}/stop")).await,
            6 => {
                self.owner
                    .post_empty(&format!("/api/projects/{id}/restart"))
                    .await
            }
            7 => self.owner.post(&sandbox, &json!({})).await,
            8 => self.owner.delete(&sandbox).await,
            _ => self.owner.delete(&format!("/api/projects/{id}")).await,
        };
        assert!(!answer.status.is_server_error(), "{}", answer.text());
    }

    /// Requeues every sandbox, and waits until each row has the requeue. Everything is settled.
    async fn requeue_everything(&self) {
        let sql = |statement: &str| self.world.database.sql(statement);
        sql(
            "create table requeued as select id, requeues from sandboxes where desired_state <> 'terminated'",
        );
        self.world.driver.requeue(fsa_driver::Requeue::Everything);
        let not_requeued =
            "select count(*) from sandboxes s join requeued h using (id) where s.requeues = h.requeues";
        let written = async {
            while sql(not_requeued) != "0" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, written)
            .await
            .expect("requeues are written");
    }

    /// Injects one random fault.
    fn random_fault(&self, rng: &mut StdRng) {
        let script = &self.world.driver.script;
        let call = *[
            Call::Observe,
            Call::EnsureNetwork,
            Call::EnsureContainer,
            Call::AwaitServing,
            Call::Connect,
            Call::Stop,
            Call::Destroy,
            Call::RemoveVolume,
        ]
        .choose(rng)
        .expect("there are calls");
        let slow = Fault::Delay(Duration::from_millis(rng.random_range(1..400)));
        match rng.random_range(0..9) {
            0 => script.next(call, Fault::transient()),
            1 => script.next(call, Fault::transient_halfway()),
            2 | 3 => script.next(call, slow),
            4 => self.world.databases.script.next(Call::EnsureDatabase, slow),
            5 => self
                .world
                .databases
                .script
                .next(Call::EnsureDatabase, Fault::transient_halfway()),
            6 => self
                .world
                .databases
                .script
                .next(Call::DropDatabase, Fault::transient_halfway()),
            _ => {
                let all = self.world.driver.resources();
                if let Some(resource) = all.choose(rng) {
                    match rng.next_u32() % 4 {
                        0 => self.world.driver.kill(resource),
                        1 => self.world.driver.remove_silently(resource),
                        2 => self.world.driver.set_drift(resource),
                        _ => self.world.driver.lose_network(resource),
                    }
                }
            }
        }
    }
}

async fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let scene = Scene::new().await;
    let replica: World = scene.world.replica().await;
    let mut first = Workers::of(&scene.world, short_leases());
    let mut second = Workers::of(&replica, short_leases());
    let projects = join_all((0..PROJECTS).map(|n| {
        let scene = &scene;
        async move { scene.create(json!({"name": format!("p{n}")})).await }
    }))
    .await;

    for _ in 0..ACTIONS {
        let project = projects.choose(&mut rng).expect("there are projects");
        scene.random_action(project, &mut rng).await;
        if rng.random_range(0..3) == 0 {
            scene.random_fault(&mut rng);
        }
        if rng.random_range(0..40) == 0 {
            first.crash().await;
            first = Workers::of(&scene.world, short_leases());
        }
        if rng.random_range(0..40) == 0 {
            second.crash().await;
            second = Workers::of(&replica, short_leases());
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..15))).await;
    }

    scene.world.driver.script.clear();
    scene.world.databases.script.clear();
    // The observation at every start finds lost notifications. The test does not wait here for what is in
    // backoff.
    first.finish().await;
    scene
        .world
        .database
        .sql("update sandboxes set next_attempt_at = now() where failure is not null");
    scene
        .world
        .database
        .sql("update branches set removal_due_at = now()");
    let third = Workers::of(&scene.world, short_leases());
    scene.world.driver.requeue(fsa_driver::Requeue::Everything);
    scene.until_settled().await;
    // Nothing is in flight that a last observation would interrupt.
    scene.requeue_everything().await;
    scene.until_settled().await;
    second.finish().await;
    third.finish().await;
    scene.assert_consistent();
}

#[tokio::test]
async fn desired_states_are_reached_despite_faults_1() {
    run(1).await;
}

#[tokio::test]
async fn desired_states_are_reached_despite_faults_2() {
    run(20_251_011).await;
}

#[tokio::test]
async fn desired_states_are_reached_despite_faults_3() {
    run(0xFEED).await;
}
