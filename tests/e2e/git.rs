//! Private repository tests: git in the sandbox is authenticated, and the sandbox never contains the
//! credential.

use std::{convert::Infallible, path::Path, sync::Arc};

use bytes::Bytes;
use fsa_model::{Repository, agent_api::GitLogin, api::CreateProject};
use fsa_tests::{
    Api, World,
    github::{self, Github, TOKEN_MARK, git, link},
    public_host::{self, PublicHost},
};
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use reqwest::Method;
use serde_json::{Value, json};

const PASSWORD: &str = "hunter2-of-the-repository";
/// `fsa:` and the password, in base64 (RFC 7617).
const SHOWN: &str = "Basic ZnNhOmh1bnRlcjItb2YtdGhlLXJlcG9zaXRvcnk=";

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
async fn a_private_repository_is_cloned_and_fetched_without_its_password_in_the_sandbox() {
    let folder = tempfile::tempdir().expect("a folder");
    repository(folder.path());
    let served: Arc<Path> = folder.path().into();
    let host = PublicHost::start(8000, move |listener| serve(listener, served));
    let world = World::start(&["--allow-networks", public_host::RANGE]);
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

    // git's message about a rejected credential is reported to the user who set it.
    let set = json!({"username": "fsa", "password": "outdated"});
    let _: Value = api
        .send(Method::PUT, "/api/projects/private/git-credential", &set)
        .await;
    let refused = api
        .try_exec(
            "private",
            &["/bin/sh", "-c", "GIT_TERMINAL_PROMPT=0 git fetch origin"],
        )
        .await;
    assert!(refused.stderr.contains("set another one"), "{refused:?}");
    let shown: Value = api.get("/api/projects/private/git-credential").await;
    assert!(shown["refusedAt"].is_string(), "{shown}");

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

/// A world whose people have accounts at a GitHub with these repositories.
fn world_with(github: &Github) -> (World, PublicHost) {
    let served = github.clone();
    let host = PublicHost::start(8000, move |listener| served.serve(listener));
    let url = format!("http://{}:8000", host.address);
    let github = github::options(&url);
    let mut options = vec!["--allow-networks", public_host::RANGE];
    options.extend(github.iter().map(String::as_str));
    let world = World::start(&options);
    (world, host)
}

/// Runs a git command in the sandbox, which may fail. Returns its exit code and output.
async fn git_output(api: &Api, script: &str) -> (i32, String) {
    let script = format!("export GIT_TERMINAL_PROMPT=0; {script}");
    let result = api.try_exec("shop", &["/bin/sh", "-c", &script]).await;
    (result.exit_code, result.stdout + &result.stderr)
}

/// Sends one of the panel's requests, which may fail.
async fn git_of(api: &Api, project: &str, what: &str, request: &Value) -> (u16, Value) {
    let path = format!("/api/projects/{project}/git/{what}");
    let (status, answer) = api.answer(api.request(Method::POST, &path).json(request)).await;
    (status.as_u16(), answer)
}

/// Works on the project `shop` through the panel, without a terminal.
async fn panel(world: &World, github: &Github) {
    let api = world.api();
    let shop = github.path("ada-l/shop");
    let fsa = |arguments: &[&str]| {
        let output = world.fsa(arguments);
        let all = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&all).into_owned(),
        )
    };
    api.put("shop", "package.json", r#"{"scripts": {"dev": "vite"}}"#)
        .await;
    let suggested: Value = api.get("/api/projects/shop/start-suggestion").await;
    assert_eq!(
        suggested,
        json!({"command": "[ -d node_modules ] || npm install; npm run dev", "file": "package.json"})
    );
    let (_, shown) = fsa(&["project", "show", "shop"]);
    assert!(
        shown.contains("fsa project set shop --start-command '[ -d node_modules ]"),
        "{shown}"
    );
    api.shell("shop", "rm package.json").await;
    api.put("shop", "sign", "open\n").await;
    api.put("shop", "README", "our shop\n").await;
    let status: Value = api.get("/api/projects/shop/git/status").await;
    assert_eq!(status["branch"], "main");
    assert_eq!(
        status["files"],
        json!([
            {"path": "README", "unstaged": "modified", "conflict": false},
            {"path": "sign", "unstaged": "untracked", "conflict": false},
        ])
    );
    let diff: Value = api.get("/api/projects/shop/git/diff?path=sign").await;
    assert!(diff["diff"].as_str().expect("a diff").contains("+open"), "{diff}");
    let (_, diff) = fsa(&["git", "diff", "shop"]);
    assert!(diff.contains("-the shop") && diff.contains("+our shop"), "{diff}");

    let (refused, nothing) = git_of(&api, "shop", "commit", &json!({"message": "Too early"})).await;
    assert_eq!(
        (refused, &nothing["details"]["name"]),
        (409, &json!("NothingToCommit"))
    );
    let (_, staged) = git_of(&api, "shop", "stage", &json!({"paths": ["sign", "README"]})).await;
    assert_eq!(staged["files"][0]["staged"], "modified");
    let (_, staged) = git_of(&api, "shop", "unstage", &json!({"paths": ["README"]})).await;
    assert_eq!(staged["files"][0]["unstaged"], "modified");
    let (_, committed) = git_of(&api, "shop", "commit", &json!({"message": "Open\n\n# Why not"})).await;
    assert_eq!(
        (&committed["ahead"], committed["files"].as_array().map(Vec::len)),
        (&json!(1), Some(1))
    );
    let (pushed, text) = fsa(&["git", "push", "shop"]);
    assert!(pushed, "{text}");
    assert_eq!(git(&shop, &["show", "main:sign"]), "open\n");
    let log = git(&shop, &["log", "-1", "--format=%an %ae %B", "main"]);
    assert!(
        log.starts_with("owner 1+ada-l@users.noreply.198.51.100."),
        "{log}"
    );
    assert!(log.contains("# Why not"), "{log}");

    // Another user pushes first, and then changes the same line.
    github.commit("ada-l/shop", "hours", "nine to five\n");
    let (_, _) = git_of(&api, "shop", "commit", &json!({"message": "Ours", "all": true})).await;
    let (refused, rejected) = git_of(&api, "shop", "push", &json!({})).await;
    assert_eq!(
        (refused, &rejected["details"]["name"]),
        (409, &json!("PushRejected")),
        "{rejected}"
    );
    let (code, pulled) = git_of(&api, "shop", "pull", &json!({})).await;
    assert_eq!(code, 200, "{pulled}");
    assert_eq!(api.shell("shop", "cat hours").await, "nine to five\n");
    github.commit("ada-l/shop", "README", "their shop\n");
    let (refused, conflict) = git_of(&api, "shop", "pull", &json!({})).await;
    assert_eq!(
        (refused, &conflict["details"]["name"]),
        (409, &json!("MergeConflict"))
    );
    let message = conflict["details"]["message"].as_str().expect("a message");
    assert!(
        message.contains("README") && message.contains("abort"),
        "{message}"
    );
    let status: Value = api.get("/api/projects/shop/git/status").await;
    assert_eq!(
        (&status["merging"], &status["files"]),
        (&json!(true), &json!([{"path": "README", "conflict": true}]))
    );
    let (aborted, text) = fsa(&["git", "abort", "shop"]);
    assert!(aborted, "{text}");
    let (refused, _) = git_of(&api, "shop", "abort", &json!({})).await;
    assert_eq!(refused, 409, "there is no merge any more");
    assert_eq!(api.shell("shop", "cat README").await, "our shop\n");
    // The user resolves the conflict.
    let (refused, _) = git_of(&api, "shop", "pull", &json!({})).await;
    assert_eq!(refused, 409);
    api.put("shop", "README", "the team's shop\n").await;
    let (code, merged) = git_of(&api, "shop", "commit", &json!({"message": "Both", "all": true})).await;
    assert_eq!((code, &merged["merging"]), (200, &json!(false)), "{merged}");
    let (code, pushed) = git_of(&api, "shop", "push", &json!({})).await;
    assert_eq!((code, &pushed["ahead"]), (200, &json!(0)), "{pushed}");
    assert_eq!(git(&shop, &["show", "main:README"]), "the team's shop\n");
}

/// Publishes a project that was created without a repository.
async fn publish(world: &World, github: &Github) {
    let api = world.api();
    api.create_running("stall").await;
    api.put("stall", "README", "a stall\n").await;
    api.put("stall", ".env", "KEY=secret\n").await;
    let status: Value = api.get("/api/projects/stall/git/status").await;
    assert_eq!(status["repository"], false, "{status}");
    let (refused, none) = git_of(&api, "stall", "pull", &json!({})).await;
    assert_eq!((refused, &none["details"]["name"]), (409, &json!("NoRepository")));
    let (refused, taken) = git_of(&api, "stall", "publish", &json!({"name": "shop"})).await;
    assert_eq!(refused, 409, "{taken}");
    assert!(
        taken["details"]["message"]
            .as_str()
            .expect("why")
            .contains("already exists"),
        "{taken}"
    );

    let published = world.fsa(&["git", "publish", "stall"]);

    assert!(
        published.status.success(),
        "{}",
        String::from_utf8_lossy(&published.stderr)
    );
    let stall = github.path("ada-l/stall");
    let files = git(&stall, &["ls-tree", "--name-only", "main"]);
    assert_eq!(files, ".gitignore\nREADME\n", "no secret of it");
    api.put("stall", "prices", "low\n").await;
    let (_, _) = git_of(
        &api,
        "stall",
        "commit",
        &json!({"message": "Prices", "all": true}),
    )
    .await;
    let (code, pushed) = git_of(&api, "stall", "push", &json!({})).await;
    assert_eq!(
        (code, &pushed["upstream"]),
        (200, &json!("origin/main")),
        "{pushed}"
    );
    assert_eq!(git(&stall, &["show", "main:prices"]), "low\n");
    let (refused, _) = git_of(&api, "stall", "publish", &json!({})).await;
    assert_eq!(refused, 409, "it has an origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_of_a_linked_account_works_without_its_token_in_the_sandbox() {
    let folder = tempfile::tempdir().expect("a folder");
    let github = Github::new(folder.path());
    github.create("ada-l/shop", "README", "the shop\n");
    github.create("ada-l/diary", "README", "the diary\n");
    let (world, host) = world_with(&github);
    let (api, at) = (world.api(), format!("http://{}:8000", host.address));
    link(&api).await;

    api.create_as(CreateProject {
        name: "shop".into(),
        template: Some("host".into()),
        repository: Some(Repository {
            url: format!("{at}/ada-l/shop.git"),
            branch: Some("main".into()),
        }),
        ..CreateProject::default()
    })
    .await;
    api.until_running("shop").await;

    assert_eq!(api.shell("shop", "cat README").await, "the shop\n");
    panel(&world, &github).await;
    publish(&world, &github).await;
    // The account can access this repository, but the project cannot.
    let (code, text) = git_output(&api, &format!("git ls-remote {at}/ada-l/diary.git")).await;
    assert_ne!(code, 0, "{text}");

    let searched = format!(
        "git config --list --show-origin; env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; \
         grep -rs '{}[_]' . ~ /tmp /run 2>/dev/null; true",
        TOKEN_MARK.trim_end_matches('_')
    );
    let found = api.shell("shop", &searched).await;
    assert!(
        found.contains("git-credential") && !found.contains(TOKEN_MARK),
        "{found}"
    );
    let events: Value = api.get("/api/projects/shop/events?follow=false").await;
    assert!(!events.to_string().contains(TOKEN_MARK) && !world.log().contains(TOKEN_MARK));

    // A refused token is renewed if possible; otherwise the user has to link the account again.
    github.refuse_tokens();
    let (code, text) = git_output(&api, "git fetch origin").await;
    assert!(code != 0 && text.contains("the token was renewed"), "{text}");
    let (code, text) = git_output(&api, "git fetch origin").await;
    assert_eq!(code, 0, "{text}");
    github.revoke();
    let (code, text) = git_output(&api, "git fetch origin").await;
    assert!(code != 0 && text.contains("link the account again"), "{text}");
    let (code, text) = git_output(&api, "git fetch origin").await;
    assert!(code != 0 && text.contains("link the account again"), "{text}");
    let mine: Value = api.get("/api/me/github").await;
    assert_eq!(mine["account"]["needsSignIn"], true);
    link(&api).await;
    let (code, text) = git_output(&api, "git fetch origin").await;
    assert_eq!(code, 0, "{text}");
    world.finish().await;
}
