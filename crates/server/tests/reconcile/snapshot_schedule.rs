//! Schedule tests: scheduled snapshots are taken of branches that changed, expire, and never delete another one.

use chrono::{DateTime, Duration, Utc};
use fsa_model::{
    api::{Page, Project},
    event::EventKind,
    snapshot::{Snapshot, SnapshotCause},
};
use fsa_server::reconcile::snapshot_schedule::{Checked, check};
use http::Method;
use serde_json::{Value, json};

use crate::scene::Scene;

const SCHEDULE: &str = "/api/projects/todo/snapshot-schedule";

impl Scene {
    async fn check_at(&self, now: DateTime<Utc>) -> Checked {
        let checked = check(&self.world.app, now)
            .await
            .expect("the schedules are followed");
        self.until_no_snapshot_is_in_progress().await;
        checked
    }

    async fn until_no_snapshot_is_in_progress(&self) {
        use fsa_server::store::notify::Topic;
        let mut subscription = self.world.app.hub.subscribe(Topic::DesiredState);
        let open = "select count(*) from snapshots where state = 'creating' or deleted_at is not null";
        while self.world.database.sql(open) != "0" {
            // A worker's write has no notification of this topic.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(50), subscription.changed()).await;
        }
    }

    async fn change(&self, branch: &str, content: String) {
        let path = format!("/api/projects/todo/files?path=file&branch={branch}");
        let written = self
            .owner
            .send_bytes(Method::PUT, &path, None, content.into())
            .await;
        assert!(written.status.is_success(), "{}", written.text());
    }

    async fn scheduled(&self, branch: &str) -> Vec<Snapshot> {
        let path = format!("/api/projects/todo/snapshots?branch={branch}");
        let all: Page<Snapshot> = self.owner.get(&path).await.expect(200).read();
        let of_schedule = |snapshot: &Snapshot| snapshot.cause == SnapshotCause::Schedule;
        all.items.into_iter().filter(of_schedule).collect()
    }
}

fn hours(number: i64) -> DateTime<Utc> {
    Utc::now() + Duration::hours(number)
}

#[tokio::test]
async fn each_branch_that_changed_gets_one_and_a_week_away_is_one() {
    let (scene, _workers) = Scene::with_workers().await;
    let project: Project = scene.running("todo").await;
    scene.change("main", "one".into()).await;
    assert_eq!(scene.check_at(Utc::now()).await, Checked::default());

    assert_eq!(scene.check_at(hours(1)).await.requested, 1);
    let taken = scene.scheduled("main").await;
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].created_by, None);
    // Not twice in an hour, and not where nothing has changed.
    assert_eq!(scene.check_at(hours(1)).await, Checked::default());
    let unchanged = Checked {
        unchanged: 1,
        ..Checked::default()
    };
    assert_eq!(scene.check_at(hours(3)).await, unchanged);
    scene.change("main", "two".into()).await;
    assert_eq!(scene.check_at(hours(7 * 24)).await.requested, 1);
    assert_eq!(scene.check_at(hours(7 * 24)).await.requested, 0);

    // A branch that is stopped and has changed since is one that changed.
    let waiting = scene.owner.with("prefer", "wait=60");
    waiting
        .post("/api/projects/todo/branches", &json!({"name": "fix"}))
        .await
        .expect(201);
    scene.change("fix", "three".into()).await;
    waiting
        .post_empty("/api/projects/todo@fix/stop")
        .await
        .expect(200);
    assert_eq!(scene.check_at(hours(8 * 24)).await.requested, 1);
    assert_eq!(scene.scheduled("fix").await.len(), 1);
    // The two of main are of one hour, by the clock of the database.
    assert_eq!(scene.scheduled("main").await.len(), 1);
    let created = scene.events_of(&project, EventKind::SnapshotCreated).await;
    let by_schedule = created.iter().filter(|event| event.data["cause"] == "schedule");
    assert_eq!(by_schedule.count(), 3);
    let audited = "select count(*) from audit where action = 'snapshot.create'";
    assert_eq!(scene.world.database.sql(audited), "0");
    scene.assert_consistent();
}

#[tokio::test]
async fn what_a_user_takes_stays_and_what_the_schedule_takes_expires() {
    let (scene, _workers) = Scene::with_workers().await;
    scene.running("todo").await;
    let kept = scene
        .owner
        .post("/api/projects/todo/snapshots", &json!({"name": "mine"}))
        .await;
    kept.expect(201);
    scene
        .owner
        .put(SCHEDULE, &json!({"hourly": 2, "daily": 0}))
        .await
        .expect(200);
    for hour in 1..=4 {
        scene.change("main", format!("change {hour}")).await;
        assert_eq!(scene.check_at(hours(hour)).await.requested, 1);
        // The row has the time of the database's clock.
        scene
            .world
            .database
            .sql("update snapshots set created_at = created_at - interval '1 hour' where cause <> 'branch'");
    }

    assert_eq!(scene.check_at(hours(4)).await.expired, 1);

    assert_eq!(scene.scheduled("main").await.len(), 2);
    scene
        .owner
        .get("/api/projects/todo/snapshots/mine")
        .await
        .expect(200);
    assert_eq!(scene.world.driver.all_snapshots().len(), 3);

    // Off: none is taken, none deleted.
    scene
        .owner
        .put(SCHEDULE, &json!({"hourly": 0, "daily": 0}))
        .await
        .expect(200);
    scene.change("main", "later".into()).await;
    assert_eq!(scene.check_at(hours(9)).await, Checked::default());
    assert_eq!(scene.scheduled("main").await.len(), 2);
}

#[tokio::test]
async fn a_project_with_all_its_snapshots_says_once_that_none_is_taken() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;
    scene.world.database.sql(
        "insert into snapshots (id, project_id, volume_id, sandbox_id, resource, cause, state)
         select gen_random_uuid(), s.project_id, s.project_id, s.id, s.resource, 'manual', 'failed'
         from sandboxes s, generate_series(1, 200)",
    );

    for hour in 1..=2 {
        assert_eq!(scene.check_at(hours(hour)).await, Checked::default());
    }

    let failed = scene.events_of(&project, EventKind::SnapshotFailed).await;
    assert_eq!(failed.len(), 1);
    assert!(failed[0].message.contains("200 snapshots"), "{failed:?}");
    let shown = scene.owner.get(SCHEDULE).await.expect(200).json();
    assert!(
        shown["refused"].as_str().is_some_and(|why| why.contains("200")),
        "{shown}"
    );
    scene.world.database.sql("delete from snapshots");
    assert_eq!(scene.check_at(hours(3)).await.requested, 1);
    assert_eq!(
        scene.owner.get(SCHEDULE).await.expect(200).json()["refused"],
        Value::Null
    );
}

#[tokio::test]
async fn a_schedule_is_checked_shown_reset_and_audited() {
    let (scene, _workers) = Scene::with_workers().await;
    let project = scene.running("todo").await;

    let standard = json!({"hourly": 24, "daily": 7, "isDefault": true});
    assert_eq!(scene.owner.get(SCHEDULE).await.expect(200).json(), standard);
    let refused = scene
        .owner
        .put(SCHEDULE, &json!({"hourly": 49, "daily": 0}))
        .await
        .expect(422);
    assert_eq!(refused.field(), "hourly");
    let own = json!({"hourly": 1, "daily": 60});
    let set = scene.owner.put(SCHEDULE, &own).await.expect(200).json();
    assert_eq!(set, json!({"hourly": 1, "daily": 60, "isDefault": false}));
    scene.owner.put(SCHEDULE, &own).await.expect(200);
    let reset = scene.owner.delete(SCHEDULE).await.expect(200).json();
    assert_eq!(reset, standard);

    let audited = "select count(*) from audit where action = 'snapshot.schedule'";
    assert_eq!(scene.world.database.sql(audited), "2");
    assert_eq!(
        scene.events_of(&project, EventKind::ProjectChanged).await.len(),
        2
    );
}

#[tokio::test]
async fn snapshots_before_restores_are_kept_for_a_month_and_ten_of_them() {
    let (scene, _workers) = Scene::with_workers().await;
    scene.running("todo").await;
    scene.world.database.sql(
        "insert into snapshots (id, project_id, volume_id, sandbox_id, resource, cause, state, created_at)
         select gen_random_uuid(), s.project_id, s.project_id, s.id, s.resource,
                case when n % 2 = 0 then 'before-restore' else 'before-promote' end, 'ready',
                now() - make_interval(days => n * 4)
         from sandboxes s, generate_series(1, 12) n",
    );

    // Of 4, 8, … 48 days: seven are younger than 30.
    assert_eq!(scene.check_at(Utc::now()).await.expired, 5);
    scene.world.database.sql(
        "insert into snapshots (id, project_id, volume_id, sandbox_id, resource, cause, state)
         select gen_random_uuid(), s.project_id, s.project_id, s.id, s.resource, 'before-restore', 'ready'
         from sandboxes s, generate_series(1, 5)",
    );
    assert_eq!(scene.check_at(Utc::now()).await.expired, 2);
    assert_eq!(scene.world.database.sql("select count(*) from snapshots"), "10");
}
