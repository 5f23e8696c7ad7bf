//! The supervised start command, its log, and the ports that it opens.

use fsa_model::sandboxd::{Exit, LogSource, StartCommand};
use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Sandbox, SandboxBuilder, is_running, until};

/// Script that listens on a free port of the loopback until it ends.
const LISTEN: &str = "exec python3 -c \"import socket,time
s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen(); print(s.getsockname()[1],flush=True); time.sleep(1000)\"";

#[tokio::test]
async fn a_start_command_runs_in_the_project_with_a_port_and_its_output_is_logged() {
    let sandbox = SandboxBuilder::new()
        .with(
            "startCommand",
            json!("echo on $PORT in $PWD; echo oops >&2; sleep 1000"),
        )
        .start()
        .await;
    let line = sandbox
        .until_log("its output", |line| line.source == LogSource::Stdout)
        .await;
    assert_eq!(line.text, format!("on 3000 in {}", sandbox.project().display()));
    sandbox
        .until_log("its errors", |line| {
            line.source == LogSource::Stderr && line.text == "oops"
        })
        .await;
    let status = sandbox
        .until_status("running", |s| {
            matches!(s.start_command, StartCommand::Running { .. })
        })
        .await;
    let StartCommand::Running { restarts, .. } = status.start_command else {
        unreachable!()
    };
    assert_eq!(restarts, 0);
    let after: Vec<_> = sandbox.get("/v1/logs?after=1").await.body.to_vec();
    assert!(!String::from_utf8(after).unwrap().contains("\"sequence\":1,"));
}

#[tokio::test]
async fn the_input_of_a_start_command_does_not_end() {
    // poll(2) reports nothing for a pipe whose writer lives, and the end of the input otherwise.
    let script = "exec python3 -c \"import select,time
p=select.poll(); p.register(0); print('input', p.poll(0), flush=True); time.sleep(1000)\"";
    let sandbox = SandboxBuilder::new()
        .with("startCommand", json!(script))
        .start()
        .await;
    let line = sandbox
        .until_log("its input", |line| line.text.starts_with("input"))
        .await;
    assert_eq!(line.text, "input []");
}

#[tokio::test]
async fn a_start_command_is_restarted_with_backoff() {
    // The first run ends when its status is being watched.
    let script = "until [ -e watched ]; do sleep 0.05; done; exit 3";
    let sandbox = SandboxBuilder::new()
        .with("startCommand", json!(script))
        .start()
        .await;
    let mut attempts = vec![chrono::Utc::now()];
    let mut left = Vec::new();
    sandbox
        .until_status("three waits", |status| {
            std::fs::write(sandbox.project().join("watched"), "").unwrap();
            if let StartCommand::BackOff {
                exit,
                restarts,
                next_attempt,
            } = status.start_command
                && restarts as usize == attempts.len()
            {
                assert_eq!(exit, Exit::Code(3));
                attempts.push(next_attempt);
                left.push((next_attempt - chrono::Utc::now()).num_milliseconds());
            }
            left.len() == 3
        })
        .await;
    // 1, 2 and 4 seconds and at most a tenth more, from the end of each run until the next one.
    for (round, seconds) in [1, 2, 4].into_iter().enumerate() {
        let between = (attempts[round + 1] - attempts[round]).num_milliseconds();
        assert!(
            between >= seconds * 1000 && left[round] <= seconds * 1100,
            "{attempts:?}, {left:?}"
        );
    }
    let log = sandbox.logs().await;
    assert!(
        log.iter()
            .any(|line| line.text.contains("ended with exit code 3")),
        "{log:?}"
    );
}

#[tokio::test]
async fn a_restart_stops_everything_that_the_command_started() {
    let script =
        "trap 'echo asked' TERM; sh -c 'trap \"\" TERM; sleep 1000 & wait; wait' & echo pid $!; wait";
    let sandbox = SandboxBuilder::new()
        .with("startCommand", json!(script))
        .start()
        .await;
    let first = sandbox
        .until_log("its child", |line| line.text.starts_with("pid "))
        .await;
    let pid: u32 = first.text[4..].parse().unwrap();
    sandbox
        .call(Method::POST, "/v1/restart-start-command", "")
        .await
        .expect(StatusCode::ACCEPTED);
    let second = sandbox
        .until_log("the new child", |line| {
            line.text.starts_with("pid ") && line.sequence > first.sequence
        })
        .await;
    assert_ne!(first.text, second.text);
    assert!(!is_running(&pid.to_string()), "the old one still runs");
    assert!(
        sandbox.logs().await.iter().any(|line| line.text == "asked"),
        "it was asked first"
    );
}

#[tokio::test]
async fn without_a_start_command_a_restart_is_refused() {
    let sandbox = Sandbox::start().await;
    assert_eq!(sandbox.status().await.start_command, StartCommand::None);
    let answer = sandbox.call(Method::POST, "/v1/restart-start-command", "").await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert!(answer.error().contains("no start command"), "{}", answer.error());
}

#[tokio::test]
async fn a_port_is_listed_while_a_process_listens_on_it() {
    let sandbox = SandboxBuilder::new()
        .with("startCommand", json!(LISTEN))
        .start()
        .await;
    let line = sandbox
        .until_log("the port", |line| line.source == LogSource::Stdout)
        .await;
    let port: u16 = line.text.parse().unwrap();
    let status = sandbox
        .until_status("the port", |s| s.ports.iter().any(|found| found.port == port))
        .await;
    let found = status.ports.iter().find(|found| found.port == port).unwrap();
    assert_eq!(found.process.as_deref(), Some("python3"));
    let StartCommand::Running { pid, .. } = status.start_command else {
        panic!("{status:?}")
    };
    sandbox.sh(&format!("kill -9 {pid}")).await;
    sandbox
        .until_status("its end", |s| s.ports.iter().all(|found| found.port != port))
        .await;
}

#[tokio::test]
async fn a_port_opened_in_a_terminal_is_listed() {
    let sandbox = Sandbox::start().await;
    let mut viewer = sandbox.terminal("main").await;
    std::fs::write(sandbox.project().join("serve.sh"), LISTEN).unwrap();
    viewer.type_text("sh serve.sh > port\n").await;
    let port: u16 = until("the port", async || {
        std::fs::read_to_string(sandbox.project().join("port"))
            .ok()?
            .trim()
            .parse()
            .ok()
    })
    .await;
    sandbox
        .until_status("the port", |s| s.ports.iter().any(|found| found.port == port))
        .await;
}
