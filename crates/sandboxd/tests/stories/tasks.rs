//! Tasks: commands that run without a connected client, and whose output is read by position.

use fsa_model::sandboxd::{TaskEnd, TaskOutput};
use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Sandbox, is_running, until};

async fn put(sandbox: &Sandbox, id: &str, script: &str, more: serde_json::Value) -> StatusCode {
    let mut request = json!({"command": ["sh", "-c", script]});
    for (name, value) in more.as_object().into_iter().flatten() {
        request[name] = value.clone();
    }
    let answer = sandbox
        .call(Method::PUT, &format!("/v1/tasks/{id}"), request.to_string())
        .await;
    answer.status
}

async fn read(sandbox: &Sandbox, id: &str, after: u64) -> TaskOutput {
    let answer = sandbox
        .get(&format!("/v1/tasks/{id}?after={after}&wait=20"))
        .await;
    serde_json::from_slice(&answer.expect(StatusCode::OK).body).unwrap()
}

/// The output from a position to the end, and the end.
async fn read_to_end(sandbox: &Sandbox, id: &str, mut after: u64) -> (Vec<String>, TaskEnd) {
    let mut lines = Vec::new();
    loop {
        let output = read(sandbox, id, after).await;
        lines.extend(output.lines);
        after = output.next;
        if let Some(end) = output.end {
            return (lines, end);
        }
    }
}

#[tokio::test]
async fn a_task_continues_without_a_reader_and_is_read_from_the_last_position() {
    let sandbox = Sandbox::start().await;
    let script =
        "read word; echo $word; until [ -e go ]; do sleep 0.05; done; echo second; echo oops >&2; exit 3";
    assert_eq!(
        put(&sandbox, "a-1", script, json!({"stdin": "first\n"})).await,
        StatusCode::CREATED
    );
    let first = read(&sandbox, "a-1", 0).await;
    assert_eq!(
        (first.lines.as_slice(), first.next, first.end),
        (&["first".to_owned()][..], 6, None)
    );
    // A repeated request starts nothing twice.
    assert_eq!(
        put(&sandbox, "a-1", "echo another", json!({})).await,
        StatusCode::OK
    );
    assert_eq!(
        read(&sandbox, "a-1", 0).await.lines,
        ["first"],
        "it was not acknowledged"
    );

    std::fs::write(sandbox.project().join("go"), "").unwrap();

    let (lines, end) = read_to_end(&sandbox, "a-1", 6).await;
    assert_eq!(lines, ["second"]);
    assert_eq!((end.exit_code, end.stderr.as_str()), (3, "oops\n"));
    let forget = sandbox.call(Method::DELETE, "/v1/tasks/a-1", "").await;
    forget.expect(StatusCode::NO_CONTENT);
    sandbox.get("/v1/tasks/a-1").await.expect(StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_task_without_a_reader_blocks_and_loses_no_output() {
    let sandbox = Sandbox::start().await;
    let script = "echo $$; seq 1 2000000";
    put(&sandbox, "much", script, json!({})).await;
    let first = read(&sandbox, "much", 0).await;
    let pid = first.lines[0].clone();
    let before = sandbox.resident_kib();
    assert!(is_running(&pid), "it waits for a reader");

    let (lines, end) = read_to_end(&sandbox, "much", 0).await;

    assert_eq!(
        (lines.len(), lines.last().unwrap().as_str(), end.exit_code),
        (2_000_001, "2000000", 0)
    );
    assert!(before < 40 * 1024, "{before} KiB");
}

#[tokio::test]
async fn a_task_ends_when_it_is_cancelled_or_times_out() {
    let sandbox = Sandbox::start().await;
    put(&sandbox, "long", "echo $$; sleep 1000", json!({})).await;
    let pid = read(&sandbox, "long", 0).await.lines[0].clone();
    let reported = sandbox.call(Method::DELETE, "/v1/tasks/long", "").await;
    reported.expect(StatusCode::ACCEPTED);
    let (_, end) = read_to_end(&sandbox, "long", 0).await;
    assert_eq!((end.exit_code, end.timed_out), (143, false));
    until("the end", async || (!is_running(&pid)).then_some(())).await;

    put(&sandbox, "slow", "sleep 1000", json!({"timeoutSeconds": 1})).await;
    let (_, end) = read_to_end(&sandbox, "slow", 0).await;
    assert_eq!((end.exit_code, end.timed_out), (124, true));
}

#[tokio::test]
async fn a_tasks_process_identifies_its_task_at_the_callback_port() {
    let sandbox = Sandbox::start().await;
    put(&sandbox, "mine", "echo $FSA_ASKS_TOKEN", json!({})).await;
    let (lines, _) = read_to_end(&sandbox, "mine", 0).await;
    let plain = sandbox.sh("echo $FSA_ASKS_TOKEN").await.stdout;
    assert_eq!(lines, [format!("{}.mine", plain.trim())]);
}

#[tokio::test]
async fn a_missing_program_is_reported() {
    let sandbox = Sandbox::start().await;
    let request = json!({"command": ["no-such-agent"]}).to_string();
    let answer = sandbox.call(Method::PUT, "/v1/tasks/none", request).await;
    assert_eq!(
        answer.expect(StatusCode::BAD_REQUEST).json()["details"]["field"]["name"],
        "command"
    );
    for wrong in ["/v1/tasks/", "/v1/tasks/a%2Fb", "/v1/tasks/a.b"] {
        sandbox.get(wrong).await.expect(StatusCode::BAD_REQUEST);
    }
}
