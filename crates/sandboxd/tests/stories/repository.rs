//! Repository clone before the first start.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use fsa_model::sandboxd::{LogSource, RepositoryState, StartCommand};
use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Sandbox, SandboxBuilder};

/// Repository with one commit, in a folder that all users can read.
fn repository(folder: &Path) {
    let script = "git init -q -b main . && echo one > file && mkdir sub && echo two > sub/file && git add . \
        && git -c user.name=n -c user.email=e@x commit -qm first && git branch other";
    fs::create_dir_all(folder).unwrap();
    let done = Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .status()
        .unwrap();
    assert!(done.success());
}

fn builder(url: &str) -> SandboxBuilder {
    SandboxBuilder::new().with("repository", json!({"url": url}))
}

fn leftovers(sandbox: &Sandbox) -> Vec<String> {
    let state = sandbox.home().join(".local/state/fsa");
    let Ok(entries) = fs::read_dir(state) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "cloned").collect()
}

fn source() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    repository(&folder.path().join("r"));
    let url = format!("file://{}/r", folder.path().display());
    (folder, url)
}

#[tokio::test]
async fn a_repository_is_there_before_the_start_command_runs() {
    let (_source, url) = source();
    let sandbox = builder(&url)
        .with("startCommand", json!("cat file sub/file; sleep 1000"))
        .start()
        .await;
    sandbox
        .until_status("cloned", |s| s.repository == RepositoryState::Cloned)
        .await;
    sandbox
        .until_log("the first file", |line| {
            line.source == LogSource::Stdout && line.text == "one"
        })
        .await;
    let branch = sandbox
        .sh("git status --short --branch; stat -c %U . | head -1")
        .await;
    assert!(branch.stdout.starts_with("## main...origin/main\n"), "{branch:?}");
    assert!(leftovers(&sandbox).is_empty(), "{:?}", leftovers(&sandbox));
}

#[tokio::test]
async fn a_repository_is_cloned_once_and_never_over_existing_work() {
    let (source, url) = source();
    let mut sandbox = builder(&url).start().await;
    sandbox
        .until_status("cloned", |s| s.repository == RepositoryState::Cloned)
        .await;
    sandbox.sh("rm -rf file .git; echo mine > new").await;
    drop(source);
    sandbox.restart().await;
    sandbox
        .until_status("cloned", |s| s.repository == RepositoryState::Cloned)
        .await;
    assert_eq!(sandbox.sh("ls").await.stdout, "new\nsub\n");
    assert_eq!(
        sandbox.call(Method::POST, "/v1/clone", "").await.status,
        StatusCode::CONFLICT
    );
}

#[tokio::test]
async fn a_failed_clone_leaves_nothing_reports_the_cause_and_can_be_retried() {
    let (source, url) = source();
    let hidden = source.path().join("hidden");
    fs::rename(source.path().join("r"), &hidden).unwrap();
    let sandbox = builder(&url)
        .with("startCommand", json!("cat file; sleep 1000"))
        .start()
        .await;
    let status = sandbox
        .until_status("failed", |s| {
            matches!(s.repository, RepositoryState::Failed { .. })
        })
        .await;
    let RepositoryState::Failed { message } = status.repository else {
        unreachable!()
    };
    assert!(message.contains("repository"), "git's message: {message}");
    assert_eq!(
        status.start_command,
        StartCommand::Waiting,
        "nothing is started without its files"
    );
    assert_eq!(fs::read_dir(sandbox.project()).unwrap().count(), 0);
    assert!(leftovers(&sandbox).is_empty(), "{:?}", leftovers(&sandbox));

    fs::rename(hidden, source.path().join("r")).unwrap();
    sandbox
        .call(Method::POST, "/v1/clone", "")
        .await
        .expect(StatusCode::ACCEPTED);
    sandbox
        .until_status("cloned", |s| s.repository == RepositoryState::Cloned)
        .await;
    sandbox
        .until_log("the file", |line| {
            line.source == LogSource::Stdout && line.text == "one"
        })
        .await;
}

#[tokio::test]
async fn credentials_in_gits_messages_are_not_reported() {
    let sandbox = builder("http://me:s3cret@127.0.0.1:1/r.git").start().await;
    sandbox
        .until_status("failed", |s| {
            matches!(s.repository, RepositoryState::Failed { .. })
        })
        .await;
    let reported = format!("{:?}{:?}", sandbox.status().await, sandbox.logs().await);
    assert!(
        reported.contains("127.0.0.1:1") && !reported.contains("s3cret"),
        "{reported}"
    );
}

/// Serves a folder over HTTP, as git's dumb protocol needs it: git refuses submodules of other folders.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn of(folder: &Path) -> Self {
        let mut child = Command::new("python3")
            .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("standard output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let port = line.split_whitespace().nth(5).expect("the port").to_owned();
        let url = format!("http://127.0.0.1:{port}");
        Self { child, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with the repository `lib`, and `app` with it as a submodule, served over HTTP.
fn with_submodule() -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    repository(&folder.path().join("lib"));
    repository(&folder.path().join("app"));
    let server = Server::of(folder.path());
    let script = format!(
        "git -C lib update-server-info && cd app && \
         git submodule --quiet add {}/lib/.git lib && git -c user.name=n -c user.email=e@x commit -qm lib && \
         git update-server-info",
        server.url
    );
    let done = Command::new("sh")
        .args(["-ec", &script])
        .current_dir(folder.path())
        .status()
        .unwrap();
    assert!(done.success());
    (folder, server)
}

#[tokio::test]
async fn submodules_are_cloned_too() {
    let (_folder, server) = with_submodule();
    let sandbox = builder(&format!("{}/app/.git", server.url)).start().await;
    let status = sandbox
        .until_status("cloned", |s| s.repository == RepositoryState::Cloned)
        .await;
    assert_eq!(status.clone_warning, None);
    let shown = sandbox
        .sh("cat lib/sub/file; git status --short; git -C lib status --short")
        .await;
    assert_eq!(shown.stdout, "two\n", "{shown:?}");
}

#[tokio::test]
async fn a_submodule_or_files_in_lfs_that_are_out_of_reach_are_a_warning() {
    let (folder, server) = with_submodule();
    fs::rename(folder.path().join("lib"), folder.path().join("hidden")).unwrap();
    let script = "echo '*.bin filter=lfs diff=lfs merge=lfs -text' > .gitattributes && \
        printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 5\n' 1 > a.bin && \
        git -c filter.lfs.clean=cat add . && git -c user.name=n -c user.email=e@x commit -qm lfs && git update-server-info";
    let done = Command::new("sh")
        .args(["-ec", script])
        .current_dir(folder.path().join("app"))
        .status()
        .unwrap();
    assert!(done.success());
    let sandbox = builder(&format!("{}/app/.git", server.url)).start().await;
    let status = sandbox
        .until_status("cloned", |s| s.repository == RepositoryState::Cloned)
        .await;
    let warning = status.clone_warning.expect("a warning");
    assert!(
        warning.contains("git lfs pull") && warning.contains("git submodule update --init"),
        "{warning}"
    );
    assert_eq!(sandbox.sh("cat file").await.stdout, "one\n");
}

#[tokio::test]
async fn a_branch_is_cloned_by_its_name() {
    let (_source, url) = source();
    let sandbox = SandboxBuilder::new()
        .with("repository", json!({"url": url, "branch": "other"}))
        .start()
        .await;
    sandbox
        .until_status("cloned", |s| s.repository == RepositoryState::Cloned)
        .await;
    assert_eq!(sandbox.sh("git branch --show-current").await.stdout, "other\n");
}

#[tokio::test]
async fn a_clone_that_was_complete_when_the_sandbox_died_is_moved() {
    let (_source, url) = source();
    let sandbox = builder(&url)
        .prepare_home(|home| {
            let complete = home.join(".local/state/fsa/clone.complete");
            repository(&complete);
            // A part of it was moved already.
            fs::rename(complete.join("sub"), home.join("project/sub")).unwrap();
        })
        .start()
        .await;
    sandbox
        .until_status("cloned", |s| s.repository == RepositoryState::Cloned)
        .await;
    assert_eq!(
        sandbox.sh("cat file sub/file; git status --short").await.stdout,
        "one\ntwo\n"
    );
    assert!(leftovers(&sandbox).is_empty());
}

#[tokio::test]
async fn files_without_a_clone_are_not_changed() {
    let (_source, url) = source();
    let sandbox = builder(&url)
        .prepare_home(|home| fs::write(home.join("project/mine"), "x").unwrap())
        .start()
        .await;
    let status = sandbox
        .until_status("failed", |s| {
            matches!(s.repository, RepositoryState::Failed { .. })
        })
        .await;
    assert!(
        format!("{status:?}").contains("has files in it already"),
        "{status:?}"
    );
    assert_eq!(sandbox.sh("ls").await.stdout, "mine\n");
}
