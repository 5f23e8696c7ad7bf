//! A private repository: git in the sandbox is let in, and what lets it in is nowhere in there.

use std::{convert::Infallible, path::Path, process::Command, sync::Arc};

use bytes::Bytes;
use fsa_model::{Repository, agent_api::GitLogin, api::CreateProject};
use fsa_tests::{
    World,
    internet::{self, PublicHost},
};
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;

const PASSWORD: &str = "hunter2-of-the-repository";
/// `fsa:` and the password, in base64 (RFC 7617).
const SHOWN: &str = "Basic ZnNhOmh1bnRlcjItb2YtdGhlLXJlcG9zaXRvcnk=";

#[allow(clippy::disallowed_methods, reason = "the subject is git")]
fn git(folder: &Path, arguments: &[&str]) {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .output()
        .expect("git runs");
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A bare repository that can be fetched as plain files (gitprotocol-http(5), dumb clients).
fn repository(folder: &Path) {
    std::fs::create_dir(folder.join("work")).expect("a folder");
    let work = folder.join("work");
    git(&work, &["init", "--quiet"]);
    std::fs::write(work.join("README"), "the private one\n").expect("a file");
    git(&work, &["add", "."]);
    git(&work, &["commit", "--quiet", "-m", "First"]);
    git(folder, &["clone", "--quiet", "--bare", "work", "private.git"]);
    git(&folder.join("private.git"), &["update-server-info"]);
}

async fn serve(listener: tokio::net::TcpListener, folder: Arc<Path>) {
    while let Ok((stream, _)) = listener.accept().await {
        let folder = Arc::clone(&folder);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&request, &folder);
                async move { Ok::<_, Infallible>(answer) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(request: &Request<Incoming>, folder: &Path) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let known = request
        .headers()
        .get("authorization")
        .is_some_and(|shown| shown == SHOWN);
    if !known {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        let challenge = "Basic realm=\"private\"".parse().expect("a header");
        response.headers_mut().insert("www-authenticate", challenge);
        return response;
    }
    let path = request.uri().path().trim_start_matches('/');
    match std::fs::read(folder.join(path)) {
        Ok(content) if !path.contains("..") => *response.body_mut() = Full::from(content),
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_is_cloned_and_fetched_and_its_password_is_nowhere_in_the_sandbox() {
    let folder = tempfile::tempdir().expect("a folder");
    repository(folder.path());
    let served: Arc<Path> = folder.path().into();
    let host = PublicHost::start(8000, move |listener| serve(listener, served));
    let world = World::start(&["--allow-networks", internet::RANGE]);
    let api = world.api();
    let url = format!("http://{}:8000/private.git", host.address);

    api.create_as(CreateProject {
        name: "private".into(),
        template: Some("host".into()),
        repository: Some(Repository {
            url: url.clone(),
            branch: None,
        }),
        git_credential: Some(GitLogin {
            username: "fsa".into(),
            password: PASSWORD.to_owned().into(),
        }),
        ..CreateProject::default()
    })
    .await;
    api.until_running("private").await;

    assert_eq!(api.shell("private", "cat README").await, "the private one\n");
    api.shell(
        "private",
        "git fetch --quiet origin && git ls-remote --exit-code origin HEAD",
    )
    .await;
    let other = url.replace("private.git", "other.git");
    let refused = api
        .try_exec(
            "private",
            &[
                "/bin/sh",
                "-c",
                &format!("GIT_TERMINAL_PROMPT=0 git ls-remote {other}"),
            ],
        )
        .await;
    assert_ne!(refused.exit_code, 0, "{refused:?}");
    let searched = "git config --list; env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; \
                    grep -rs 'hunter[2]' . ~ /tmp /run 2>/dev/null; true";
    let found = api.shell("private", searched).await;
    assert!(found.contains("git-credential"), "{found}");
    assert!(!found.contains("hunter2"), "{found}");
    let events: serde_json::Value = api.get("/api/projects/private/events?follow=false").await;
    assert!(!events.to_string().contains("hunter2") && !world.log().contains("hunter2"));

    let forgotten = world.fsa(&["git-credential", "forget", "private"]);
    assert!(forgotten.status.success());
    let refused = api
        .try_exec(
            "private",
            &["/bin/sh", "-c", "GIT_TERMINAL_PROMPT=0 git fetch origin"],
        )
        .await;
    assert_ne!(refused.exit_code, 0, "{refused:?}");
    world.finish().await;
}
