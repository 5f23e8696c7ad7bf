//! Promotion tests: `main` gets the state of a branch, also when a process dies at any step, and nothing is lost.

use fsa_driver_testing::memory::{Call, Fault, Gate};
use fsa_model::{
    Failure, FailureKind, Phase,
    api::{Page, Project},
    event::EventKind,
    snapshot::{Snapshot, SnapshotCause},
};
use futures_util::{StreamExt as _, stream};
use http::Method;
use serde_json::json;

use crate::scene::Scene;

impl Scene {
    /// A project with the branch `fix`; a file of each has the branch's name.
    async fn with_branch(&self) -> Project {
        let project = self.running("todo").await;
        let path = format!("/api/projects/{}/branches", project.id);
        let waiting = self.owner.with("prefer", "wait=60");
        waiting.post(&path, &json!({"name": "fix"})).await.expect(201);
        for branch in ["main", "fix"] {
            let path = format!("/api/projects/{}/files?path=branch&branch={branch}", project.id);
            let written = self
                .owner
                .send_bytes(Method::PUT, &path, None, branch.into())
                .await;
            assert!(written.status.is_success(), "{}", written.text());
        }
        project
    }

    async fn branch_file(&self, project: &Project, branch: &str) -> String {
        let path = format!("/api/projects/{}/files?path=branch&branch={branch}", project.id);
        self.owner.get(&path).await.expect(200).text()
    }

    async fn snapshots_of_main(&self, project: &Project) -> Vec<Snapshot> {
        let path = format!("/api/projects/{}/snapshots", project.id);
        self.owner
            .get(&path)
            .await
            .expect(200)
            .read::<Page<Snapshot>>()
            .items
    }
}

const PROMOTE: &str = "/api/projects/todo/branches/fix/promote";

#[tokio::test]
async fn main_gets_the_state_of_a_branch_which_stays_and_the_promotion_can_be_undone() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.with_branch().await;
    let of_branch = json!({"envVars": {"COLOR": "red"}});
    let path = "/api/projects/todo@fix/environment";
    scene.owner.patch(path, &of_branch).await.expect(200);
    scene.until_settled().await;
    let before = scene.status(&project).await;

    let waiting = scene
        .owner
        .with("prefer", "wait=60")
        .with("idempotency-key", "once");
    let promoted = waiting.post_empty(PROMOTE).await.expect(200).json();

    assert_eq!(promoted["branch"], "main");
    assert_eq!(promoted["status"], "RUNNING");
    assert_eq!(promoted["publicUrl"], before.public_url);
    assert_eq!(scene.branch_file(&project, "main").await, "fix");
    assert_eq!(scene.branch_file(&project, "fix").await, "fix");
    // Variables of the branch are not main's.
    let environment = scene.owner.get("/api/projects/todo/environment").await;
    assert_eq!(environment.expect(200).json()["envVars"].get("COLOR"), None);
    let kept = scene.snapshots_of_main(&project).await;
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].cause, SnapshotCause::BeforePromote);
    assert_eq!(
        kept[0].promoted_branch.as_ref().map(|name| name.as_str()),
        Some("fix")
    );
    let events = scene.events_of(&project, EventKind::BranchPromoted).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].data["before"], json!(kept[0].id));

    // A repeated request changes nothing, whatever the branch has become.
    let path = format!("/api/projects/{}/files?path=branch&branch=fix", project.id);
    scene
        .owner
        .send_bytes(Method::PUT, &path, None, "later".into())
        .await;
    waiting.post_empty(PROMOTE).await.expect(200);
    assert_eq!(scene.branch_file(&project, "main").await, "fix");

    let path = format!("/api/projects/todo/snapshots/{}/restore", kept[0].id);
    waiting.post_empty(&path).await.expect(200);
    assert_eq!(scene.branch_file(&project, "main").await, "main");
    // The snapshot of the branch was needed for the promotion only.
    scene.until_settled().await;
    assert_eq!(scene.world.driver.all_snapshots().len(), 2);
    let audited = "select count(*) from audit where action = 'branch.promote'";
    assert_eq!(scene.world.database.sql(audited), "1");
    scene.assert_consistent();
}

/// Every call of the data plane that a promotion leads to.
const STEPS: [Call; 6] = [
    Call::CreateSnapshot,
    Call::Stop,
    Call::ReleaseDatabase,
    Call::RestoreSnapshot,
    Call::EnsureContainer,
    Call::AwaitServing,
];

#[tokio::test]
async fn the_next_process_completes_a_promotion_after_a_crash_at_any_step() {
    let cases = STEPS
        .into_iter()
        .flat_map(|call| [false, true].map(|halfway| (call, halfway)))
        // Without a half.
        .filter(|case| *case != (Call::ReleaseDatabase, true));
    stream::iter(cases)
        .for_each_concurrent(4, |(call, halfway)| async move {
            let (scene, workers) = Scene::with_workers().await;
            let project = scene.with_branch().await;
            scene.until_settled().await;
            let gate = Gate::default();
            let script = match call {
                Call::ReleaseDatabase => &scene.world.databases.script,
                _ => &scene.world.driver.script,
            };
            let fault = match halfway {
                true => Fault::PauseHalfway(gate.clone()),
                false => Fault::Pause(gate.clone()),
            };
            script.next(call, fault);
            scene.owner.post_empty(PROMOTE).await.expect(202);
            gate.reached().await;
            // The branch is needed until it is done.
            if call == Call::CreateSnapshot {
                scene
                    .owner
                    .delete("/api/projects/todo/branches/fix")
                    .await
                    .expect(409);
            }

            workers.crash().await;
            scene.expire_leases();
            let _workers = scene.start_workers();

            scene.kinds_until(&project, EventKind::BranchPromoted).await;
            scene.until(&project, Phase::Running).await;
            assert_eq!(
                scene.branch_file(&project, "main").await,
                "fix",
                "{call:?} {halfway}"
            );
            assert_eq!(
                scene.events_of(&project, EventKind::BranchPromoted).await.len(),
                1
            );
            let kept = scene.snapshots_of_main(&project).await;
            assert_eq!(kept.len(), 1, "{call:?} {halfway}");
        })
        .await;
}

#[tokio::test]
async fn a_promotion_that_is_impossible_leaves_main_and_no_snapshot() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.with_branch().await;
    scene.until_settled().await;
    let full = Failure::new(FailureKind::Machine, "the storage pool is full");
    scene
        .world
        .driver
        .script
        .next(Call::CreateSnapshot, Fault::Fail(full));

    let waiting = scene.owner.with("prefer", "wait=60");
    waiting.post_empty(PROMOTE).await.expect(200);

    let failed = scene.events_of(&project, EventKind::SnapshotFailed).await;
    assert!(
        failed[0].message.contains("fix could not be promoted: "),
        "{failed:?}"
    );
    assert_eq!(scene.branch_file(&project, "main").await, "main");
    scene.until_settled().await;
    assert_eq!(scene.world.driver.all_snapshots(), []);
    assert_eq!(scene.world.database.sql("select count(*) from snapshots"), "0");
    scene.assert_consistent();
}
