//! Control interface: authentication, status and usage.

use http::{Method, Request, StatusCode};
use serde_json::json;

use crate::harness::{Sandbox, SandboxBuilder, is_root};

#[tokio::test]
async fn without_the_token_every_route_refuses() {
    let sandbox = Sandbox::start().await;
    let routes = [
        (Method::GET, "/v1/status"),
        (Method::GET, "/v1/watch"),
        (Method::GET, "/v1/usage"),
        (Method::POST, "/v1/exec"),
        (Method::GET, "/v1/exec"),
        (Method::GET, "/v1/files?path=."),
        (Method::PUT, "/v1/files?path=x"),
        (Method::DELETE, "/v1/files?path=x"),
        (Method::POST, "/v1/move"),
        (Method::GET, "/v1/terminal"),
        (Method::GET, "/v1/terminals"),
        (Method::DELETE, "/v1/terminals/main"),
        (Method::GET, "/v1/logs"),
        (Method::POST, "/v1/restart-start-command"),
        (Method::POST, "/v1/clone"),
        (Method::CONNECT, "127.0.0.1:80"),
        (Method::GET, "/nowhere"),
    ];
    for (method, path) in routes {
        for token in [
            None,
            Some("Bearer wrong"),
            Some("Bearer "),
            Some("the-control-token"),
        ] {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(path)
                .header("host", "sandbox");
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            let answer = sandbox.request(request.body(Default::default()).unwrap()).await;
            assert_eq!(
                answer.status,
                StatusCode::UNAUTHORIZED,
                "{method} {path} {token:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_sandbox_reports_its_status_and_usage() {
    let sandbox = Sandbox::start().await;
    let status = sandbox.status().await;
    assert!(status.ready);
    assert!(!status.version.is_empty());
    let usage = sandbox.get("/v1/usage").await.expect(StatusCode::OK).json();
    assert!(usage["memoryBytes"].as_u64().unwrap() > 0, "{usage}");
    sandbox.get("/v1/nowhere").await.expect(StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_first_start_creates_the_persons_home() {
    let sandbox = SandboxBuilder::new()
        .with("nameservers", json!(["169.254.1.1"]))
        .start()
        .await;
    assert!(sandbox.project().is_dir());
    assert!(sandbox.home().join(".profile").exists(), "/etc/skel was copied");
    let etc = |name: &str| std::fs::read_to_string(sandbox.folder.path().join("etc").join(name)).unwrap();
    assert_eq!(etc("resolv.conf"), "nameserver 169.254.1.1\n");
    let who = sandbox
        .sh("id -u; id -G; echo $HOME; echo $USER; pwd; umask")
        .await;
    let lines: Vec<_> = who.stdout.lines().collect();
    if is_root() {
        assert_eq!(
            lines[..2],
            ["1000", "1000 4242"],
            "the groups of the sandbox's own file"
        );
        assert_eq!(lines[3], "dev");
        assert!(etc("passwd").contains("dev:x:1000:1000:"));
        assert!(etc("hosts").contains("127.0.1.1 box"));
    } else {
        assert_eq!(lines[0], nix::unistd::geteuid().to_string());
    }
    assert_eq!(lines[2], sandbox.home().to_str().unwrap());
    assert_eq!(lines[4], sandbox.project().to_str().unwrap());
    assert_eq!(lines[5], "0022");
}

#[tokio::test]
async fn without_its_boot_document_sandboxd_reports_it_and_exits() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_fsa-sandboxd"))
        .args(["--control", "/nowhere/socket", "--boot", "/nowhere/boot.json"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("there is no boot document"), "{stderr}");
}
