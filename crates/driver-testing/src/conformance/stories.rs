//! The stories of the conformance suite, one guarantee each.

use std::time::Duration;

use fsa_model::{ContainerState, FailureKind, ProjectName, ResourceName, sandboxd::ExecRequest};
use futures_util::{StreamExt as _, future::join_all};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::stage::{Stage, in_time};
use fsa_driver::{Databases, Endpoint, Observed, ObservedDatabase, Requeue};

pub async fn of_nothing_nothing_is_seen(stage: &Stage<'_>) {
    let spec = stage.sandbox("nothing");
    assert_eq!(stage.observe(&spec).await, Observed::default());
    assert!(!stage.is_listed(&spec).await);
}

pub async fn a_started_sandbox_is_seen_and_answers(stage: &Stage<'_>) {
    let spec = stage.sandbox("started");
    let status = stage.start(&spec).await;
    assert!(status.ready);
    let seen = stage.observe(&spec).await;
    assert!(matches!(
        seen.container,
        ContainerState::Starting | ContainerState::Running
    ));
    assert_eq!(seen.digest, Some(spec.digest()));
    assert!(seen.network && seen.volume, "{seen:?}");
    assert_eq!(seen.failure, None);
    in_time(stage.driver.usage(&spec.sandbox))
        .await
        .expect("what runs uses something");
}

pub async fn doing_a_step_again_changes_nothing(stage: &Stage<'_>) {
    let mut spec = stage.sandbox("again");
    spec.start_command = Some(stage.world.echo_command(3000));
    stage.start(&spec).await;
    let mut connection = listening(stage, &spec, 3000).await;
    stage.start(&spec).await;
    // A connection that was open before is a proof that no process was replaced.
    assert_eq!(said_back(&mut connection, b"still here").await, b"still here");
    assert_eq!(stage.observe(&spec).await.digest, Some(spec.digest()));
}

pub async fn another_spec_replaces_the_container_and_keeps_its_files(stage: &Stage<'_>) {
    let mut spec = stage.sandbox("replaced");
    stage.start(&spec).await;
    stage.write_home(&spec, "home.txt", "mine").await;
    stage.write_root(&spec, "root.txt", "also mine").await;
    let before = spec.digest();

    spec.environment
        .insert("NEW".into(), "variable".to_owned().into());
    stage.start(&spec).await;

    let seen = stage.observe(&spec).await;
    assert_ne!(seen.digest, Some(before));
    assert_eq!(seen.digest, Some(spec.digest()));
    assert_eq!(stage.read_home(&spec, "home.txt").await.as_deref(), Some("mine"));
    assert_eq!(
        stage.read_root(&spec, "root.txt").await.is_some(),
        stage.driver.capabilities().keeps_root_files
    );
    assert!(environment(stage, &spec).await.contains("NEW=variable"));
}

pub async fn a_stopped_sandbox_keeps_its_files_and_comes_back(stage: &Stage<'_>) {
    let spec = stage.sandbox("stopped");
    stage.start(&spec).await;
    stage.write_home(&spec, "home.txt", "mine").await;
    stage.write_root(&spec, "root.txt", "also mine").await;

    stage.stop(&spec).await;
    let seen = stage.observe(&spec).await;
    assert_eq!(seen.container, ContainerState::Stopped);
    assert!(seen.volume);
    assert!(
        stage.is_listed(&spec).await,
        "what has files is still in the inventory"
    );

    stage.start(&spec).await;
    assert_eq!(stage.read_home(&spec, "home.txt").await.as_deref(), Some("mine"));
    assert_eq!(
        stage.read_root(&spec, "root.txt").await.is_some(),
        stage.driver.capabilities().keeps_root_files
    );
}

pub async fn stopping_what_does_not_run_is_no_error(stage: &Stage<'_>) {
    let spec = stage.sandbox("idle");
    stage.stop(&spec).await;
    assert_eq!(stage.observe(&spec).await.container, ContainerState::Absent);
    stage.start(&spec).await;
    stage.stop(&spec).await;
    stage.stop(&spec).await;
    assert_eq!(stage.observe(&spec).await.container, ContainerState::Stopped);
}

pub async fn destroying_keeps_the_volume_and_the_neighbors(stage: &Stage<'_>) {
    let spec = stage.sandbox("doomed");
    let neighbor = stage.sandbox("neighbor");
    stage.start(&spec).await;
    stage.start(&neighbor).await;
    stage.write_home(&spec, "home.txt", "mine").await;
    stage.write_root(&spec, "root.txt", "also mine").await;
    stage.write_home(&neighbor, "home.txt", "theirs").await;

    stage.destroy(&spec).await;
    assert_eq!(
        stage.observe(&spec).await,
        Observed {
            volume: true,
            ..Observed::default()
        }
    );
    assert!(!stage.is_listed(&spec).await);
    assert!(stage.runs(&neighbor).await);
    assert_eq!(
        stage.read_home(&neighbor, "home.txt").await.as_deref(),
        Some("theirs")
    );

    stage.start(&spec).await;
    assert_eq!(stage.read_home(&spec, "home.txt").await.as_deref(), Some("mine"));
    assert_eq!(
        stage.read_root(&spec, "root.txt").await,
        None,
        "the root file system is a new one"
    );
}

pub async fn destroying_what_is_not_there_is_no_error(stage: &Stage<'_>) {
    let spec = stage.sandbox("never");
    stage.destroy(&spec).await;
    stage.start(&spec).await;
    stage.stop(&spec).await;
    stage.destroy(&spec).await;
    stage.destroy(&spec).await;
    assert_eq!(stage.observe(&spec).await.container, ContainerState::Absent);
}

pub async fn a_removed_volume_is_gone_for_good(stage: &Stage<'_>) {
    let spec = stage.sandbox("cleared");
    stage.start(&spec).await;
    stage.write_home(&spec, "home.txt", "mine").await;
    stage.destroy(&spec).await;
    for _ in 0..2 {
        in_time(stage.driver.remove_volume(spec.sandbox.project))
            .await
            .expect("a volume is removed, and what is not there too");
    }
    assert_eq!(stage.observe(&spec).await, Observed::default());
    stage.start(&spec).await;
    assert_eq!(stage.read_home(&spec, "home.txt").await, None);
}

pub async fn names_that_begin_alike_live_and_die_apart(stage: &Stage<'_>) {
    let short = stage.sandbox("a");
    // The name of the one is the beginning of the other's, infix and all.
    let name =
        ProjectName::parse(short.sandbox.resource.as_str()).expect("a resource name is a project name");
    let long = stage.named(ResourceName::generate(&name), name);
    stage.start(&short).await;
    stage.start(&long).await;
    stage.write_home(&long, "home.txt", "long").await;

    stage.destroy(&short).await;
    in_time(stage.driver.remove_volume(short.sandbox.project))
        .await
        .expect("the volume is removed");

    assert!(stage.runs(&long).await);
    assert!(!stage.is_listed(&short).await && stage.is_listed(&long).await);
    assert_eq!(stage.read_home(&long, "home.txt").await.as_deref(), Some("long"));
}

pub async fn programs_get_the_environment(stage: &Stage<'_>) {
    let mut spec = stage.sandbox("environment");
    let odd = "it's \"odd\" $HOME `x` \\ ü";
    spec.environment.insert("ODD".into(), odd.to_owned().into());
    stage.start(&spec).await;
    let all = environment(stage, &spec).await;
    assert!(all.contains("FSA_STORY=told\n"), "{all}");
    assert!(all.contains(&format!("ODD={odd}\n")), "{all}");
}

pub async fn a_port_is_reached_where_something_listens(stage: &Stage<'_>) {
    let mut spec = stage.sandbox("ports");
    spec.start_command = Some(stage.world.echo_command(8080));
    stage.start(&spec).await;
    let mut one = listening(stage, &spec, 8080).await;
    let mut two = stage
        .connect(&spec, Endpoint::Port(8080))
        .await
        .expect("a second connection");
    assert_eq!(said_back(&mut one, b"one").await, b"one");
    assert_eq!(said_back(&mut two, b"two").await, b"two");
    assert!(
        nobody_is_there(stage, &spec, Endpoint::Port(8081)).await,
        "nothing listens on 8081"
    );
}

pub async fn a_sandbox_that_does_not_run_refuses_connections(stage: &Stage<'_>) {
    let spec = stage.sandbox("silent");
    assert!(nobody_is_there(stage, &spec, Endpoint::Control).await);
    stage.start(&spec).await;
    stage.stop(&spec).await;
    assert!(nobody_is_there(stage, &spec, Endpoint::Control).await);
    assert!(nobody_is_there(stage, &spec, Endpoint::Port(3000)).await);
}

pub async fn a_killed_container_is_told_of_and_seen(stage: &Stage<'_>) {
    let spec = stage.sandbox("killed");
    stage.start(&spec).await;
    stage.write_home(&spec, "home.txt", "mine").await;
    let mut requeues = stage.driver.changes();
    let mut before = stage.sandboxd(&spec).watch().await.expect("it can be watched");
    stage.world.kill(&spec.sandbox).await;
    // A connection to the old process ends.
    while let Some(Ok(_)) = in_time(before.next()).await {}
    let restarts_by_itself = stage.driver.capabilities().restarts_by_itself;
    // Requeues may come for other reasons too, so what counts is what is seen after one. Where the
    // data plane itself starts it again, that may be a running one already.
    loop {
        match in_time(requeues.next()).await.expect("requeues go on") {
            Requeue::Sandbox(sandbox) if sandbox.resource != spec.sandbox.resource => {}
            Requeue::Sandbox(_) | Requeue::Everything if !restarts_by_itself && stage.runs(&spec).await => {}
            Requeue::Project(_) => {}
            Requeue::Sandbox(_) | Requeue::Everything | Requeue::Answers => break,
        }
    }
    stage.start(&spec).await;
    assert_eq!(stage.read_home(&spec, "home.txt").await.as_deref(), Some("mine"));
}

pub async fn the_inventory_has_what_is_there_and_nothing_else(stage: &Stage<'_>) {
    let spec = stage.sandbox("listed");
    assert!(!stage.is_listed(&spec).await);
    stage.ensure_network(&spec).await.expect("a network");
    assert!(stage.is_listed(&spec).await, "half a sandbox is listed as well");
    stage.start(&spec).await;
    assert!(stage.is_listed(&spec).await);
    stage.destroy(&spec).await;
    assert!(!stage.is_listed(&spec).await);
}

pub async fn a_missing_image_is_the_persons_to_mend(stage: &Stage<'_>) {
    let mut spec = stage.sandbox("imageless");
    spec.image = stage.world.missing_image();
    let refused = in_time(stage.driver.check_image(&spec))
        .await
        .expect_err("there is no such image");
    assert_eq!(refused.failure.kind, FailureKind::Input, "{refused}");
    stage.ensure_network(&spec).await.expect("a network");
    let refused = stage
        .ensure_container(&spec)
        .await
        .expect_err("there is no such image");
    assert_eq!(refused.failure.kind, FailureKind::Input, "{refused}");
    assert!(!stage.runs(&spec).await);
    stage.destroy(&spec).await;
    assert!(
        !stage.is_listed(&spec).await,
        "nothing is left of a start that failed"
    );
}

pub async fn several_sandboxes_start_at_once(stage: &Stage<'_>) {
    let specs: Vec<_> = (0..5).map(|_| stage.sandbox("together")).collect();
    join_all(specs.iter().map(|spec| stage.start(spec))).await;
    for spec in &specs {
        stage
            .write_home(spec, "who.txt", spec.sandbox.resource.as_str())
            .await;
    }
    for spec in &specs {
        assert_eq!(
            stage.read_home(spec, "who.txt").await.as_deref(),
            Some(spec.sandbox.resource.as_str())
        );
    }
    join_all(specs.iter().map(|spec| stage.destroy(spec))).await;
    for spec in &specs {
        assert!(!stage.is_listed(spec).await);
    }
}

pub async fn a_start_that_is_dropped_anywhere_can_be_repeated(stage: &Stage<'_>) {
    for moment in MOMENTS {
        let spec = stage.sandbox("dropped");
        dropped_after(moment, stage.start(&spec)).await;
        let status = stage.start(&spec).await;
        assert!(status.ready);
        assert_eq!(stage.observe(&spec).await.digest, Some(spec.digest()));
        stage.destroy(&spec).await;
    }
}

pub async fn a_start_that_is_dropped_does_not_come_back_after_destroy(stage: &Stage<'_>) {
    for moment in MOMENTS {
        let spec = stage.sandbox("forsaken");
        dropped_after(moment, stage.start(&spec)).await;
        stage.destroy(&spec).await;
        assert_eq!(stage.observe(&spec).await.container, ContainerState::Absent);
        assert!(!stage.is_listed(&spec).await);
        // Were anything of the start still under way, it would show by now.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(stage.observe(&spec).await.container, ContainerState::Absent);
        assert!(!stage.is_listed(&spec).await);
    }
}

pub async fn a_database_is_made_once_and_keeps_what_is_in_it(stage: &Stage<'_>) {
    let Some((databases, spec)) = stage.database("data") else {
        return;
    };
    assert_eq!(observe(&*databases, &spec).await, ObservedDatabase::Absent);
    ensure(&*databases, &spec).await;
    assert_eq!(observe(&*databases, &spec).await, ObservedDatabase::Ready);
    stage
        .world
        .mark(&spec, "one")
        .await
        .expect("it can be written to");
    ensure(&*databases, &spec).await;
    stage
        .world
        .mark(&spec, "two")
        .await
        .expect("it can be written to");
    assert_eq!(
        stage.world.marks(&spec).await,
        Ok(vec!["one".into(), "two".into()])
    );
    let credentials = in_time(databases.credentials(&spec))
        .await
        .expect("what is there has credentials");
    assert_eq!(credentials.user, spec.role());
    let all = in_time(databases.inventory()).await.expect("an inventory");
    assert!(all.contains(&spec.role()));
}

pub async fn a_dropped_database_is_gone_and_its_neighbor_is_not(stage: &Stage<'_>) {
    let (Some((databases, spec)), Some((_, neighbor))) = (stage.database("data"), stage.database("data"))
    else {
        return;
    };
    in_time(Databases::drop(&*databases, &spec))
        .await
        .expect("to drop what is not there is no error");
    ensure(&*databases, &spec).await;
    ensure(&*databases, &neighbor).await;
    stage
        .world
        .mark(&spec, "mine")
        .await
        .expect("it can be written to");
    stage
        .world
        .mark(&neighbor, "theirs")
        .await
        .expect("it can be written to");
    assert_eq!(stage.world.marks(&spec).await, Ok(vec!["mine".into()]));

    for _ in 0..2 {
        in_time(Databases::drop(&*databases, &spec))
            .await
            .expect("it is dropped");
    }

    assert_eq!(observe(&*databases, &spec).await, ObservedDatabase::Absent);
    let all = in_time(databases.inventory()).await.expect("an inventory");
    assert!(!all.contains(&spec.role()) && all.contains(&neighbor.role()));
    assert!(stage.world.marks(&spec).await.is_err());
    assert_eq!(stage.world.marks(&neighbor).await, Ok(vec!["theirs".into()]));

    ensure(&*databases, &spec).await;
    stage
        .world
        .mark(&spec, "again")
        .await
        .expect("a new one is made under the same name");
    assert_eq!(stage.world.marks(&spec).await, Ok(vec!["again".into()]));
}

/// When a start is dropped: at once, and at several points of one that takes about 100 ms.
const MOMENTS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(2),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(60),
];

async fn dropped_after<T>(moment: Duration, work: impl Future<Output = T>) {
    // At zero it is polled once, so that it has begun.
    let _ = tokio::time::timeout(moment, work).await;
}

async fn observe(databases: &dyn Databases, spec: &fsa_model::DatabaseSpec) -> ObservedDatabase {
    in_time(databases.observe(spec))
        .await
        .expect("it can be observed")
}

async fn ensure(databases: &dyn Databases, spec: &fsa_model::DatabaseSpec) {
    in_time(databases.ensure(spec)).await.expect("it is made");
}

/// A connection to `port`, as soon as the status lists it.
async fn listening(stage: &Stage<'_>, spec: &fsa_model::SandboxSpec, port: u16) -> fsa_driver::BoxConnection {
    stage
        .await_status(spec, |status| status.ports.iter().any(|open| open.port == port))
        .await;
    stage
        .connect(spec, Endpoint::Port(port))
        .await
        .expect("an open port is reached")
}

/// Whether a connection is refused, or ends without a byte.
async fn nobody_is_there(stage: &Stage<'_>, spec: &fsa_model::SandboxSpec, endpoint: Endpoint) -> bool {
    match stage.connect(spec, endpoint).await {
        Err(_) => true,
        Ok(mut connection) => {
            let mut byte = [0];
            matches!(in_time(connection.read(&mut byte)).await, Ok(0) | Err(_))
        }
    }
}

async fn said_back(connection: &mut fsa_driver::BoxConnection, words: &[u8]) -> Vec<u8> {
    connection.write_all(words).await.expect("it takes bytes");
    connection.flush().await.expect("it takes bytes");
    let mut back = vec![0; words.len()];
    in_time(connection.read_exact(&mut back))
        .await
        .expect("it sends them back");
    back
}

async fn environment(stage: &Stage<'_>, spec: &fsa_model::SandboxSpec) -> String {
    let request = ExecRequest {
        command: vec!["env".into()],
        ..ExecRequest::default()
    };
    let result = stage
        .sandboxd(spec)
        .exec(&request)
        .await
        .expect("a program is run");
    assert_eq!(result.exit_code, 0, "{}", result.stderr);
    result.stdout
}
