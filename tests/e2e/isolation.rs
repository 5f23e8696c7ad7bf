//! Isolation tests: forbidden access, tried from inside a sandbox and from outside.

use std::{
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use fsa_model::{
    Phase, Size,
    api::{CreateProject, Database},
};
use fsa_tests::{
    PreviewClient, World,
    public_host::{self, PublicHost},
};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

/// Shell command that tries to connect with bash's /dev/tcp for so many seconds: `open` where the port accepts,
/// else `refused`.
fn dial_for(seconds: u8, host: &str, port: u16) -> String {
    format!(
        "timeout {seconds} bash -c 'exec 3<>/dev/tcp/{host}/{port}' 2>/dev/null && echo open || echo refused"
    )
}

/// The same for a port that must not accept. Where nothing answers, the time passes.
fn dial(host: &str, port: u16) -> String {
    dial_for(2, host, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_reaches_the_internet_and_nothing_that_is_private() {
    let world = World::start(&["--allow-networks", public_host::RANGE]);
    let api = world.api();
    api.create_running("one").await;
    api.create_running("two").await;
    static VISITS: AtomicUsize = AtomicUsize::new(0);
    let host = PublicHost::start(80, |listener| async move {
        while listener.accept().await.is_ok() {
            VISITS.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert_eq!(
        api.shell("one", &dial_for(60, &host.address.to_string(), 80))
            .await
            .trim(),
        "open"
    );
    // The kernel has the connection before the host accepts it.
    while VISITS.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(VISITS.load(Ordering::Relaxed), 1);

    let address = "ip -4 -o addr show scope global 2>/dev/null | awk '{print $4}' | cut -d/ -f1";
    let two = api.shell("two", address).await.trim().to_owned();
    assert!(two.starts_with("100."), "{two:?}");
    api.shell("two", "setsid python3 -m http.server 9000 >/dev/null 2>&1 &")
        .await;
    api.until_port("two", 9000).await;
    assert_eq!(
        api.shell("two", &dial_for(60, "127.0.0.1", 9000)).await.trim(),
        "open"
    );
    let machine = api
        .shell("one", "getent hosts $(hostname) >/dev/null; awk '$2==\"00000000\"{print $3}' /proc/net/route | head -1; true")
        .await;
    drop(machine);
    for (host, port) in [
        (two.as_str(), 9000),
        ("169.254.169.254", 80),
        ("169.254.1.1", world.port()),
        ("10.0.0.1", 443),
        ("172.16.0.1", 443),
        ("192.168.1.1", 80),
    ] {
        assert_eq!(
            api.shell("one", &dial(host, port)).await.trim(),
            "refused",
            "{host}:{port}"
        );
    }
    // The machine's own addresses, with the control plane behind them.
    for address in machine_addresses() {
        let answer = api.shell("one", &dial(&address, world.port())).await;
        assert_eq!(answer.trim(), "refused", "{address}");
    }
    drop(host);
    world.finish().await;
}

fn machine_addresses() -> Vec<String> {
    nix::ifaddrs::getifaddrs()
        .expect("interfaces")
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .filter(|address| !address.is_loopback())
        .map(|address| address.to_string())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_reached_from_its_own_sandbox_only() {
    let world = World::start(&[]);
    let api = world.api();
    api.create_running("mine").await;
    api.create_running("theirs").await;
    let theirs: Database = api.get("/api/projects/theirs/database?reveal=true").await;
    let url = theirs
        .connection_string
        .expect("revealed")
        .replace("?schema=public", "");
    assert_eq!(
        api.shell("theirs", &format!("psql '{url}' -Atc 'select 42'"))
            .await
            .trim(),
        "42"
    );
    let stolen = api.try_exec("mine", &["psql", &url, "-Atc", "select 42"]).await;
    assert_ne!(stolen.exit_code, 0);
    assert!(!stolen.stdout.contains("42"), "{stolen:?}");
    // A superuser of its own server, which holds nothing of others.
    let role = api.shell("mine", "psql -Atc 'select current_user'").await;
    let all = "psql -d postgres -Atc \"select string_agg(datname, ' ' order by datname) from pg_database\"";
    assert_eq!(
        api.shell("mine", all).await.trim(),
        format!("{} postgres template0 template1", role.trim())
    );
    let files = "psql -Atc \"select count(*) from pg_ls_dir('/home', true, true)\"";
    assert_eq!(api.shell("mine", files).await.trim(), "0");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandboxes_root_is_an_unprivileged_user_on_the_machine_and_stays_one() {
    let world = World::start(&[]);
    let api = world.api();
    api.create_running("root").await;
    let run = |script: &'static str| {
        let api = api.clone();
        async move {
            let result: Value = api
                .send(
                    Method::POST,
                    "/api/projects/root/exec",
                    &json!({"command": ["/bin/sh", "-c", script], "user": "root"}),
                )
                .await;
            format!(
                "{}{}",
                result["stdout"].as_str().unwrap_or_default(),
                result["stderr"].as_str().unwrap_or_default()
            )
        }
    };
    assert_eq!(run("id -u").await.trim(), "0");
    let map = run("cat /proc/self/uid_map").await;
    let outside: u64 = map
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("a mapping");
    assert!(outside >= 65_536, "{map}");
    assert!(run("grep NoNewPrivs /proc/self/status").await.contains('1'));
    for script in [
        "mount -t tmpfs none /mnt",
        "unshare -r true",
        "cat /proc/kcore",
        "echo 1 > /proc/sys/kernel/panic",
        "ip link add x type dummy",
        "dmesg",
        "ls /sys/firmware/efi",
    ] {
        let result: Value = api
            .send(
                Method::POST,
                "/api/projects/root/exec",
                &json!({"command": ["/bin/sh", "-c", script], "user": "root"}),
            )
            .await;
        assert_ne!(result["exitCode"], 0, "{script}: {result}");
    }
    world.finish().await;
}

/// Takes all that the kernel gives, keeps it in the background, and prints how much it was: inotify instances,
/// pseudo-terminals, message queues and timers.
const GREEDY: &str = r#"
import ctypes, os, signal
c = ctypes.CDLL(None, use_errno=True)
taken = []
def count(take, most=2_000):
    number = 0
    while number < most and take(number):
        number += 1
    taken.append(number)
def terminal(_):
    try:
        return os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return 0
timer = ctypes.c_void_p()
count(lambda _: c.inotify_init1(0) >= 0)
count(terminal)
count(lambda number: c.mq_open(b"/%d" % number, os.O_RDWR | os.O_CREAT, 0o600, None) >= 0)
count(lambda _: c.syscall(222, 1, None, ctypes.byref(timer)) == 0, 200_000)
print(*taken, flush=True)
if os.fork() == 0:
    for fd in range(3):
        os.dup2(os.open("/dev/null", os.O_RDWR), fd)
    signal.pause()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_takes_all_it_can_get_of_the_kernel_takes_nothing_from_others() {
    let world = World::start(&[]);
    let api = world.api();
    for name in ["greedy", "modest"] {
        api.create_running(name).await;
    }
    let take = |name: &'static str| {
        let api = api.clone();
        async move {
            let result = api.try_exec(name, &["python3", "-c", GREEDY]).await;
            assert_eq!(result.exit_code, 0, "{result:?}");
            let taken: Vec<u32> = result
                .stdout
                .split_whitespace()
                .map(|word| word.parse().expect("a number"))
                .collect();
            <[u32; 4]>::try_from(taken).expect("four numbers")
        }
    };
    let greedy = take("greedy").await;
    let modest = take("modest").await;

    let [_, terminals, ..] = greedy;
    assert!(terminals <= 128, "{greedy:?}");
    for (what, (greedy, modest)) in ["inotify instances", "terminals", "message queues", "timers"]
        .into_iter()
        .zip(greedy.into_iter().zip(modest))
    {
        // What sandboxd holds itself differs by one or two.
        assert!(
            modest > 0 && greedy.abs_diff(modest) <= 8,
            "{what}: {greedy}, and then {modest}"
        );
    }
    nix::sys::inotify::Inotify::init(nix::sys::inotify::InitFlags::IN_CLOEXEC)
        .expect("the machine's own programs can watch files");
    world.finish().await;
}

/// Prints what a sandbox may not do of a list of things, with the error's name.
const REFUSED: &str = r#"
import ctypes, errno, resource, socket
c = ctypes.CDLL(None, use_errno=True)
def attempt(what, act):
    try:
        act()
        print(what, "allowed")
    except OSError as e:
        print(what, errno.errorcode[e.errno])
def call(number, *arguments):
    if c.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
for family in (1, 2, 3, 9, 10, 15, 17, 21, 24, 29, 30, 31, 38, 40, 44):
    attempt("family %d" % family, lambda: socket.socket(family, socket.SOCK_DGRAM))
for protocol in (0, 4, 6, 9, 12, 15, 16):
    attempt("netlink %d" % protocol, lambda: socket.socket(16, socket.SOCK_RAW, protocol))
for family in (1, 2, 30):
    attempt("pair %d" % family, lambda: socket.socketpair(family))
buffer = ctypes.create_string_buffer(64)
for name, number in (("io_setup", 206), ("modify_ldt", 154), ("memfd_secret", 447), ("move_pages", 279),
                     ("migrate_pages", 256)):
    attempt(name, lambda: call(number, 0, buffer, 0, 0, 0, 0))
print("core", *resource.getrlimit(resource.RLIMIT_CORE))
print("oom", open("/proc/self/oom_score_adj").read().strip())
"#;

#[tokio::test(flavor = "multi_thread")]
async fn rarely_used_parts_of_the_kernel_are_out_of_a_sandboxs_reach() {
    let world = World::start(&[]);
    let api = world.api();
    api.create_running("probe").await;
    let result = api.try_exec("probe", &["python3", "-c", REFUSED]).await;
    assert_eq!(result.exit_code, 0, "{result:?}");
    let mut expected = String::new();
    for family in [1, 2, 3, 9, 10, 15, 17, 21, 24, 29, 30, 31, 38, 40, 44] {
        let answer = if [1, 2, 10].contains(&family) {
            "allowed"
        } else {
            "EAFNOSUPPORT"
        };
        expected += &format!("family {family} {answer}\n");
    }
    for protocol in [0, 4, 6, 9, 12, 15, 16] {
        let answer = if [0, 4].contains(&protocol) {
            "allowed"
        } else {
            "EPROTONOSUPPORT"
        };
        expected += &format!("netlink {protocol} {answer}\n");
    }
    expected += "pair 1 allowed\npair 2 EAFNOSUPPORT\npair 30 EAFNOSUPPORT\n";
    for name in [
        "io_setup",
        "modify_ldt",
        "memfd_secret",
        "move_pages",
        "migrate_pages",
    ] {
        expected += &format!("{name} ENOSYS\n");
    }
    expected += "core 0 0\noom 500\n";
    assert_eq!(result.stdout, expected);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_find_the_limits_of_their_sandbox() {
    let world = World::start(&[]);
    let api = world.api();
    api.create_as(CreateProject {
        name: "micro".into(),
        template: Some("host".into()),
        size: Some(Size::Micro),
        ..CreateProject::default()
    })
    .await;
    api.until_running("micro").await;

    // Version 2, then version 1.
    let memory =
        "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    assert_eq!(
        api.shell("micro", memory).await.trim(),
        (256_u64 << 20).to_string()
    );
    let processor = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us";
    assert!(
        api.shell("micro", processor).await.starts_with("20000"),
        "{}",
        api.shell("micro", processor).await
    );
    assert_eq!(
        api.shell("micro", "node -p 'process.constrainedMemory()'")
            .await
            .trim(),
        (256_u64 << 20).to_string()
    );
    assert_eq!(api.shell("micro", "nproc").await.trim(), "1");
    // Its own group is all that it sees of the machine's, and only to read.
    let groups = api
        .shell("micro", "cut -d: -f3 /proc/self/cgroup | sort -u")
        .await;
    assert_eq!(groups, "/\n");
    let own = api
        .try_exec(
            "micro",
            &["/bin/sh", "-c", "find /sys/fs/cgroup -writable -type f | head -3"],
        )
        .await;
    assert_eq!(own.stdout, "", "{own:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_of_a_sandbox_reads_no_more_of_the_machines_files_than_other_users() {
    let world = World::start(&[]);
    let api = world.api();
    let file = |mode: u32| {
        let file = tempfile::Builder::new()
            .prefix("fsa-test-")
            .tempfile_in("/usr/local/share")
            .expect("a file of the machine");
        std::fs::write(file.path(), "content").expect("written");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("permissions");
        file
    };
    let (readable, own, group) = (file(0o644), file(0o600), file(0o640));
    api.create_running("host").await;
    for user in ["root", "dev"] {
        for (file, expected) in [(&readable, "content"), (&own, ""), (&group, "")] {
            let result: Value = api
                .send(
                    Method::POST,
                    "/api/projects/host/exec",
                    &json!({"command": ["cat", file.path()], "user": user}),
                )
                .await;
            assert_eq!(result["stdout"], expected, "{user}: {result}");
        }
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_sees_nothing_and_a_request_without_a_sign_in_is_refused() {
    let world = World::start(&[]);
    let api = world.api();
    let project = api.create_running("private").await;
    let invited: Value = api.send(Method::POST, "/api/users/invites", &json!({})).await;
    let link = invited["url"].as_str().expect("a link");
    let secret = link.split_once('#').expect("a fragment").1;
    let http = reqwest::Client::new();
    let response = http
        .post(format!("{}/api/auth/link", world.url()))
        .header(header::ORIGIN, world.url())
        .json(&json!({"token": secret, "login": "guest"}))
        .send()
        .await
        .expect("an answer");
    assert!(response.status().is_success(), "{:?}", response.text().await);
    let cookie = response.headers()[header::SET_COOKIE]
        .to_str()
        .expect("a cookie")
        .split(';')
        .next()
        .expect("a pair")
        .to_owned();
    for path in [
        format!("/api/projects/{}", project.id),
        "/api/projects/private".into(),
        format!("/api/sandbox/{}", project.id),
        format!("/api/projects/{}/environment?reveal=true", project.id),
        format!("/api/projects/{}/database?reveal=true", project.id),
        format!("/api/projects/{}/events?follow=false", project.id),
        format!("/api/projects/{}/logs?follow=false", project.id),
        format!("/api/projects/{}/files?path=.&list=true", project.id),
    ] {
        let request = http.get(format!("{}{path}", world.url()));
        let guest = request
            .try_clone()
            .expect("a request")
            .header(header::COOKIE, &cookie)
            .send()
            .await
            .expect("an answer");
        assert_eq!(guest.status(), StatusCode::NOT_FOUND, "{path}");
        let anonymous = request.send().await.expect("an answer");
        assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    let anonymous = PreviewClient::anonymous(&world).open("private", 3000, "/").await;
    assert_ne!(anonymous.status, StatusCode::OK);
    assert!(
        anonymous.status.is_client_error() || anonymous.status.is_redirection(),
        "{anonymous:?}"
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_log_an_argument_an_event_or_unencrypted_on_the_disk() {
    const SECRET: &str = "s3cr3t-value-that-nobody-prints";
    let world = World::start(&[]);
    let api = world.api();
    api.create_as(CreateProject {
        name: "secrets".into(),
        template: Some("host".into()),
        env_vars: [("API_KEY".into(), SECRET.into())].into(),
        ..CreateProject::default()
    })
    .await;
    api.until_running("secrets").await;
    assert_eq!(api.shell("secrets", "printenv API_KEY").await.trim(), SECRET);
    let database: Database = api.get("/api/projects/secrets/database?reveal=true").await;
    let url = database.connection_string.expect("revealed");
    let password = url
        .split(':')
        .nth(2)
        .and_then(|rest| rest.split('@').next())
        .expect("a password")
        .to_owned();
    let _ = api.try_exec("secrets", &["/bin/false"]).await;
    let events: Value = api.get("/api/projects/secrets/events?follow=false").await;
    let mut places = vec![("events", events.to_string()), ("log", world.log())];
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        if let Ok(line) = std::fs::read(entry.path().join("cmdline")) {
            places.push(("an argument", String::from_utf8_lossy(&line).into_owned()));
        }
    }
    for secret in [SECRET, password.as_str(), world.token.as_str()] {
        for (place, text) in &places {
            assert!(!text.contains(secret), "a secret is in {place}: {text}");
        }
        for folder in ["control", "runner/sandboxes", "run", "logs"] {
            #[allow(clippy::disallowed_methods, reason = "grep reads every file of a folder")]
            let found = std::process::Command::new("grep")
                .args(["-rlaF", "--exclude-dir=upper", secret])
                .arg(world.data().join(folder))
                .output()
                .expect("grep runs");
            assert!(
                found.stdout.is_empty(),
                "{}",
                String::from_utf8_lossy(&found.stdout)
            );
        }
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_or_a_delete_wins_over_a_start_that_finishes_later() {
    let world = World::start(&[]);
    let api = world.api();
    api.create("stopped").await;
    let _: Value = api
        .send(Method::POST, "/api/projects/stopped/stop", &json!({}))
        .await;
    api.until("stopped", Phase::Stopped).await;
    api.create("deleted").await;
    api.delete("deleted").await;
    assert_eq!(api.projects().await.len(), 1);
    assert_eq!(api.sandbox("stopped").await.status, Phase::Stopped);
    world.finish().await;
}
