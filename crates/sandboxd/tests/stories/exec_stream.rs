//! Streamed exec.

use fsa_model::{sandboxd::ExecMessage, tty::WindowSize};
use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Sandbox, Socket, is_running, until, within_timeout};

async fn begin(sandbox: &Sandbox, request: Value) -> Socket {
    let mut socket = sandbox.socket("/v1/exec", None).await;
    socket
        .send(Message::Text(request.to_string().into()))
        .await
        .unwrap();
    socket
}

async fn send_message(socket: &mut Socket, message: ExecMessage) {
    let text = serde_json::to_string(&message).unwrap();
    socket.send(Message::Text(text.into())).await.unwrap();
}

/// The next message: output bytes, or the last message.
async fn next(socket: &mut Socket) -> Result<(u8, Vec<u8>), ExecMessage> {
    loop {
        match within_timeout("a message", socket.next())
            .await
            .expect("a message")
            .unwrap()
        {
            Message::Binary(bytes) => return Ok((bytes[0], bytes[1..].to_vec())),
            Message::Text(text) => return Err(serde_json::from_str(&text).unwrap()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn input_and_output_are_streamed_while_the_command_runs() {
    let sandbox = Sandbox::start().await;
    let mut socket = begin(
        &sandbox,
        json!({"command": ["sh", "-c", "while read line; do echo got $line; done; echo end >&2; exit 5"]}),
    )
    .await;
    for word in ["one", "two"] {
        socket
            .send(Message::Binary(format!("\0{word}\n").into_bytes().into()))
            .await
            .unwrap();
        assert_eq!(
            next(&mut socket).await,
            Ok((1, format!("got {word}\n").into_bytes()))
        );
    }
    send_message(&mut socket, ExecMessage::Eof).await;
    assert_eq!(next(&mut socket).await, Ok((2, b"end\n".to_vec())));
    assert_eq!(
        next(&mut socket).await,
        Err(ExecMessage::Exit {
            exit_code: 5,
            timed_out: false
        })
    );
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group() {
    let sandbox = Sandbox::start().await;
    // Programs that have no signal handler.
    let script = "sleep 1000 & echo $!; exec sleep 1000";
    let mut socket = begin(&sandbox, json!({"command": ["sh", "-c", script]})).await;
    let (_, pid) = next(&mut socket).await.unwrap();
    send_message(&mut socket, ExecMessage::Signal { signal: 15 }).await;
    assert_eq!(
        next(&mut socket).await,
        Err(ExecMessage::Exit {
            exit_code: 143,
            timed_out: false
        })
    );
    let pid = String::from_utf8(pid).unwrap();
    until("the end of the other", async || {
        (!is_running(pid.trim())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_disconnects_kills_the_command() {
    let sandbox = Sandbox::start().await;
    let mut socket = begin(
        &sandbox,
        json!({"command": ["sh", "-c", "echo $$; sleep 1000 & wait"]}),
    )
    .await;
    let (_, pid) = next(&mut socket).await.unwrap();
    drop(socket);
    let folder = format!("/proc/{}", String::from_utf8(pid).unwrap().trim());
    until("the end of the command", async || {
        (!std::path::Path::new(&folder).exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_byte_arrives_at_a_slow_client() {
    let sandbox = Sandbox::start().await;
    let mut socket = begin(
        &sandbox,
        json!({"command": ["sh", "-c", "head -c 8000000 /dev/zero"]}),
    )
    .await;
    // The command has filled the pipe and the socket.
    until("the command to wait", async || {
        let waits = sandbox.sh("pgrep -x head >/dev/null && echo yes").await;
        (waits.stdout == "yes\n").then_some(())
    })
    .await;
    let mut bytes = 0;
    let last = loop {
        match next(&mut socket).await {
            Ok((1, piece)) => bytes += piece.len(),
            Ok(other) => panic!("{other:?}"),
            Err(last) => break last,
        }
    };
    assert_eq!(
        (bytes, last),
        (
            8_000_000,
            ExecMessage::Exit {
                exit_code: 0,
                timed_out: false
            }
        )
    );
}

#[tokio::test]
async fn input_flows_only_as_fast_as_the_command_reads() {
    let sandbox = Sandbox::start().await;
    let mut socket = begin(
        &sandbox,
        json!({"command": ["sh", "-c", "echo ready; sleep 0.3; wc -c"]}),
    )
    .await;
    assert_eq!(next(&mut socket).await, Ok((1, b"ready\n".to_vec())));
    let before = sandbox.resident_kib();
    let piece = [&[0][..], &vec![b'x'; 60_000]].concat();
    for _ in 0..200 {
        socket.send(Message::Binary(piece.clone().into())).await.unwrap();
    }
    assert!(
        sandbox.resident_kib() < before + 8 * 1024,
        "{} KiB after {before}",
        sandbox.resident_kib()
    );
    send_message(&mut socket, ExecMessage::Eof).await;
    assert_eq!(next(&mut socket).await, Ok((1, b"12000000\n".to_vec())));
}

#[tokio::test]
async fn a_command_that_cannot_start_is_reported_in_the_stream() {
    let sandbox = Sandbox::start().await;
    for (request, word, code) in [
        (
            json!({"command": ["no-such-command"]}),
            "no-such-command",
            Some(127),
        ),
        (json!({"command": ["/etc/passwd"]}), "/etc/passwd", Some(126)),
        (json!({"command": ["true"], "timeoutSeconds": 9999}), "3600", None),
        (json!({"wrong": 1}), "wrong", None),
    ] {
        let mut socket = begin(&sandbox, request).await;
        let Err(ExecMessage::Error { message, exit_code }) = next(&mut socket).await else {
            panic!("it was started")
        };
        assert_eq!(exit_code, code, "{message}");
        assert!(message.contains(word), "{message}");
    }
}

#[tokio::test]
async fn a_time_limit_ends_a_stream_as_well() {
    let sandbox = Sandbox::start().await;
    let mut socket = begin(
        &sandbox,
        json!({"command": ["sleep", "1000"], "timeoutSeconds": 1}),
    )
    .await;
    assert_eq!(
        next(&mut socket).await,
        Err(ExecMessage::Exit {
            exit_code: 124,
            timed_out: true
        })
    );
}

/// Output until it holds `text`.
async fn output_until(socket: &mut Socket, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let (stream, bytes) = next(socket).await.expect("output");
        assert_eq!(stream, 1);
        seen += &String::from_utf8_lossy(&bytes);
    }
    seen
}

async fn keys(socket: &mut Socket, text: &str) {
    let message = [b"\0", text.as_bytes()].concat();
    socket.send(Message::Binary(message.into())).await.unwrap();
}

#[tokio::test]
async fn a_command_on_a_terminal_has_its_size_its_keys_and_its_exit_code() {
    let sandbox = Sandbox::start().await;
    let script =
        "tty; stty size; echo $TERM; while read -r line; do stty size; echo \"got $line\"; done; exit 7";
    let mut socket = begin(
        &sandbox,
        json!({"command": ["sh", "-c", script], "tty": {"columns": 101, "rows": 33}}),
    )
    .await;
    let seen = output_until(&mut socket, "xterm-256color\r\n").await;
    assert!(seen.contains("/dev/pts/") && seen.contains("33 101"), "{seen}");

    send_message(
        &mut socket,
        ExecMessage::Resize(WindowSize {
            columns: 90,
            rows: 20,
        }),
    )
    .await;
    keys(&mut socket, "one\r").await;
    let seen = output_until(&mut socket, "got one\r\n").await;
    assert!(seen.contains("20 90"), "{seen}");

    send_message(&mut socket, ExecMessage::Eof).await;
    assert_eq!(
        next(&mut socket).await,
        Err(ExecMessage::Exit {
            exit_code: 7,
            timed_out: false
        })
    );
}

#[tokio::test]
async fn control_c_on_a_terminal_interrupts_the_command() {
    let sandbox = Sandbox::start().await;
    let size = json!({"columns": 80, "rows": 24});
    let mut socket = begin(
        &sandbox,
        json!({"command": ["sh", "-c", "echo ready; exec sleep 1000"], "tty": size}),
    )
    .await;
    output_until(&mut socket, "ready").await;
    keys(&mut socket, "\x03").await;
    let last = loop {
        if let Err(last) = next(&mut socket).await {
            break last;
        }
    };
    assert_eq!(
        last,
        ExecMessage::Exit {
            exit_code: 130,
            timed_out: false
        }
    );
}

#[tokio::test]
async fn an_interactive_shell_ends_with_its_client() {
    let sandbox = Sandbox::start().await;
    let mut socket = begin(
        &sandbox,
        json!({"command": ["sh", "-i"], "tty": {"columns": 80, "rows": 24}}),
    )
    .await;
    keys(&mut socket, "echo pid=$$=\r").await;
    let seen = loop {
        let seen = output_until(&mut socket, "\r\n").await;
        if let Some(pid) = seen
            .split("pid=")
            .filter_map(|rest| rest.split('=').next())
            .find(|word| word.parse::<u32>().is_ok())
        {
            break pid.to_owned();
        }
    };
    drop(socket);
    until("the end of the shell", async || {
        (!is_running(&seen)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_terminal_is_refused_where_nothing_is_streamed() {
    let sandbox = Sandbox::start().await;
    let request = json!({"command": ["true"], "tty": {"columns": 80, "rows": 24}});
    let answer = sandbox.exec_raw(request).await.expect(StatusCode::BAD_REQUEST);
    assert!(
        answer.error().contains("only when it is streamed"),
        "{}",
        answer.error()
    );
}
