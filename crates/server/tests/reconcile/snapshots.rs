//! Crash tests of snapshots: a process dies at every step of a creation, a deletion and a restore; the next one
//! completes it.

use fsa_driver_testing::memory::{Call, Fault, Gate};
use fsa_model::{
    Phase,
    api::Project,
    event::EventKind,
    snapshot::{Snapshot, SnapshotState},
};
use futures_util::{StreamExt as _, stream};
use serde_json::json;

use crate::scene::Scene;

impl Scene {
    fn snapshots_path(project: &Project) -> String {
        format!("/api/projects/{}/snapshots", project.id)
    }

    async fn write(&self, project: &Project, content: &'static str) {
        let path = format!("/api/projects/{}/files?path=file", project.id);
        let written = self
            .owner
            .send_bytes(http::Method::PUT, &path, None, bytes::Bytes::from(content))
            .await;
        assert!(written.status.is_success(), "{}", written.text());
    }

    async fn read(&self, project: &Project) -> String {
        let path = format!("/api/projects/{}/files?path=file", project.id);
        self.owner.get(&path).await.expect(200).text()
    }

    /// Requests a snapshot without waiting for it.
    async fn request_snapshot(&self, project: &Project) -> Snapshot {
        let client = self.owner.with("prefer", "wait=0");
        client
            .post(&Self::snapshots_path(project), &json!({}))
            .await
            .expect(202)
            .read()
    }

    async fn taken(&self, project: &Project) -> Snapshot {
        self.owner
            .post(&Self::snapshots_path(project), &json!({}))
            .await
            .expect(201)
            .read()
    }
}

#[tokio::test]
async fn the_next_process_completes_a_snapshot_and_its_deletion() {
    for halfway in [false, true] {
        let (scene, workers) = Scene::with_workers().await;
        let project = scene.running("todo").await;
        let gate = Gate::default();
        scene
            .world
            .driver
            .script
            .next(Call::CreateSnapshot, fault(gate.clone(), halfway));
        let snapshot = scene.request_snapshot(&project).await;
        assert_eq!(snapshot.state, SnapshotState::Creating);
        gate.reached().await;

        workers.crash().await;
        scene.expire_leases();
        let workers = scene.start_workers();

        scene.kinds_until(&project, EventKind::SnapshotCreated).await;
        scene.assert_consistent();

        let gate = Gate::default();
        scene
            .world
            .driver
            .script
            .next(Call::DeleteSnapshot, fault(gate.clone(), halfway));
        let path = format!("{}/{}", Scene::snapshots_path(&project), snapshot.id);
        scene.owner.delete(&path).await.expect(202);
        gate.reached().await;
        workers.crash().await;
        scene.expire_leases();
        let _workers = scene.start_workers();
        scene.kinds_until(&project, EventKind::SnapshotDeleted).await;
        assert_eq!(scene.world.driver.all_snapshots(), []);
        scene.assert_consistent();
    }
}

/// Every call of the data plane that a restore leads to.
const RESTORE: [Call; 6] = [
    Call::CreateSnapshot,
    Call::Stop,
    Call::ReleaseDatabase,
    Call::RestoreSnapshot,
    Call::EnsureContainer,
    Call::AwaitServing,
];

#[tokio::test]
async fn the_next_process_completes_a_restore_after_a_crash_at_any_step() {
    let cases = RESTORE
        .into_iter()
        .flat_map(|call| [false, true].map(|halfway| (call, halfway)))
        // Without a half.
        .filter(|case| *case != (Call::ReleaseDatabase, true));
    stream::iter(cases)
        .for_each_concurrent(4, |(call, halfway)| async move {
            let (scene, workers) = Scene::with_workers().await;
            let project = scene.running("todo").await;
            scene.write(&project, "old").await;
            let snapshot = scene.taken(&project).await;
            scene.write(&project, "new").await;
            let gate = Gate::default();
            let script = match call {
                Call::ReleaseDatabase => &scene.world.databases.script,
                _ => &scene.world.driver.script,
            };
            script.next(call, fault(gate.clone(), halfway));
            let path = format!("{}/{}/restore", Scene::snapshots_path(&project), snapshot.id);
            scene.owner.post_empty(&path).await.expect(202);
            gate.reached().await;
            if !matches!(call, Call::EnsureContainer | Call::AwaitServing) {
                assert_eq!(scene.status(&project).await.status, Phase::Updating, "{call:?}");
            }

            workers.crash().await;
            scene.expire_leases();
            let _workers = scene.start_workers();

            scene.kinds_until(&project, EventKind::SnapshotRestored).await;
            scene.until(&project, Phase::Running).await;
            assert_eq!(scene.read(&project).await, "old", "{call:?} {halfway}");
            assert_eq!(
                scene.events_of(&project, EventKind::SnapshotRestored).await.len(),
                1
            );
            // The state before is kept once, with what it was.
            assert_eq!(scene.world.driver.all_snapshots().len(), 2);
            scene.until_settled().await;
            scene.assert_consistent();
            let before = scene
                .owner
                .get(&Scene::snapshots_path(&project))
                .await
                .expect(200)
                .json();
            let before = before["items"][0]["id"].as_str().unwrap().to_owned();
            let path = format!("{}/{before}/restore", Scene::snapshots_path(&project));
            scene
                .owner
                .with("prefer", "wait=60")
                .post_empty(&path)
                .await
                .expect(200);
            assert_eq!(scene.read(&project).await, "new");
        })
        .await;
}

#[tokio::test]
async fn a_restore_of_a_snapshot_that_is_gone_is_given_up_and_the_sandbox_runs_on() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene.write(&project, "old").await;
    let snapshot = scene.taken(&project).await;
    scene.write(&project, "new").await;
    scene.world.driver.lose_snapshot(snapshot.id);

    let path = format!("{}/{}/restore", Scene::snapshots_path(&project), snapshot.id);
    scene
        .owner
        .with("prefer", "wait=60")
        .post_empty(&path)
        .await
        .expect(200);

    assert_eq!(
        scene.events_of(&project, EventKind::SnapshotFailed).await.len(),
        1
    );
    assert_eq!(scene.read(&project).await, "new");
}

#[tokio::test]
async fn a_terminated_sandbox_ends_the_restore_and_its_unneeded_snapshot() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    let snapshot = scene.taken(&project).await;
    let gate = Gate::default();
    scene
        .world
        .driver
        .script
        .next(Call::CreateSnapshot, Fault::Pause(gate.clone()));
    let path = format!("{}/{}/restore", Scene::snapshots_path(&project), snapshot.id);
    scene.owner.post_empty(&path).await.expect(202);
    gate.reached().await;
    let kept = format!("{}/{}", Scene::snapshots_path(&project), snapshot.id);
    scene.owner.delete(&kept).await.expect(409);

    scene.terminate(&project).await;

    scene.until(&project, Phase::Terminated).await;
    scene.kinds_until(&project, EventKind::SnapshotDeleted).await;
    assert_eq!(scene.world.driver.all_snapshots(), [snapshot.id]);
    scene.assert_consistent();
}

fn fault(gate: Gate, halfway: bool) -> Fault {
    if halfway {
        Fault::PauseHalfway(gate)
    } else {
        Fault::Pause(gate)
    }
}
