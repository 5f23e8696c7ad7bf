//! The stories of the conformance suite, one guarantee each.

mod snapshots;

use std::time::Duration;

use fsa_model::{ContainerState, FailureKind, ProjectName, ResourceName, sandboxd::ExecRequest};
use futures_util::{StreamExt as _, future::join_all};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fixture::{Fixture, within_timeout};
use fsa_driver::{Databases, Endpoint, Observed, ObservedDatabase, Requeue};

pub use snapshots::*;

pub async fn an_unknown_sandbox_is_absent(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("nothing");
    assert_eq!(fixture.observe(&spec).await, Observed::default());
    assert!(!fixture.is_in_inventory(&spec).await);
}

pub async fn a_started_sandbox_is_observed_and_responds(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("started");
    let status = fixture.start(&spec).await;
    assert!(status.ready);
    let observed = fixture.observe(&spec).await;
    assert!(matches!(
        observed.container,
        ContainerState::Starting | ContainerState::Running
    ));
    assert_eq!(observed.digest, Some(spec.digest()));
    assert!(observed.network && observed.volume, "{observed:?}");
    assert_eq!(observed.failure, None);
    within_timeout(fixture.driver.usage(&spec.sandbox))
        .await
        .expect("a running sandbox has usage");
}

pub async fn repeated_steps_change_nothing(fixture: &Fixture<'_>) {
    let mut spec = fixture.sandbox("again");
    spec.start_command = Some(fixture.world.echo_command(3000));
    fixture.start(&spec).await;
    let mut connection = connect_when_listening(fixture, &spec, 3000).await;
    fixture.start(&spec).await;
    // The connection from before the second start proves that no process was replaced.
    assert_eq!(echo(&mut connection, b"still here").await, b"still here");
    assert_eq!(fixture.observe(&spec).await.digest, Some(spec.digest()));
}

pub async fn another_spec_replaces_the_container_and_keeps_its_files(fixture: &Fixture<'_>) {
    let mut spec = fixture.sandbox("replaced");
    fixture.start(&spec).await;
    fixture.write_home(&spec, "home.txt", "mine").await;
    fixture.write_root(&spec, "root.txt", "also mine").await;
    let before = spec.digest();

    spec.environment
        .insert("NEW".into(), "variable".to_owned().into());
    fixture.start(&spec).await;

    let observed = fixture.observe(&spec).await;
    assert_ne!(observed.digest, Some(before));
    assert_eq!(observed.digest, Some(spec.digest()));
    assert_eq!(
        fixture.read_home(&spec, "home.txt").await.as_deref(),
        Some("mine")
    );
    assert_eq!(
        fixture.read_root(&spec, "root.txt").await.is_some(),
        fixture.driver.capabilities().keeps_root_files
    );
    assert!(environment(fixture, &spec).await.contains("NEW=variable"));
}

pub async fn a_stopped_sandbox_keeps_its_files_and_starts_again(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("stopped");
    fixture.start(&spec).await;
    fixture.write_home(&spec, "home.txt", "mine").await;
    fixture.write_root(&spec, "root.txt", "also mine").await;

    fixture.stop(&spec).await;
    let observed = fixture.observe(&spec).await;
    assert_eq!(observed.container, ContainerState::Stopped);
    assert!(observed.volume);
    assert!(
        fixture.is_in_inventory(&spec).await,
        "a sandbox with files is in the inventory"
    );

    fixture.start(&spec).await;
    assert_eq!(
        fixture.read_home(&spec, "home.txt").await.as_deref(),
        Some("mine")
    );
    assert_eq!(
        fixture.read_root(&spec, "root.txt").await.is_some(),
        fixture.driver.capabilities().keeps_root_files
    );
}

pub async fn stopping_a_sandbox_that_does_not_run_succeeds(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("idle");
    fixture.stop(&spec).await;
    assert_eq!(fixture.observe(&spec).await.container, ContainerState::Absent);
    fixture.start(&spec).await;
    fixture.stop(&spec).await;
    fixture.stop(&spec).await;
    assert_eq!(fixture.observe(&spec).await.container, ContainerState::Stopped);
}

pub async fn destroying_keeps_the_volume_and_other_sandboxes(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("doomed");
    let neighbor = fixture.sandbox("neighbor");
    fixture.start(&spec).await;
    fixture.start(&neighbor).await;
    fixture.write_home(&spec, "home.txt", "mine").await;
    fixture.write_root(&spec, "root.txt", "also mine").await;
    fixture.write_home(&neighbor, "home.txt", "theirs").await;

    fixture.destroy(&spec).await;
    assert_eq!(
        fixture.observe(&spec).await,
        Observed {
            volume: true,
            ..Observed::default()
        }
    );
    assert!(!fixture.is_in_inventory(&spec).await);
    assert!(fixture.runs(&neighbor).await);
    assert_eq!(
        fixture.read_home(&neighbor, "home.txt").await.as_deref(),
        Some("theirs")
    );

    fixture.start(&spec).await;
    assert_eq!(
        fixture.read_home(&spec, "home.txt").await.as_deref(),
        Some("mine")
    );
    assert_eq!(
        fixture.read_root(&spec, "root.txt").await,
        None,
        "the root file system is new"
    );
}

pub async fn destroying_an_absent_sandbox_succeeds(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("never");
    fixture.destroy(&spec).await;
    fixture.start(&spec).await;
    fixture.stop(&spec).await;
    fixture.destroy(&spec).await;
    fixture.destroy(&spec).await;
    assert_eq!(fixture.observe(&spec).await.container, ContainerState::Absent);
}

pub async fn a_sandbox_after_a_removed_volume_has_an_empty_one(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("cleared");
    fixture.start(&spec).await;
    fixture.write_home(&spec, "home.txt", "mine").await;
    fixture.destroy(&spec).await;
    for _ in 0..2 {
        within_timeout(fixture.driver.remove_volume(spec.sandbox.volume))
            .await
            .expect("the removal of a volume is idempotent");
    }
    assert_eq!(fixture.observe(&spec).await, Observed::default());
    fixture.start(&spec).await;
    assert_eq!(fixture.read_home(&spec, "home.txt").await, None);
}

pub async fn a_name_that_is_a_prefix_of_another_is_independent(fixture: &Fixture<'_>) {
    let short = fixture.sandbox("a");
    // The resource name of the first is a prefix of the second's, including the infix.
    let name =
        ProjectName::parse(short.sandbox.resource.as_str()).expect("a resource name is a project name");
    let long = fixture.named(ResourceName::generate(&name), name);
    fixture.start(&short).await;
    fixture.start(&long).await;
    fixture.write_home(&long, "home.txt", "long").await;

    fixture.destroy(&short).await;
    within_timeout(fixture.driver.remove_volume(short.sandbox.volume))
        .await
        .expect("the volume is removed");

    assert!(fixture.runs(&long).await);
    assert!(!fixture.is_in_inventory(&short).await && fixture.is_in_inventory(&long).await);
    assert_eq!(
        fixture.read_home(&long, "home.txt").await.as_deref(),
        Some("long")
    );
}

pub async fn programs_get_the_environment(fixture: &Fixture<'_>) {
    let mut spec = fixture.sandbox("environment");
    let odd = "it's \"odd\" $HOME `x` \\ ü";
    spec.environment.insert("ODD".into(), odd.to_owned().into());
    fixture.start(&spec).await;
    let all = environment(fixture, &spec).await;
    assert!(all.contains("FSA_STORY=value\n"), "{all}");
    assert!(all.contains(&format!("ODD={odd}\n")), "{all}");
}

pub async fn a_listening_port_accepts_connections(fixture: &Fixture<'_>) {
    let mut spec = fixture.sandbox("ports");
    spec.start_command = Some(fixture.world.echo_command(8080));
    fixture.start(&spec).await;
    let mut one = connect_when_listening(fixture, &spec, 8080).await;
    let mut two = fixture
        .connect(&spec, Endpoint::Port(8080))
        .await
        .expect("a second connection");
    assert_eq!(echo(&mut one, b"one").await, b"one");
    assert_eq!(echo(&mut two, b"two").await, b"two");
    assert!(
        is_refused(fixture, &spec, Endpoint::Port(8081)).await,
        "nothing listens on 8081"
    );
}

pub async fn a_sandbox_that_does_not_run_refuses_connections(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("silent");
    assert!(is_refused(fixture, &spec, Endpoint::Control).await);
    fixture.start(&spec).await;
    fixture.stop(&spec).await;
    assert!(is_refused(fixture, &spec, Endpoint::Control).await);
    assert!(is_refused(fixture, &spec, Endpoint::Port(3000)).await);
}

pub async fn a_killed_container_sends_a_requeue_and_is_observed(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("killed");
    fixture.start(&spec).await;
    fixture.write_home(&spec, "home.txt", "mine").await;
    let mut requeues = fixture.driver.changes();
    let mut before = fixture.sandboxd(&spec).watch().await.expect("it can be watched");
    fixture.world.kill(&spec.sandbox).await;
    // The connection to the old process ends.
    while let Some(Ok(_)) = within_timeout(before.next()).await {}
    let restarts_by_itself = fixture.driver.capabilities().restarts_by_itself;
    // Requeues may have other causes too, so the story checks the state observed after one. A data plane that restarts
    // the container itself may have done so already.
    loop {
        match within_timeout(requeues.next())
            .await
            .expect("the stream of requeues continues")
        {
            Requeue::Sandbox(sandbox) if sandbox.resource != spec.sandbox.resource => {}
            Requeue::Sandbox(_) | Requeue::Everything if !restarts_by_itself && fixture.runs(&spec).await => {
            }
            Requeue::Project(_) => {}
            Requeue::Sandbox(_) | Requeue::Everything | Requeue::Recovered => break,
        }
    }
    fixture.start(&spec).await;
    assert_eq!(
        fixture.read_home(&spec, "home.txt").await.as_deref(),
        Some("mine")
    );
}

pub async fn the_inventory_lists_existing_sandboxes_only(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("listed");
    assert!(!fixture.is_in_inventory(&spec).await);
    fixture.ensure_network(&spec).await.expect("a network");
    assert!(
        fixture.is_in_inventory(&spec).await,
        "a partial sandbox is in the inventory"
    );
    fixture.start(&spec).await;
    assert!(fixture.is_in_inventory(&spec).await);
    fixture.destroy(&spec).await;
    assert!(!fixture.is_in_inventory(&spec).await);
}

pub async fn a_missing_image_is_an_input_error(fixture: &Fixture<'_>) {
    let mut spec = fixture.sandbox("imageless");
    spec.image = fixture.world.missing_image();
    let refused = within_timeout(fixture.driver.check_image(&spec))
        .await
        .expect_err("there is no such image");
    assert_eq!(refused.failure.kind, FailureKind::Input, "{refused}");
    fixture.ensure_network(&spec).await.expect("a network");
    let refused = fixture
        .ensure_container(&spec)
        .await
        .expect_err("there is no such image");
    assert_eq!(refused.failure.kind, FailureKind::Input, "{refused}");
    assert!(!fixture.runs(&spec).await);
    fixture.destroy(&spec).await;
    assert!(
        !fixture.is_in_inventory(&spec).await,
        "a failed start leaves nothing behind"
    );
}

pub async fn several_sandboxes_start_in_parallel(fixture: &Fixture<'_>) {
    let specs: Vec<_> = (0..5).map(|_| fixture.sandbox("together")).collect();
    join_all(specs.iter().map(|spec| fixture.start(spec))).await;
    for spec in &specs {
        fixture
            .write_home(spec, "who.txt", spec.sandbox.resource.as_str())
            .await;
    }
    for spec in &specs {
        assert_eq!(
            fixture.read_home(spec, "who.txt").await.as_deref(),
            Some(spec.sandbox.resource.as_str())
        );
    }
    join_all(specs.iter().map(|spec| fixture.destroy(spec))).await;
    for spec in &specs {
        assert!(!fixture.is_in_inventory(spec).await);
    }
}

pub async fn a_start_cancelled_at_any_point_can_be_repeated(fixture: &Fixture<'_>) {
    for delay in CANCEL_AFTER {
        let spec = fixture.sandbox("dropped");
        cancel_after(delay, fixture.start(&spec)).await;
        let status = fixture.start(&spec).await;
        assert!(status.ready);
        assert_eq!(fixture.observe(&spec).await.digest, Some(spec.digest()));
        fixture.destroy(&spec).await;
    }
}

pub async fn a_cancelled_start_does_not_continue_after_destroy(fixture: &Fixture<'_>) {
    for delay in CANCEL_AFTER {
        let spec = fixture.sandbox("forsaken");
        cancel_after(delay, fixture.start(&spec)).await;
        fixture.destroy(&spec).await;
        assert_eq!(fixture.observe(&spec).await.container, ContainerState::Absent);
        assert!(!fixture.is_in_inventory(&spec).await);
        // Time for a task of the start that was not cancelled, if there were one.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(fixture.observe(&spec).await.container, ContainerState::Absent);
        assert!(!fixture.is_in_inventory(&spec).await);
    }
}

pub async fn ensuring_a_database_again_keeps_its_rows(fixture: &Fixture<'_>) {
    let Some((databases, spec)) = fixture.database("data") else {
        return;
    };
    assert_eq!(observe(&*databases, &spec).await, ObservedDatabase::Absent);
    ensure(&*databases, &spec).await;
    assert_eq!(observe(&*databases, &spec).await, ObservedDatabase::Ready);
    fixture
        .world
        .insert_row(&spec, "one")
        .await
        .expect("it can be written to");
    ensure(&*databases, &spec).await;
    fixture
        .world
        .insert_row(&spec, "two")
        .await
        .expect("it can be written to");
    assert_eq!(
        fixture.world.select_rows(&spec).await,
        Ok(vec!["one".into(), "two".into()])
    );
    let credentials = within_timeout(databases.credentials(&spec))
        .await
        .expect("an existing database has credentials");
    assert_eq!(credentials.user, spec.role());
    let all = within_timeout(databases.inventory()).await.expect("an inventory");
    assert!(all.contains(&spec.role()));
}

pub async fn dropping_a_database_keeps_other_databases(fixture: &Fixture<'_>) {
    let (Some((databases, spec)), Some((_, neighbor))) = (fixture.database("data"), fixture.database("data"))
    else {
        return;
    };
    within_timeout(Databases::drop(&*databases, &spec))
        .await
        .expect("dropping an absent database succeeds");
    ensure(&*databases, &spec).await;
    ensure(&*databases, &neighbor).await;
    fixture
        .world
        .insert_row(&spec, "mine")
        .await
        .expect("it can be written to");
    fixture
        .world
        .insert_row(&neighbor, "theirs")
        .await
        .expect("it can be written to");
    assert_eq!(fixture.world.select_rows(&spec).await, Ok(vec!["mine".into()]));

    for _ in 0..2 {
        within_timeout(Databases::drop(&*databases, &spec))
            .await
            .expect("it is dropped");
    }

    assert_eq!(observe(&*databases, &spec).await, ObservedDatabase::Absent);
    let all = within_timeout(databases.inventory()).await.expect("an inventory");
    assert!(!all.contains(&spec.role()) && all.contains(&neighbor.role()));
    assert!(fixture.world.select_rows(&spec).await.is_err());
    assert_eq!(
        fixture.world.select_rows(&neighbor).await,
        Ok(vec!["theirs".into()])
    );

    ensure(&*databases, &spec).await;
    fixture
        .world
        .insert_row(&spec, "again")
        .await
        .expect("a new database of the same name is created");
    assert_eq!(fixture.world.select_rows(&spec).await, Ok(vec!["again".into()]));
}

/// When a start is cancelled: at once, and at several points of one that takes about 100 ms.
const CANCEL_AFTER: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(2),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(60),
];

async fn cancel_after<T>(delay: Duration, work: impl Future<Output = T>) {
    // With a zero timeout it is polled once.
    let _ = tokio::time::timeout(delay, work).await;
}

async fn observe(databases: &dyn Databases, spec: &fsa_model::DatabaseSpec) -> ObservedDatabase {
    within_timeout(databases.observe(spec))
        .await
        .expect("it can be observed")
}

async fn ensure(databases: &dyn Databases, spec: &fsa_model::DatabaseSpec) {
    within_timeout(databases.ensure(spec))
        .await
        .expect("it is created");
}

/// Connects to `port` as soon as the status lists it.
async fn connect_when_listening(
    fixture: &Fixture<'_>,
    spec: &fsa_model::SandboxSpec,
    port: u16,
) -> fsa_driver::BoxConnection {
    fixture
        .await_status(spec, |status| status.ports.iter().any(|open| open.port == port))
        .await;
    fixture
        .connect(spec, Endpoint::Port(port))
        .await
        .expect("an open port accepts connections")
}

/// Whether a connection is refused, or ends without a byte.
async fn is_refused(fixture: &Fixture<'_>, spec: &fsa_model::SandboxSpec, endpoint: Endpoint) -> bool {
    match fixture.connect(spec, endpoint).await {
        Err(_) => true,
        Ok(mut connection) => {
            let mut byte = [0];
            matches!(within_timeout(connection.read(&mut byte)).await, Ok(0) | Err(_))
        }
    }
}

async fn echo(connection: &mut fsa_driver::BoxConnection, words: &[u8]) -> Vec<u8> {
    connection.write_all(words).await.expect("it accepts bytes");
    connection.flush().await.expect("it accepts bytes");
    let mut back = vec![0; words.len()];
    within_timeout(connection.read_exact(&mut back))
        .await
        .expect("it echoes them");
    back
}

async fn environment(fixture: &Fixture<'_>, spec: &fsa_model::SandboxSpec) -> String {
    let request = ExecRequest {
        command: vec!["env".into()],
        ..ExecRequest::default()
    };
    let result = fixture
        .sandboxd(spec)
        .exec(&request)
        .await
        .expect("the program runs");
    assert_eq!(result.exit_code, 0, "{}", result.stderr);
    result.stdout
}
