//! Secret leak tests: a day with every kind of secret, then a search for each of them in every place where
//! none may be: the sandbox's files and processes, its environment, logs, events, responses, and the raw
//! bytes of the databases on the disk. The search is repeated after the project is deleted. A word that is
//! not a secret shows that the search works.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use fsa_model::{
    Repository,
    api::{CreateProject, EncryptionKey, Page},
    task::{CreateTask, Task, TaskState},
};
use fsa_tests::{
    Api, World, exported,
    github::{self, Github},
    public_host::{self, PublicHost},
    scripted_llm::{self, ReceivedRequests, ScriptedTurn},
};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(300);
/// Not a secret: the search must find it in every place where it was put.
const WORD: &str = "plainword7Qm2";

/// A secret, and whether the environment of the sandbox's processes may have it.
struct Secret {
    what: &'static str,
    text: String,
    in_environment: bool,
}

fn secret(what: &'static str, text: impl Into<String>) -> Secret {
    Secret {
        what,
        text: text.into(),
        in_environment: false,
    }
}

/// Returns the secrets that these bytes contain.
fn found<'a>(secrets: &'a [Secret], bytes: &[u8]) -> Vec<&'a str> {
    secrets
        .iter()
        .filter(|secret| holds(bytes, secret.text.as_bytes()))
        .map(|secret| secret.what)
        .collect()
}

/// Whether the bytes contain the word. It searches for the first byte, since files are large.
fn holds(bytes: &[u8], word: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == word[0]) {
        rest = &rest[at..];
        if rest.starts_with(word) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Visits every file below `folder`, with its bytes. Files that are deleted meanwhile are skipped.
fn files(folder: &Path, each: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            files(&entry.path(), each);
        } else if kind.is_file()
            && let Ok(bytes) = fs::read(entry.path())
        {
            each(&entry.path(), &bytes);
        }
    }
}

/// Asserts that no file below `folder` contains a secret. Returns whether one contains the word.
fn searched(secrets: &[Secret], folder: &Path) -> bool {
    let mut word = false;
    files(folder, &mut |path, bytes| {
        let found = found(secrets, bytes);
        assert!(found.is_empty(), "{found:?} in {}", path.display());
        word |= holds(bytes, WORD.as_bytes());
    });
    word
}

/// Asserts that no command line on this machine contains a secret.
fn no_command_line_has(secrets: &[Secret]) {
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let found = found(secrets, &line);
        assert!(
            found.is_empty(),
            "{found:?} in the command line {}",
            String::from_utf8_lossy(&line)
        );
    }
}

/// The `Origin` header of the server's pages.
fn origin(world: &World) -> String {
    format!("http://localhost:{}", world.port())
}

async fn text(api: &Api, path: &str) -> String {
    let request = api.request(Method::GET, path);
    let response = request.send().await.expect("an answer");
    assert!(response.status().is_success(), "{path}: {}", response.status());
    response.text().await.expect("a body")
}

/// Waits until all values are encrypted with the newest key.
async fn resealed(api: &Api, keys: usize) -> Vec<EncryptionKey> {
    let wait = async {
        loop {
            let all = api.get::<Page<EncryptionKey>>("/api/keys").await.items;
            if all.len() == keys && all.iter().all(|key| key.current == (key.values > 0)) {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, wait)
        .await
        .expect("everything gets under the newest key")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaks_while_every_feature_is_used() {
    const KEY: &str = "sk-ofTheOperatorQ4";
    const VARIABLE: &str = "valueOfAVariableQ5";
    const PASSWORD: &str = "passwordOfAPersonQ6";
    const REFUSED: &str = "valueThatWasRefusedQ8";
    let received = Arc::new(Mutex::new(ReceivedRequests::default()));
    let script = vec![
        ScriptedTurn::Tool {
            name: "Bash",
            input: json!({"command": format!("echo {WORD} > notes"), "description": "Look around"}),
        },
        ScriptedTurn::Text("I have looked around."),
    ];
    let kept = Arc::clone(&received);
    let host = PublicHost::start(8000, move |listener| scripted_llm::serve(listener, script, kept));
    let repositories = tempfile::tempdir().expect("a folder");
    let github = Github::new(repositories.path());
    github.create("ada-l/day", "README", "the private one\n");
    let served = github.clone();
    let github_host = PublicHost::start(8000, move |listener| served.serve(listener));
    let github_url = format!("http://{}:8000", github_host.address);
    let of_github = github::options(&github_url);
    let image = exported("FSA_WEB_IMAGE");
    let mut options = vec![
        "--web-image",
        image.to_str().expect("a path"),
        "--allow-networks",
        public_host::RANGE,
    ];
    options.extend(of_github.iter().map(String::as_str));
    let credentials = format!(
        "ANTHROPIC_BASE_URL=http://{}:8000\nANTHROPIC_API_KEY={KEY}\n",
        host.address
    );
    let mut world = World::start_with_agents(&options, &credentials);
    let api = world.api();

    // A user signs in, by link and then by password.
    let link: Value = api.send(Method::POST, "/api/auth/links", &json!({})).await;
    let link = link["url"]
        .as_str()
        .expect("a link")
        .split_once('#')
        .expect("a token")
        .1
        .to_owned();
    let signed_in = reqwest::Client::new()
        .post(format!("{}/api/auth/link", world.url()))
        .json(&json!({"token": link}))
        .send()
        .await
        .expect("an answer");
    assert_eq!(signed_in.status(), StatusCode::OK);
    let cookie = signed_in.headers()[header::SET_COOKIE]
        .to_str()
        .expect("text")
        .to_owned();
    let pair = cookie.split(';').next().expect("a cookie").to_owned();
    let session = pair.split_once('=').expect("a value").1.to_owned();
    let set = reqwest::Client::new()
        .put(format!("{}/api/auth/password", world.url()))
        .header(header::COOKIE, pair)
        .header(header::ORIGIN, origin(&world))
        .json(&json!({"password": PASSWORD}))
        .send()
        .await
        .expect("an answer");
    assert!(
        set.status().is_success(),
        "{}",
        set.text().await.unwrap_or_default()
    );
    let by_password = world.url() + "/api/auth/password";
    for (password, expected) in [
        (PASSWORD, StatusCode::OK),
        ("wrongWrongQ9", StatusCode::UNAUTHORIZED),
    ] {
        let body = json!({"login": "owner", "password": password});
        let answer = reqwest::Client::new()
            .post(&by_password)
            .json(&body)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), expected);
    }

    // A project with every optional part, such as a repository at GitHub.
    github::link(&api).await;
    api.create_as(CreateProject {
        name: "day".into(),
        description: Some(WORD.into()),
        env_vars: [("OF_THE_PROJECT".to_owned(), VARIABLE.to_owned())].into(),
        repository: Some(Repository {
            url: format!("{github_url}/ada-l/day.git"),
            branch: None,
        }),
        ..CreateProject::default()
    })
    .await;
    api.until_running("day").await;
    let database: Value = api.get("/api/projects/day/database?reveal=true").await;
    let url = database["connectionString"].as_str().expect("a URL");
    let of_database = url.split([':', '@']).nth(2).expect("a password").to_owned();
    assert!(of_database.len() > 10, "{url}");
    let task: Task = api
        .send(
            Method::POST,
            "/api/projects/day/tasks",
            &CreateTask {
                prompt: "Look around".into(),
                ..CreateTask::default()
            },
        )
        .await;
    let path = format!("/api/projects/day/tasks/{}", task.id);
    let over = async {
        loop {
            let task: Task = api.get(&path).await;
            if task.state.is_over() {
                return task;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let ended = tokio::time::timeout(TIMEOUT, over).await.expect("the task ends");
    assert_eq!(ended.state, TaskState::Succeeded, "{ended:?}");
    let given = received.lock().expect("the received requests").keys.clone();
    assert!(
        given.iter().all(|key| key == KEY) && !given.is_empty(),
        "the model saw the real key"
    );
    assert_eq!(api.shell("day", "psql -Atc 'select 1'").await, "1\n");
    // git gets a credential, is authenticated, and stores nothing.
    api.shell(
        "day",
        "git add README && git -c user.name=a -c user.email=a@b commit --quiet --allow-empty -m Seen \
         && git push --quiet origin HEAD && git fetch --quiet && cat README",
    )
    .await;
    assert!(!github.secrets().is_empty(), "GitHub gave out a token");
    let refused = json!({"envVars": {"1NOT A NAME": REFUSED}});
    let (status, refusal) = api
        .answer(
            api.request(Method::PATCH, "/api/projects/day/environment")
                .json(&refused),
        )
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);

    // The key is rotated while the server works, and the old one is removed.
    let before = api.get::<Page<EncryptionKey>>("/api/keys").await.items;
    let rotated = world.fsa(&["keys", "rotate"]);
    assert!(
        rotated.status.success(),
        "{}",
        String::from_utf8_lossy(&rotated.stderr)
    );
    let after = resealed(&api, 2).await;
    assert!(
        after[1].values >= before[0].values && after[0].id == before[0].id,
        "{after:?}"
    );
    let rotated_at = |time: SystemTime| {
        let file = fs::File::options()
            .append(true)
            .open(world.data().join("keys/seal.key"));
        file.and_then(|file| file.set_modified(time))
            .expect("the key file");
    };
    // The rotation may be longer ago on a busy machine.
    rotated_at(SystemTime::now());
    let early = world.fsa(&["keys", "forget", &before[0].id]);
    assert!(String::from_utf8_lossy(&early.stderr).contains("less than a minute"));
    rotated_at(SystemTime::now() - TIMEOUT);
    let forgotten = world.fsa(&["keys", "forget", &before[0].id]);
    assert!(
        forgotten.status.success(),
        "{}",
        String::from_utf8_lossy(&forgotten.stderr)
    );
    let environment: Value = api.get("/api/projects/day/environment?reveal=true").await;
    assert_eq!(environment["envVars"]["OF_THE_PROJECT"], VARIABLE);

    let mut secrets = vec![
        secret("the operator's key", KEY),
        secret("a person's password", PASSWORD),
        secret("a value that was refused", REFUSED),
        secret("the API token", world.token.clone()),
        secret("the sign-in link", link),
        secret("the session", session),
        secret("a variable", VARIABLE),
        secret("the database's password", of_database),
    ];
    for secret in &mut secrets[6..] {
        secret.in_environment = true;
    }
    secrets.extend(
        github
            .secrets()
            .into_iter()
            .map(|text| secret("a token of GitHub", text)),
    );

    // The running sandbox: what exists only in memory, and the processes.
    for folder in ["/tmp", "/run", "/dev/shm"] {
        let request = api
            .request(
                Method::GET,
                &format!("/api/projects/day/files?path={folder}&user=root"),
            )
            .header(header::ACCEPT, "application/x-tar");
        let archive = request
            .send()
            .await
            .expect("an answer")
            .bytes()
            .await
            .expect("an archive");
        assert!(!archive.is_empty(), "{folder}");
        let found = found(&secrets, &archive);
        assert!(found.is_empty(), "{found:?} in {folder}");
    }
    let lines = api
        .shell("day", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
        .await;
    assert!(found(&secrets, lines.as_bytes()).is_empty(), "{lines}");
    no_command_line_has(&secrets);
    let environments = api
        .shell("day", "env; cat /proc/[0-9]*/environ 2>/dev/null; true")
        .await;
    let there = found(&secrets, environments.as_bytes());
    let expected: Vec<_> = secrets
        .iter()
        .filter(|one| one.in_environment)
        .map(|one| one.what)
        .collect();
    assert_eq!(there, expected, "exactly what was given to the project");

    // All output for people and programs.
    let mut texts = format!("{refusal}{}", world.log());
    for path in [
        "/api/projects",
        "/api/projects/day/events?follow=false",
        "/api/projects/day/logs?follow=false",
        &format!("{path}/steps?follow=false"),
        "/api/audit?format=jsonl",
        "/api/tokens",
        "/metrics",
    ] {
        texts += &text(&api, path).await;
    }
    let leaked = found(&secrets, texts.as_bytes());
    assert!(leaked.is_empty(), "{leaked:?}");
    assert!(texts.contains(WORD), "the search finds existing text");

    // The machine's disk, with all writes flushed: sandboxes' files, logs, the control cluster, the databases.
    let (status, answer) = api
        .answer(
            api.request(Method::POST, "/api/projects/day/stop")
                .json(&json!({})),
        )
        .await;
    assert!(status.is_success(), "{answer}");
    api.until("day", fsa_model::Phase::Stopped).await;
    world.drain();
    world.halt();
    let data = world.data();
    assert!(
        searched(&secrets, &data.join("runner/volumes")),
        "the agent's file is in the home volume"
    );
    assert!(
        searched(&secrets, &data.join("control")),
        "the description is in a row"
    );
    for folder in ["runner/sandboxes", "runner/databases", "run", "logs", "images"] {
        searched(&secrets, &data.join(folder));
    }

    // The same after the project is deleted, with its rows and its volume.
    world.serve();
    world.api().delete("day").await;
    world.drain();
    world.halt();
    assert!(
        !searched(&secrets, &data.join("runner/volumes")),
        "the agent's file is gone"
    );
    for folder in [
        "runner/sandboxes",
        "control",
        "runner/databases",
        "run",
        "logs",
        "images",
    ] {
        searched(&secrets, &data.join(folder));
    }
    world.serve();
    world.finish().await;
}
