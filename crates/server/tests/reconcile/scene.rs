//! Fixture of the reconciliation tests: a world with workers, a client, and the check that rows, data plane
//! and databases agree.

use std::{collections::BTreeSet, time::Duration};

use fsa_driver_testing::memory::Call;
use fsa_model::{
    ContainerState, Phase, ResourceName, SandboxId,
    api::{Project, Sandbox},
    event::{Event, EventKind},
    spec::role_of,
};
use fsa_server::{
    reconcile::{Options, Worker},
    store::notify::Topic,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::{Client, World};

/// Longer than any working step; only a broken one reaches this timeout.
pub const TIMEOUT: Duration = Duration::from_secs(240);

/// A world and its client.
pub struct Scene {
    pub world: World,
    pub owner: Client,
}

/// Workers that a test ends by a crash or by a termination signal.
pub struct Workers {
    pub task: JoinHandle<()>,
    pub shutdown: CancellationToken,
}

/// Options of the workers in tests: without sweeps, which would remove other tests' leftovers.
pub fn options() -> Options {
    Options {
        sweep: None,
        schedule: None,
        ..Options::default()
    }
}

impl Scene {
    /// A scene without workers.
    pub async fn new() -> Self {
        Self::of(World::new().await).await
    }

    pub async fn of(world: World) -> Self {
        let owner = world.owner().await;
        Self { world, owner }
    }

    /// A scene with workers.
    pub async fn with_workers() -> (Self, Workers) {
        let scene = Self::new().await;
        let workers = scene.start_workers();
        (scene, workers)
    }

    pub fn start_workers(&self) -> Workers {
        Workers::of(&self.world, options())
    }

    pub async fn create(&self, body: Value) -> Project {
        self.owner.post("/api/projects", &body).await.expect(201).read()
    }

    /// A running project with this name.
    pub async fn running(&self, name: &str) -> Project {
        let project = self.create(json!({"name": name})).await;
        self.until(&project, Phase::Running).await;
        project
    }

    pub async fn status(&self, project: &Project) -> Sandbox {
        self.owner
            .get(&format!("/api/sandbox/{}", project.id))
            .await
            .expect(200)
            .read()
    }

    pub async fn request_action(&self, project: &Project, what: &str) {
        let path = format!("/api/projects/{}/{what}", project.id);
        self.owner.post_empty(&path).await.expect(202);
    }

    pub async fn terminate(&self, project: &Project) {
        let path = format!("/api/sandbox/{}", project.id);
        self.owner.delete(&path).await.expect(202);
    }

    pub async fn delete(&self, project: &Project) {
        let path = format!("/api/projects/{}", project.id);
        let answer = self.owner.delete(&path).await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }

    /// Waits until the sandbox is in this phase.
    pub async fn until(&self, project: &Project, phase: Phase) -> Sandbox {
        self.when(project, &format!("{phase:?}"), |sandbox| sandbox.status == phase)
            .await
    }

    /// Waits until the sandbox matches a condition.
    pub async fn when(&self, project: &Project, what: &str, condition: impl Fn(&Sandbox) -> bool) -> Sandbox {
        let mut subscription = self.world.app.hub.subscribe(Topic::Project(project.id));
        let mut last = None;
        let wait = async {
            loop {
                let sandbox = self.status(project).await;
                if condition(&sandbox) {
                    return sandbox;
                }
                last = Some(sandbox);
                // A notification may be lost with its connection; the timeout keeps the test from hanging.
                let _ = tokio::time::timeout(Duration::from_secs(2), subscription.changed()).await;
            }
        };
        match tokio::time::timeout(TIMEOUT, wait).await {
            Ok(sandbox) => sandbox,
            Err(_) => panic!("{what} was not reached; at last it was {last:?}"),
        }
    }

    /// Waits until the project's row is gone.
    pub async fn until_gone(&self, project: &Project) {
        let gone = self.kinds_until(project, EventKind::ProjectDeleted).await;
        assert_eq!(gone.last(), Some(&EventKind::ProjectDeleted));
        let rows = format!("select count(*) from projects where id = '{}'", project.id);
        assert_eq!(self.world.database.sql(&rows), "0");
    }

    /// The kinds of the project's events up to the first of `kind`.
    pub async fn kinds_until(&self, project: &Project, kind: EventKind) -> Vec<EventKind> {
        let mut subscription = self.world.app.hub.subscribe(Topic::Project(project.id));
        let wait = async {
            loop {
                let kinds: Vec<_> = self
                    .events(project)
                    .await
                    .into_iter()
                    .map(|event| event.kind)
                    .collect();
                if kinds.contains(&kind) {
                    return kinds;
                }
                let _ = tokio::time::timeout(Duration::from_secs(2), subscription.changed()).await;
            }
        };
        tokio::time::timeout(TIMEOUT, wait)
            .await
            .unwrap_or_else(|_| panic!("no event {kind:?} was written"))
    }

    /// The project's events, oldest first; also those of a deleted project.
    pub async fn events(&self, project: &Project) -> Vec<Event> {
        let rows = self.world.database.sql(&format!(
            "select jsonb_build_object('id', id, 'projectId', project_id, 'kind', kind, 'message', message, \
             'data', data, 'createdAt', created_at) from events where project_id = '{}' order by id",
            project.id
        ));
        rows.lines()
            .map(|row| serde_json::from_str(row).expect("an event"))
            .collect()
    }

    pub async fn events_of(&self, project: &Project, kind: EventKind) -> Vec<Event> {
        let mut events = self.events(project).await;
        events.retain(|event| event.kind == kind);
        events
    }

    /// The name of a project's newest sandbox.
    pub async fn resource(&self, project: &Project) -> ResourceName {
        self.status(project).await.name.parse().expect("a resource name")
    }

    /// Postpones every retry of a sandbox, so that its failure stays to be seen until [`Self::retry`].
    pub fn hold_retries(&self) {
        self.world.database.sql(
            "create function hold_retry() returns trigger language plpgsql as $$ begin
                 if new.failure is not null then new.next_attempt_at = now() + interval '1 day'; end if;
                 return new;
             end $$;
             create trigger hold_retry before update on sandboxes for each row execute function hold_retry()",
        );
    }

    /// Lets the retries go on.
    pub fn retry(&self) {
        self.world.database.sql(
            "drop function hold_retry cascade;
             update sandboxes set next_attempt_at = now() where failure is not null",
        );
        self.world.app.hub.wake(Topic::DesiredState);
    }

    /// Expires all leases at once.
    pub fn expire_leases(&self) {
        for table in ["sandboxes", "branches", "snapshots"] {
            self.world.database.sql(&format!(
                "update {table} set lease_until = now() - interval '1 second' where lease_until is not null"
            ));
        }
    }

    /// Waits until every desired state is reached.
    pub async fn until_settled(&self) {
        let wait = async {
            loop {
                let left = self.world.database.sql(
                    "select (select count(*) from sandboxes where observed_generation <> generation
                             or failure is not null or lease_id is not null or next_attempt_at <= now())
                          + (select count(*) from branches where deleted_at is not null)
                          + (select count(*) from snapshots where deleted_at is not null)",
                );
                if left == "0" {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(TIMEOUT, wait).await.is_err() {
            let rows = self.world.database.sql(
                "select resource, desired_state, generation, observed_generation, attempted_generation, container,
                        attempts, failure, next_attempt_at - now(), lease_until - now()
                 from sandboxes where observed_generation <> generation or failure is not null
                    or lease_id is not null or next_attempt_at <= now()",
            );
            panic!("these desired states were not reached:\n{rows}");
        }
    }

    /// Checks that rows, data plane and databases agree, that nothing is left over, and that no two workers
    /// ever acted on the same object.
    #[track_caller]
    pub fn assert_consistent(&self) {
        let (driver, databases) = (&self.world.driver, &self.world.databases);
        let rows = self.world.database.sql(
            "select s.resource || ' ' || s.desired_state || ' ' || s.container from sandboxes s order by s.resource",
        );
        let mut known = BTreeSet::new();
        for row in rows.lines() {
            let fields: Vec<&str> = row.split(' ').collect();
            let resource: ResourceName = fields[0].parse().expect("a resource name");
            let seen = driver.container(&resource);
            let agrees = match fields[1] {
                "running" => seen == ContainerState::Running && fields[2] == "running",
                "stopped" => seen != ContainerState::Running && ["stopped", "absent"].contains(&fields[2]),
                _ => seen == ContainerState::Absent && fields[2] == "absent",
            };
            assert!(agrees, "{row}: observed {seen:?}");
            if fields[1] != "terminated" {
                known.insert(resource);
            }
        }
        let left: Vec<_> = driver
            .resources()
            .into_iter()
            .filter(|resource| !known.contains(resource))
            .collect();
        assert_eq!(left, [], "sandboxes without a row");

        let of_rows = |statement: &str| -> BTreeSet<String> {
            let rows = self.world.database.sql(statement);
            rows.lines().map(str::to_owned).collect()
        };
        let roles_of = |rows: BTreeSet<String>| -> BTreeSet<String> {
            rows.iter()
                .map(|name| role_of(&name.parse().expect("a resource name")))
                .collect()
        };
        // A database whose creation was interrupted may exist without being recorded as ready.
        let there: BTreeSet<String> = databases.roles().into_iter().collect();
        let ready = roles_of(of_rows(
            "select d.resource from databases d join branches b using (project_id) where b.database_ever_ready",
        ));
        assert!(
            there.is_superset(&ready),
            "{ready:?}, but the databases are {there:?}"
        );
        let named = roles_of(of_rows("select resource from databases"));
        assert!(
            there.is_subset(&named),
            "{named:?}, but the databases are {there:?}"
        );
        let volumes = of_rows("select volume_id from branches");
        for volume in driver.volumes() {
            assert!(volumes.contains(&volume.to_string()), "a volume without a branch");
        }
        let snapshots = of_rows("select id from snapshots where state = 'ready'");
        let taken: BTreeSet<String> = driver.all_snapshots().iter().map(ToString::to_string).collect();
        assert_eq!(taken, snapshots, "snapshots and their rows");
        assert_eq!(driver.log.overlaps(), BTreeSet::new());
        assert_eq!(databases.log.overlaps(), BTreeSet::new());
    }

    /// The number of changing calls to the data plane.
    pub fn changes(&self) -> usize {
        let of = |entries: Vec<fsa_driver_testing::memory::CallRecord>| {
            entries
                .iter()
                .filter(|entry| entry.call.changes() && entry.call != AWAIT_SERVING)
                .count()
        };
        of(self.world.driver.log.entries()) + of(self.world.databases.log.entries())
    }

    pub fn sandbox_id(&self, resource: &ResourceName) -> SandboxId {
        self.world
            .database
            .sql(&format!("select id from sandboxes where resource = '{resource}'"))
            .parse()
            .expect("a sandbox's id")
    }
}

/// Waiting for a terminal is a step that changes nothing.
const AWAIT_SERVING: Call = Call::AwaitServing;

impl Workers {
    pub fn of(world: &World, options: Options) -> Self {
        let shutdown = CancellationToken::new();
        Self {
            task: Worker::spawn_with(
                world.app.core().clone(),
                world.app.callback.clone(),
                options,
                shutdown.clone(),
            ),
            shutdown,
        }
    }

    /// Ends them like a crash: no step is finished, and no lease is released.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Ends them like a termination signal.
    pub async fn finish(self) {
        self.shutdown.cancel();
        self.task.await.expect("the workers end well");
    }
}
