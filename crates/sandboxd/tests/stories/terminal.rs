//! Terminal sessions.

use fsa_model::tty::{self, WindowSize, input_queue::InputQueue};
use http::{Method, StatusCode};

use crate::harness::{Sandbox, SandboxBuilder, Viewer, find, is_root, is_running, until, within_timeout};

#[tokio::test]
async fn a_shell_of_the_person_opens_in_the_project() {
    let sandbox = Sandbox::start().await;
    let mut viewer = sandbox.terminal("main").await;
    viewer
        .type_text("echo $TERM,$COLORTERM,$GREETING,$(id -u),$PWD,$(stty size).\n")
        .await;
    let uid = if is_root() {
        "1000".into()
    } else {
        nix::unistd::geteuid().to_string()
    };
    let project = sandbox.project();
    viewer
        .until_shown(&format!(
            "xterm-256color,truecolor,hello,{uid},{},24 80.",
            project.display()
        ))
        .await;
    viewer.type_text("tty; [ -w $(tty) ] && echo mine\n").await;
    viewer.until_shown("/dev/pts/").await;
    viewer.until_shown("\nmine").await;
}

#[tokio::test]
async fn a_reconnect_replays_the_scrollback_of_the_same_shell() {
    let sandbox = Sandbox::start().await;
    let mut first = sandbox.terminal("main").await;
    first.type_text("secret=kept; echo first-$((1+1))\n").await;
    first.until_shown("first-2").await;
    drop(first);
    let mut again = sandbox.terminal("main").await;
    again.until_shown("first-2").await;
    again.type_text("echo value:$secret\n").await;
    again.until_shown("value:kept").await;
    let list = sandbox.get("/v1/terminals").await.json();
    assert_eq!(
        (list[0]["name"].as_str(), list[0]["viewers"].as_u64()),
        (Some("main"), Some(1))
    );
}

#[tokio::test]
async fn input_sent_on_a_dying_connection_is_written_once() {
    let sandbox = Sandbox::start().await;
    let mut keys = InputQueue::new("me".into());
    let mut first = sandbox.viewer_with_input_sequence("main", &mut keys).await;
    assert!(keys.push(b"echo one-$((1+"));
    first.send(keys.next_message().unwrap()).await;
    // It is unknown how much of it arrived, and the first connection is still read when the second is open.
    assert!(keys.push(b"1)).\n"));
    let mut second = sandbox.viewer_with_input_sequence("main", &mut keys).await;
    assert!(keys.push(b"echo two-$((1+1)).\n"));
    first.type_text("1)).\n").await;
    second.send(keys.next_message().unwrap()).await;

    let shown = second.until_shown("two-2.").await;

    assert_eq!(shown.matches("one-2.").count(), 1, "{shown}");
    // The session acknowledges all of it, and then nothing is sent a third time.
    within_timeout("the last acknowledgment", async {
        while second.taken.as_deref() != Some(b"38") {
            assert!(second.receive().await);
        }
    })
    .await;
    keys.acknowledge(b"38");
    drop((first, second));
    let mut third = sandbox.viewer_with_input_sequence("main", &mut keys).await;
    assert!(keys.push(b"echo three-$((1+1)).\n"));
    third.send(keys.next_message().unwrap()).await;
    let shown = third.until_shown("three-2.").await;
    assert_eq!(shown.matches("two-2.").count(), 1, "{shown}");
}

#[tokio::test]
async fn two_viewers_see_the_same_and_both_may_type() {
    let sandbox = Sandbox::start().await;
    let mut one = sandbox.terminal("shared").await;
    one.type_text("echo ready-$((1+1))\n").await;
    one.until_shown("ready-2").await;
    let mut two = sandbox.terminal("shared").await;
    two.until_shown("ready-2").await;
    two.type_text("echo from-$((1+1))\n").await;
    one.until_shown("from-2").await;
    two.until_shown("from-2").await;
}

#[tokio::test]
async fn a_read_only_viewer_sees_everything_and_changes_nothing() {
    let sandbox = Sandbox::start().await;
    let mut nothing = sandbox.watcher("shared").await;
    nothing
        .until_shown("there is no terminal `shared` to watch")
        .await;
    let mut one = sandbox.terminal("shared").await;
    one.type_text("echo ready-$((1+1))\n").await;
    one.until_shown("ready-2").await;
    let mut watcher = sandbox.watcher("shared").await;
    watcher.until_shown("ready-2").await;

    watcher.type_text("echo typed-$((1+1))\n").await;
    watcher
        .send(tty::resize(WindowSize { columns: 30, rows: 5 }))
        .await;
    // On the same connection, so that the messages before it have been handled.
    watcher.type_text("echo more\n").await;
    one.type_text("stty size; echo over-$((1+1))\n").await;

    let seen = watcher.until_shown("over-2").await;
    assert!(seen.contains("24 80"), "{seen}");
    one.type_text("echo last-$((1+1))\n").await;
    let seen = one.until_shown("last-2").await;
    assert!(!seen.contains("typed-"), "{seen}");
}

#[tokio::test]
async fn the_size_is_that_of_the_viewer_that_was_active_last() {
    let sandbox = Sandbox::start().await;
    let mut one = sandbox.terminal("main").await;
    one.type_text("stty size\n").await;
    one.until_shown("24 80").await;
    let mut two = sandbox.terminal("main").await;
    two.send(tty::resize(WindowSize {
        columns: 101,
        rows: 31,
    }))
    .await;
    two.type_text("stty size\n").await;
    two.until_shown("31 101").await;
    one.type_text("stty size\n").await;
    one.until_shown("24 80").await;
    drop(one);
    until("the other's window", async || {
        (sandbox.get("/v1/terminals").await.json()[0]["columns"] == 101).then_some(())
    })
    .await;
}

#[tokio::test]
async fn characters_that_come_in_pieces_arrive_whole() {
    let sandbox = Sandbox::start().await;
    let mut viewer = sandbox.terminal("main").await;
    viewer
        .type_text(
            "printf '\\303'; sleep 0.2; printf '\\251\\360\\237'; sleep 0.2; printf '\\230\\200.end'\n",
        )
        .await;
    viewer.until_shown("é😀.end").await;
    // The same for input that comes in pieces.
    viewer.type_text("echo cat-$((1+1)); cat\n").await;
    viewer.until_shown("cat-2\r\n").await;
    viewer.send(tty::input(&[0xc3])).await;
    viewer.send(tty::input(&[0xa9, b'!', b'\n'])).await;
    viewer.until_shown("é!\r\né!").await;
}

#[tokio::test]
async fn a_title_is_sent_to_present_and_later_viewers() {
    let sandbox = Sandbox::start().await;
    let mut viewer = sandbox.terminal("main").await;
    viewer
        .type_text("printf '\\033]0;my title\\007'; echo done-$((1+1))\n")
        .await;
    viewer.until_shown("done-2").await;
    until("the title", async || {
        let list = sandbox.get("/v1/terminals").await.json();
        (list[0]["title"] == "my title").then_some(())
    })
    .await;
    let mut later = sandbox.terminal("main").await;
    later.until_shown("done-2").await;
    later.type_text("echo again-$((1+1))\n").await;
    later.until_shown("again-2").await;
    assert_eq!(later.title, "my title");
}

#[tokio::test]
async fn the_end_of_the_shell_is_reported_and_the_next_viewer_gets_a_new_shell() {
    let sandbox = Sandbox::start().await;
    let mut viewer = sandbox.terminal("main").await;
    viewer.type_text("echo bye-$((1+1)); exit 3\n").await;
    viewer.until_shown("bye-2").await;
    let reason = viewer.until_end().await;
    assert!(reason.contains("exit code 3"), "{reason}");
    assert!(find(&viewer.seen, b"the shell has ended").is_some());
    until("its removal", async || {
        sandbox
            .get("/v1/terminals")
            .await
            .json()
            .as_array()
            .unwrap()
            .is_empty()
            .then_some(())
    })
    .await;
    let mut new = sandbox.terminal("main").await;
    new.type_text("echo new-$((1+1))\n").await;
    assert!(!new.until_shown("new-2").await.contains("bye"));
}

#[tokio::test]
async fn hanging_up_ends_the_shell_and_its_processes() {
    let sandbox = Sandbox::start().await;
    let mut viewer = sandbox.terminal("work").await;
    viewer
        .type_text("sleep 12345 & sh -c 'trap \"\" HUP; echo pid-$$.; sleep 12345'\n")
        .await;
    viewer.until_shown("\npid-").await;
    let pid = viewer.until_shown(".").await;
    let answer = sandbox.call(Method::DELETE, "/v1/terminals/work", "").await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    viewer.until_end().await;
    let pid = pid.trim_end_matches('.');
    assert!(!is_running(pid), "{pid} still runs");
    let answer = sandbox.call(Method::DELETE, "/v1/terminals/work", "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn control_c_reaches_the_program_in_the_foreground() {
    let sandbox = Sandbox::start().await;
    let mut viewer = sandbox.terminal("main").await;
    // The program prints a line when it is in the foreground. It has the signal's default action throughout: a handler
    // that runs just before a system call begins would not interrupt it.
    viewer
        .type_text("sh -c 'echo begin-$((1+1)); exec sleep 1000'\n")
        .await;
    viewer.until_shown("begin-2").await;
    viewer.type_text("\u{3}").await;
    viewer.type_text("echo after-$?\n").await;
    viewer.until_shown("after-130").await;
}

#[tokio::test]
async fn an_invalid_terminal_request_is_refused_before_the_upgrade() {
    let sandbox = Sandbox::start().await;
    for path in [
        "/v1/terminal?session=a/b",
        "/v1/terminal?user=nobody-knows",
        "/v1/terminal?session=x",
    ] {
        let answer = sandbox.get(path).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
    }
    let _first = sandbox.terminal("mine").await;
    if is_root() {
        let mut first = sandbox.terminal("mine").await;
        first.type_text("echo up-$((1+1))\n").await;
        first.until_shown("up-2").await;
        let socket = sandbox
            .socket("/v1/terminal?session=mine&user=root", Some(tty::SUBPROTOCOL))
            .await;
        let mut other = Viewer::hello(socket, 80, 24).await;
        assert!(other.until_end().await.contains("belongs to another user"));
    }
}

#[tokio::test]
async fn a_login_shell_finds_the_same_programs_as_exec() {
    let sandbox = SandboxBuilder::new()
        .with(
            "environment",
            serde_json::json!({"PATH": "/opt/tools:/usr/bin:/bin"}),
        )
        .start()
        .await;
    let mut viewer = sandbox.terminal("main").await;
    viewer.type_text("echo path=$FSA_PATH.\n").await;
    viewer.until_shown("path=/opt/tools:/usr/bin:/bin:").await;
}
