//! Crash tests of the server: it is killed repeatedly, at any moment. The next one reaches every desired
//! state, nothing is left over, and programs in the sandboxes do not notice.

use std::time::Duration;

use fsa_model::Phase;
use fsa_tests::{TestTerminal, World};
use reqwest::Method;
use serde_json::{Value, json};

/// Moments after the request at which the server is killed, in milliseconds. A create takes about
/// 100 ms, so these fall before, into and after each of its steps.
const KILL_DELAYS_MS: [u64; 12] = [0, 5, 10, 20, 30, 40, 55, 70, 90, 120, 160, 250];

#[tokio::test(flavor = "multi_thread")]
async fn a_create_completes_whenever_the_server_is_killed() {
    let mut world = World::start(&[]);
    for (at, moment) in KILL_DELAYS_MS.into_iter().enumerate() {
        let name = format!("create-{at}");
        world.api().create(&name).await;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        world.crash();
        world.serve();
        let api = world.api();
        api.until_running(&name).await;
        assert_eq!(api.shell(&name, "psql -Atc 'select 1'").await.trim(), "1");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_completes_whenever_the_server_is_killed_and_the_files_stay() {
    let mut world = World::start(&[]);
    world.api().create_running("stopped").await;
    world.api().put("stopped", "note.txt", "kept").await;
    for moment in KILL_DELAYS_MS.into_iter().step_by(2) {
        let _: Value = world
            .api()
            .send(Method::POST, "/api/projects/stopped/stop", &json!({}))
            .await;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        world.crash();
        world.serve();
        world.api().until("stopped", Phase::Stopped).await;
        let _: Value = world
            .api()
            .send(Method::POST, "/api/projects/stopped/start", &json!({}))
            .await;
        world.api().until_running("stopped").await;
        assert_eq!(world.api().shell("stopped", "cat note.txt").await, "kept");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_completes_whenever_the_server_is_killed_and_removes_nothing_else() {
    let mut world = World::start(&[]);
    world.api().create_running("bystander").await;
    for (at, moment) in KILL_DELAYS_MS.into_iter().enumerate() {
        let name = format!("deleted-{at}");
        let project = world.api().create_running(&name).await;
        let (status, value) = world
            .api()
            .answer(
                world
                    .api()
                    .request(Method::DELETE, &format!("/api/projects/{name}")),
            )
            .await;
        assert!(status.is_success(), "{value}");
        tokio::time::sleep(Duration::from_millis(moment)).await;
        world.crash();
        world.serve();
        let api = world.api();
        // A deleted project is gone: not found by id, nor by name.
        let gone = async {
            let path = format!("/api/projects/{}/events?tail=true", project.id);
            loop {
                let (status, _) = api
                    .answer(api.request(Method::GET, &format!("/api/projects/{}", project.id)))
                    .await;
                if status.as_u16() == 404 {
                    return;
                }
                if let Ok(mut stream) = api.request(Method::GET, &path).send().await {
                    let _ = tokio::time::timeout(Duration::from_millis(200), stream.chunk()).await;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(300), gone)
            .await
            .expect("the project goes");
    }
    assert_eq!(
        world
            .api()
            .shell("bystander", "psql -Atc 'select 1'")
            .await
            .trim(),
        "1"
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_crash_does_not_affect_a_sandbox() {
    let mut world = World::start(&[]);
    world.api().create_running("busy").await;
    let mut terminal = TestTerminal::open(&world.api(), "busy", "main").await;
    terminal.type_in("counter=41; echo before-the-$((40+2))\r").await;
    terminal.until("before-the-42").await;
    let mut database = TestTerminal::open(&world.api(), "busy", "psql").await;
    database.type_in("psql -X\r").await;
    database.until("=#").await;
    database
        .type_in("begin; create temporary table kept as select 7 as n;\r")
        .await;
    database.until("SELECT 1").await;

    world.crash();
    world.serve();

    let mut terminal = TestTerminal::open(&world.api(), "busy", "main").await;
    terminal.until("before-the-42").await;
    terminal.type_in("echo after-$((counter+1))\r").await;
    terminal.until("after-42").await;
    let mut database = TestTerminal::open(&world.api(), "busy", "psql").await;
    database.type_in("select 'still ' || n from kept;\r").await;
    database.until("still 7").await;
    drop((terminal, database));
    // A project that the next server starts again has its database too.
    let _: Value = world
        .api()
        .send(Method::POST, "/api/projects/busy/restart", &json!({}))
        .await;
    world.api().until_running("busy").await;
    assert_eq!(
        world.api().shell("busy", "psql -Atc 'select 40 + 2'").await,
        "42\n"
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_one_data_folder_share_the_work_and_one_takes_over() {
    let mut world = World::start(&[]);
    let second = world.replica();
    let other = fsa_tests::Api::new(&format!("http://{}", second.address()), &world.token);
    for at in 0..6 {
        let api = if at % 2 == 0 { &world.api() } else { &other };
        api.create(&format!("shared-{at}")).await;
    }
    for at in 0..6 {
        other.until_running(&format!("shared-{at}")).await;
    }
    world.api().create("orphaned").await;
    world.crash();
    other.until_running("orphaned").await;
    second.end(nix::sys::signal::Signal::SIGTERM);
    world.serve();
    assert_eq!(world.api().projects().await.len(), 7);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_only_projects_that_must_run_are_restarted_with_their_files() {
    let mut world = World::start(&[]);
    let api = world.api();
    api.create_running("running").await;
    api.create_running("stopped").await;
    let _: Value = api
        .send(Method::POST, "/api/projects/stopped/stop", &json!({}))
        .await;
    api.until("stopped", Phase::Stopped).await;
    api.shell(
        "running",
        "echo mine > note.txt; echo kept > /var/tmp/note.txt; psql -qc 'create table kept as select 7 as n'",
    )
    .await;

    // Every process is gone, like after a reboot, and the rows do not say so.
    world.crash();
    world.halt();
    world.serve();

    // Until the next observation the API returns the last observed state.
    world.api().until_event("running", "repaired").await;
    world.api().until_running("running").await;
    let script = "cat note.txt /var/tmp/note.txt; psql -Atc 'select n from kept'";
    assert_eq!(world.api().shell("running", script).await, "mine\nkept\n7\n");
    assert_eq!(world.api().sandbox("stopped").await.status, Phase::Stopped);
    world.finish().await;
}
