//! Procfile instead of a start command.

use fsa_model::sandboxd::StartCommand;
use http::Method;
use serde_json::json;

use crate::harness::{Sandbox, SandboxBuilder};

#[tokio::test]
async fn all_entries_run_and_their_log_lines_have_their_names() {
    let sandbox = SandboxBuilder::new()
        .prepare_home(|home| {
            std::fs::write(
                home.join("project/Procfile"),
                "worker: echo working $PORT; sleep 1000\nweb: echo serving $PORT; sleep 1000\n",
            )
            .unwrap();
        })
        .start()
        .await;
    sandbox
        .until_log("web", |line| line.text == "web: serving 3000")
        .await;
    sandbox
        .until_log("worker", |line| line.text == "worker: working 3100")
        .await;
    sandbox
        .until_status("running", |s| {
            matches!(s.start_command, StartCommand::Running { .. })
        })
        .await;
}

#[tokio::test]
async fn an_uploaded_procfile_is_started() {
    let sandbox = Sandbox::start().await;
    assert_eq!(sandbox.status().await.start_command, StartCommand::None);
    sandbox
        .call(
            Method::PUT,
            "/v1/files?path=Procfile",
            "web: echo uploaded; sleep 1000\n",
        )
        .await;
    sandbox
        .until_log("its output", |line| line.text == "uploaded")
        .await;
}

#[tokio::test]
async fn a_procfile_written_in_a_terminal_is_started_and_a_change_replaces_it() {
    let sandbox = Sandbox::start().await;
    let mut viewer = sandbox.terminal("main").await;
    viewer
        .type_text("echo 'web: echo version-one; sleep 1000' > Procfile\n")
        .await;
    sandbox
        .until_log("the first", |line| line.text == "version-one")
        .await;
    viewer
        .type_text("echo 'web: echo version-two; sleep 1000' > Procfile\n")
        .await;
    sandbox
        .until_log("the second", |line| line.text == "version-two")
        .await;
    viewer.type_text("pgrep -fc '[v]ersion-one'; rm Procfile\n").await;
    viewer.until_shown("\n0\r\n").await;
    sandbox
        .until_status("its end", |s| s.start_command == StartCommand::None)
        .await;
}

#[tokio::test]
async fn a_start_command_takes_precedence_over_a_procfile() {
    let sandbox = SandboxBuilder::new()
        .with("startCommand", json!("echo the command; sleep 1000"))
        .prepare_home(|home| {
            std::fs::write(home.join("project/Procfile"), "web: echo the file; sleep 1000\n").unwrap()
        })
        .start()
        .await;
    sandbox
        .until_log("its output", |line| line.text == "the command")
        .await;
    sandbox
        .call(Method::PUT, "/v1/files?path=Procfile", "web: echo another file\n")
        .await;
    sandbox.sh("true").await;
    assert!(
        sandbox
            .logs()
            .await
            .iter()
            .all(|line| !line.text.contains("file")),
        "{:?}",
        sandbox.logs().await
    );
}
