//! Fault tests: bad input, and a machine that lacks something. Each message names the fix, and nothing
//! incomplete is left behind.

use std::os::unix::fs::PermissionsExt as _;

use fsa_model::{FailureKind, Phase, Repository, api::CreateProject};
use fsa_tests::World;
use futures_util::StreamExt as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Timeout of every wait.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(240);

fn new_project(name: &str) -> CreateProject {
    CreateProject {
        name: name.into(),
        template: Some("host".into()),
        ..CreateProject::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_request_is_refused_with_the_field_and_its_rule() {
    let world = World::start(&[]);
    let api = world.api();
    for (body, field) in [
        (json!({"name": "My App"}), "name"),
        (json!({"name": "ok", "template": "windows"}), "template"),
        (json!({"name": "ok", "size": "huge"}), "size"),
        (json!({"name": "ok", "region": "mars"}), "region"),
        (json!({"name": "ok", "envVars": {"1X": "y"}}), "envVars"),
        (
            json!({"name": "ok", "repository": {"url": "file:///etc"}}),
            "repository",
        ),
        (
            json!({"name": "ok", "repository": {"url": "https://user:pass@host/x"}}),
            "repository",
        ),
        (json!({"name": "ok", "color": "red"}), "color"),
        (json!({}), "name"),
    ] {
        let (status, answer) = api
            .answer(api.request(Method::POST, "/api/projects").json(&body))
            .await;
        assert!(status.is_client_error(), "{body}: {status} {answer}");
        assert!(answer.to_string().contains(field), "{body}: {answer}");
        assert!(
            answer["error"].is_string() && answer["timestamp"].is_string(),
            "{answer}"
        );
    }
    assert!(api.projects().await.is_empty());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_clone_is_reported_with_gits_message_and_leaves_nothing() {
    let world = World::start(&[]);
    let api = world.api();
    let repository = Repository {
        url: "https://repository.invalid/nobody/nothing.git".into(),
        branch: None,
    };
    api.create_as(CreateProject {
        repository: Some(repository),
        ..new_project("cloned")
    })
    .await;
    let sandbox = api.until("cloned", Phase::Error).await;
    let error = sandbox.error.expect("an error");
    assert_eq!(error.failure.kind, FailureKind::Input);
    assert!(error.failure.message.contains("repository.invalid"), "{error:?}");
    assert!(error.next_attempt_at.is_some(), "{error:?}");
    // The terminal works, so that a person can investigate.
    assert_eq!(
        api.shell("cloned", "ls -A /home/dev/project | wc -l")
            .await
            .trim(),
        "0"
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_command_that_crashes_is_restarted_and_its_output_is_in_the_logs() {
    let world = World::start(&[]);
    let api = world.api();
    api.create_as(CreateProject {
        start_command: Some("echo about to fall; exit 3".into()),
        ..new_project("crashing")
    })
    .await;
    api.until_running("crashing").await;
    let wait = async {
        loop {
            let logs: Value = api.get("/api/projects/crashing/logs?follow=false").await;
            let text = logs.to_string();
            if text.matches("about to fall").count() >= 2 {
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, wait).await.expect("a second start");
    let reported = async {
        loop {
            let sandbox: Value = api.get("/api/sandbox/crashing").await;
            assert_eq!(sandbox["status"], "RUNNING");
            if sandbox["startCommand"].to_string().contains("\"code\":3") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, reported)
        .await
        .expect("the exit code is reported");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_or_a_broken_archive_is_reported_at_once() {
    let world = World::start(&["--allow-registries", "127.0.0.1:9"]);
    let api = world.api();
    let missing = CreateProject {
        name: "missing".into(),
        image: Some("127.0.0.1:9/nobody/nothing:latest".into()),
        ..CreateProject::default()
    };
    api.create_as(missing).await;
    let sandbox = api.until("missing", Phase::Error).await;
    let message = sandbox.error.expect("an error").failure.message;
    assert!(message.contains("127.0.0.1:9"), "{message}");

    let broken = world.folder().join("broken.tar");
    std::fs::write(&broken, b"this is not an archive").expect("a file");
    let output = world.fsa(&["image", "import", broken.to_str().expect("a path")]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("archive"), "{text}");
    let images: Value = api.get("/api/images").await;
    assert!(!images.to_string().contains("broken"), "{images}");
    let output = world.fsa(&["image", "remove", "broken"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_failing_runtime_is_reported_and_the_sandbox_starts_once_it_works() {
    let folder = tempfile::Builder::new()
        .prefix("fsa-runtime-")
        .tempdir_in("/tmp")
        .expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
    let runtime = folder.path().join("runc");
    // Replaced as a whole: a program that is being started cannot be written.
    let write = |script: &str| {
        let new = folder.path().join("new");
        std::fs::write(&new, script).expect("a script");
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        std::fs::rename(&new, &runtime).expect("the script is replaced");
    };
    write(
        "#!/bin/sh\ncase \"$*\" in *--version*) exec runc --version;; esac\necho 'the moon is full' >&2\nexit 1\n",
    );
    let world = World::start(&["--runtime", runtime.to_str().expect("a path")]);
    let api = world.api();
    api.create("patient").await;
    let sandbox = api.until("patient", Phase::Error).await;
    let error = sandbox.error.expect("an error");
    assert!(error.failure.message.contains("the moon is full"), "{error:?}");
    assert!(error.next_attempt_at.is_some());
    write("#!/bin/sh\nexec runc \"$@\"\n");
    api.until_running("patient").await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_reported_and_everything_continues_once_there_is_space() {
    let world = World::start_on_a_disk_of("400m");
    let api = world.api();
    api.create_running("greedy").await;
    api.shell("greedy", "psql -qc 'CREATE TABLE rows (text text)'")
        .await;

    let text = api
        .shell("greedy", "cat /dev/zero 2>&1 >big; psql -qc \"INSERT INTO rows SELECT repeat(md5(n::text), 100) FROM generate_series(1, 20000) n\" 2>&1; true")
        .await;
    assert_eq!(text.matches("No space left on device").count(), 2, "{text}");
    let (status, answer) = api
        .answer(
            api.request(Method::POST, "/api/projects")
                .json(&new_project("late")),
        )
        .await;
    let text = if status.is_success() {
        // Its row had space in an existing page of the table.
        let sandbox = api.until("late", Phase::Error).await;
        sandbox.error.expect("what failed").failure.message
    } else {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
        answer.to_string()
    };
    assert!(text.contains("disk") && text.contains("full"), "{text}");

    api.shell("greedy", "rm big").await;
    if status.is_success() {
        api.until_running("late").await;
    } else {
        api.create_running("late").await;
    }
    api.until_running("greedy").await;
    assert_eq!(
        api.shell(
            "greedy",
            "psql -qAtc 'INSERT INTO rows VALUES (1); SELECT count(*) FROM rows'"
        )
        .await
        .trim(),
        "1"
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_file_is_detected_at_the_start_and_a_rotated_one_is_used() {
    let mut world = World::start(&[]);
    let api = world.api();
    api.create("kept").await;
    api.until_running("kept").await;
    world.drain();
    let path = world.data().join("keys/seal.key");
    let before = std::fs::read_to_string(&path).expect("the key file");
    std::fs::remove_file(&path).expect("a file that is lost");

    let refused = world.fsa(&["serve", "--listen", "127.0.0.1:0"]);

    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{text}");
    assert!(
        text.contains("stored secrets are encrypted with keys that the key file does not have"),
        "{text}"
    );
    std::fs::write(&path, &before).expect("the key file is restored");
    let rotated = world.fsa(&["keys", "rotate"]);
    assert!(
        rotated.status.success(),
        "{}",
        String::from_utf8_lossy(&rotated.stderr)
    );
    let both = std::fs::read_to_string(&path).expect("the key file");
    assert!(both.starts_with(&before) && both.lines().count() == 2);
    world.serve();
    let encrypted = async {
        while !world
            .log()
            .contains("stored secrets re-encrypted with the newest key")
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, encrypted)
        .await
        .unwrap_or_else(|_| panic!("{}", world.log()));
    // Values that were encrypted with the older key are unchanged.
    let api = world.api();
    assert_eq!(api.shell("kept", "psql -tAc 'select 40 + 2'").await, "42\n");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_many_password_sign_ins_is_released() {
    let world = World::start(&[]);
    let resident = || world.server.as_ref().expect("a server").resident() / (1024 * 1024);
    let before = resident();

    // Attempts are counted by address, and the loopback has many. Each takes 19 MiB briefly, whether it
    // succeeds or fails.
    let attempts = (1..=64_u8).map(|number| {
        let url = format!("{}/api/auth/password", world.url());
        async move {
            let client = reqwest::Client::builder()
                .local_address(std::net::IpAddr::from([127, 0, 2, number]))
                .build()
                .expect("a client");
            let body = json!({"login": "nobody", "password": "not the right one"});
            let answer = client.post(url).json(&body).send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        }
    });
    futures_util::stream::iter(attempts)
        .for_each_concurrent(8, |attempt| attempt)
        .await;

    let released = async {
        while resident().saturating_sub(before) >= 24 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, released)
        .await
        .unwrap_or_else(|_| panic!("{} MiB after the {before} of before", resident()));
    world.finish().await;
}
