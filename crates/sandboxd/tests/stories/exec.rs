//! Captured exec.

use fsa_model::sandboxd::{EXEC_OUTPUT_LIMIT, ExecResult};
use http::StatusCode;
use serde_json::json;

use crate::harness::{Sandbox, is_root, is_running, until};

#[tokio::test]
async fn a_command_returns_its_exit_code_and_both_outputs() {
    let sandbox = Sandbox::start().await;
    let result = sandbox
        .exec(json!({
            "command": ["sh", "-c", "cat; echo $GREETING $EXTRA; echo oops >&2; exit 7"],
            "stdin": "from outside\n",
            "env": {"EXTRA": "world"},
        }))
        .await;
    assert_eq!(
        result,
        ExecResult {
            exit_code: 7,
            stdout: "from outside\nhello world\n".into(),
            stderr: "oops\n".into(),
            truncated: false,
            timed_out: false,
        }
    );
    assert_eq!(sandbox.sh("kill -9 $$").await.exit_code, 137);
}

#[tokio::test]
async fn a_request_that_cannot_be_run_is_refused_with_the_reason() {
    let sandbox = Sandbox::start().await;
    std::fs::write(sandbox.project().join("text"), "no program").unwrap();
    for (request, field, word) in [
        (json!({"command": []}), "command", "empty"),
        (
            json!({"command": ["no-such-command"]}),
            "command",
            "no-such-command",
        ),
        (json!({"command": ["./text"]}), "command", "cannot be executed"),
        (json!({"command": ["true"], "cwd": "/nowhere"}), "cwd", "/nowhere"),
        (
            json!({"command": ["true"], "user": "nobody-knows"}),
            "user",
            "nobody-knows",
        ),
        (
            json!({"command": ["true"], "timeoutSeconds": 0}),
            "timeoutSeconds",
            "3600",
        ),
        (
            json!({"command": ["true"], "timeoutSeconds": 3601}),
            "timeoutSeconds",
            "3600",
        ),
    ] {
        let answer = sandbox.exec_raw(request.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{request}");
        assert_eq!(answer.json()["details"]["field"]["name"], field, "{request}");
        assert!(answer.error().contains(word), "{request}: {}", answer.error());
    }
    let answer = sandbox.exec_raw(json!({"command": "ls"})).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let answer = sandbox.exec_raw(json!({"command": ["true"], "comand": 1})).await;
    assert!(
        answer.error().contains("comand"),
        "an unknown field is named: {}",
        answer.error()
    );
}

#[tokio::test]
async fn a_timeout_kills_the_whole_group_even_a_grandchild_that_ignores_sigterm() {
    let sandbox = Sandbox::start().await;
    let script = "sh -c 'trap \"\" TERM HUP; echo $$ > grandchild; while :; do sleep 1; done' & wait";
    // On a slow machine a short limit ends before the grandchild has begun.
    for limit in [1, 5, 25, 125] {
        let result = sandbox
            .exec(json!({"command": ["sh", "-c", script], "timeoutSeconds": limit}))
            .await;
        assert_eq!((result.exit_code, result.timed_out), (124, true));
        let pid = std::fs::read_to_string(sandbox.project().join("grandchild")).unwrap_or_default();
        if !pid.is_empty() {
            assert!(!is_running(pid.trim()), "the grandchild still runs");
            return;
        }
    }
    panic!("the grandchild never began");
}

#[tokio::test]
async fn a_background_process_neither_delays_the_response_nor_dies() {
    let sandbox = Sandbox::start().await;
    let result = sandbox
        .exec(json!({
            "command": ["sh", "-c", "sh -c 'while :; do echo x; [ -e go ] && echo y > done && exit; sleep 0.05; done' & echo $!"],
            "timeoutSeconds": 3600,
        }))
        .await;
    assert_eq!(result.exit_code, 0);
    std::fs::write(sandbox.project().join("go"), "").unwrap();
    until("the background's work", async || {
        sandbox.project().join("done").exists().then_some(())
    })
    .await;
}

#[tokio::test]
async fn output_beyond_the_limit_is_dropped_and_the_command_continues() {
    let sandbox = Sandbox::start().await;
    let result = sandbox
        .sh("head -c 3000000 /dev/zero | tr '\\0' a; echo end >&2; exit 3")
        .await;
    assert_eq!(
        (result.exit_code, result.truncated, result.stderr.as_str()),
        (3, true, "end\n")
    );
    assert_eq!(result.stdout.len(), EXEC_OUTPUT_LIMIT);
}

#[tokio::test]
async fn input_that_the_command_does_not_read_does_not_block() {
    let sandbox = Sandbox::start().await;
    let stdin = "x".repeat(500_000);
    assert_eq!(
        sandbox
            .exec(json!({"command": ["true"], "stdin": stdin}))
            .await
            .exit_code,
        0
    );
    let counted = sandbox
        .exec(json!({"command": ["wc", "-c"], "stdin": stdin}))
        .await;
    assert_eq!(counted.stdout.trim(), "500000");
}

#[tokio::test]
async fn a_command_runs_as_the_person_with_its_own_environment_only() {
    let sandbox = Sandbox::start().await;
    let result = sandbox
        .sh("ls -l /proc/self/fd | grep -c ' -> '; grep -E '^Sig(Ign|Blk)' /proc/self/status; env")
        .await;
    let lines: Vec<_> = result.stdout.lines().collect();
    // Its three standard streams, and the folder that `ls` reads.
    assert_eq!(lines[0], "4", "{}", result.stdout);
    assert_eq!(lines[1], "SigBlk:\t0000000000000000");
    // Except for the two signals that the C library uses itself; they are inherited.
    let ignored = u64::from_str_radix(lines[2].rsplit('\t').next().unwrap(), 16).unwrap();
    assert_eq!(ignored & !(0b11 << 31), 0, "{}", lines[2]);
    assert!(
        !result.stdout.contains("CARGO"),
        "the environment of sandboxd is not the command's"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("PATH=") && line.contains(".local/bin"))
    );
}

#[tokio::test]
async fn a_command_can_run_as_root_only_if_sandboxd_is_root() {
    let sandbox = Sandbox::start().await;
    let answer = sandbox
        .exec_raw(json!({"command": ["id", "-u"], "user": "root"}))
        .await;
    if is_root() {
        assert_eq!(answer.json()["stdout"], "0\n");
        std::fs::create_dir(sandbox.folder.path().join("closed")).unwrap();
        let closed = sandbox.folder.path().join("closed");
        std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let answer = sandbox
            .exec_raw(json!({"command": ["true"], "cwd": closed}))
            .await;
        assert_eq!(
            answer.json()["details"]["field"]["name"],
            "cwd",
            "the person may not enter it"
        );
    } else {
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.error().contains("may not become"), "{}", answer.error());
    }
}

#[tokio::test]
async fn a_client_that_disconnects_kills_its_command() {
    let sandbox = Sandbox::start().await;
    let script = "echo $$ > pid; sleep 1000 & wait";
    let request = sandbox.exec_raw(json!({"command": ["sh", "-c", script], "timeoutSeconds": 3600}));
    let pid = tokio::select! {
        _ = request => panic!("it does not end by itself"),
        pid = until("the command", async || {
            let text = std::fs::read_to_string(sandbox.project().join("pid")).ok()?;
            text.trim().parse::<i32>().ok()
        }) => pid,
    };
    until("the end of the command", async || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    })
    .await;
}
