//! Process 1: reaping, idling, orderly stop, boot from descriptors.

use std::{
    fs,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use http::StatusCode;
use serde_json::json;

use crate::harness::{Sandbox, SandboxBuilder, TOKEN, is_root, is_running, until};

/// The states of the processes whose parent is `pid`.
fn children(pid: i32) -> Vec<(i32, char)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let (head, tail) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<_> = tail.split(' ').collect();
        if fields[1] == pid.to_string() {
            found.push((
                head.split(' ').next().unwrap().parse().unwrap(),
                fields[0].chars().next().unwrap(),
            ));
        }
    }
    found
}

#[tokio::test]
async fn orphans_are_reaped_and_no_exit_code_is_lost() {
    let sandbox = Sandbox::start().await;
    // Each command leaves an orphan that ends a little later.
    let orphans = (0..20).map(|code| {
        let sandbox = &sandbox;
        async move {
            sandbox
                .sh(&format!("(sleep 0.1; exit 9) >/dev/null 2>&1 & exit {code}"))
                .await
                .exit_code
        }
    });
    let codes = futures_util::future::join_all(orphans).await;
    assert_eq!(codes, (0..20).collect::<Vec<_>>());
    until("an empty sandbox", async || {
        children(sandbox.pid()).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_other_processes_sandboxd_does_not_wake_up() {
    let sandbox = Sandbox::start().await;
    sandbox.sh("true").await;
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", sandbox.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
            .unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let threads = || {
        fs::read_dir(format!("/proc/{}/task", sandbox.pid()))
            .unwrap()
            .count()
    };
    // The work of the command has ended when there is one thread and a second passes without a wake-up.
    let mut seen = (switches(), Instant::now());
    until("the end of the work", async || {
        let now = switches();
        if now != seen.0 || threads() > 1 {
            seen = (now, Instant::now());
        }
        (seen.1.elapsed() > Duration::from_secs(1)).then_some(())
    })
    .await;
    let before = switches();
    // Fixed, because it proves that nothing happens, in another process, whose clock cannot be paused:
    // as long as the longest polling interval.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(
        switches() <= before + 2,
        "it woke up {} times",
        switches() - before
    );
}

#[tokio::test]
async fn an_orderly_stop_sends_sigterm_first_and_leaves_no_process() {
    let script = "trap 'echo asked > asked; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let mut sandbox = SandboxBuilder::new()
        .with("startCommand", json!(script))
        .start()
        .await;
    sandbox.until_log("the start", |line| line.text == "up").await;
    let mut viewer = sandbox.terminal("main").await;
    viewer
        .type_text("trap '' HUP; sleep 12345 & echo job-$!.\n")
        .await;
    viewer.until_shown("\njob-").await;
    let job = viewer.until_shown(".").await;
    let free = sandbox
        .sh("setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' >/dev/null 2>&1 & echo $!")
        .await;
    let status = sandbox.stop().await;
    assert!(status.success(), "{status}");
    assert_eq!(
        fs::read_to_string(sandbox.project().join("asked")).unwrap(),
        "asked\n"
    );
    for pid in [job.trim_end_matches('.'), free.stdout.trim()] {
        assert!(!is_running(pid), "{pid} still runs");
    }
    viewer.until_end().await;
}

#[allow(unsafe_code)]
fn with_descriptors(command: &mut Command, listener: OwnedFd, boot: OwnedFd) {
    use std::os::unix::process::CommandExt;
    // SAFETY: system calls only; both descriptors live until the child has its copies. They are
    // far above 4, so the first copy does not close the second's source.
    unsafe {
        command.pre_exec(move || {
            for (from, to) in [(&listener, 3), (&boot, 4)] {
                if libc::dup2(from.as_raw_fd(), to) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

#[allow(unsafe_code)]
fn duplicate_above_boot_fds(descriptor: &impl AsRawFd) -> OwnedFd {
    // SAFETY: creates a new descriptor, which nothing else owns.
    unsafe { OwnedFd::from_raw_fd(libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100)) }
}

#[tokio::test]
async fn as_process_1_it_boots_from_its_descriptors_and_stops_every_process() {
    if !is_root() {
        // A pid namespace needs root; everything else about descriptors is the same without one.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let socket = folder.path().join("control.sock");
    let etc = folder.path().join("etc");
    fs::create_dir(&etc).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let boot = json!({"controlToken": TOKEN, "hostname": "box", "environment": {}}).to_string();
    std::io::Write::write_all(&mut writer, boot.as_bytes()).unwrap();
    drop(writer);
    let mut command = Command::new("unshare");
    command
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            env!("CARGO_BIN_EXE_fsa-sandboxd"),
            "--home",
        ])
        .arg(folder.path().join("home"))
        .arg("--etc")
        .arg(&etc)
        .stdin(Stdio::null());
    with_descriptors(
        &mut command,
        duplicate_above_boot_fds(&listener),
        duplicate_above_boot_fds(&reader),
    );
    let mut unshare = command.spawn().unwrap();

    let exec = async |script: &str| {
        // A client of the harness on this socket.
        let stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let body = json!({"command": ["sh", "-c", script]}).to_string();
        let request = Sandbox::builder(http::Method::POST, "/v1/exec")
            .body(http_body_util::Full::<bytes::Bytes>::new(body.into()));
        let response = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let bytes = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap()
            .to_bytes();
        connection.abort();
        serde_json::from_slice::<fsa_model::sandboxd::ExecResult>(&bytes).unwrap()
    };
    let reported = exec("ps -o pid= -p 1; cat /proc/1/comm; ls /proc/self/fd | wc -l").await;
    assert_eq!(
        reported.stdout.split_whitespace().collect::<Vec<_>>(),
        ["1", "fsa-sandboxd", "4"],
        "{reported:?}"
    );
    let left =
        exec("setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' >/dev/null 2>&1 & echo $!").await;
    assert!(!left.stdout.is_empty());
    // The runtime stops a sandbox with a signal to process 1, which has another pid outside.
    let init = children(unshare.id().cast_signed())[0].0;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(init),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let status = until("the end", async || unshare.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
}
