//! Backup tests: a project with files and a database is restored as a new one, on this server and on another, after the
//! server was killed, and by the command line; restic reads the repository.

use std::{path::Path, process::Command, time::Duration};

use fsa_model::{
    Size,
    api::{CreateProject, Page},
    backup::{Backup, BackupState},
};
use fsa_tests::{Api, World};
use reqwest::{Method, StatusCode};
use serde_json::json;

const BTRFS: &[&str] = &["--storage", "btrfs", "--storage-size-mib", "8192"];
const COPY: &[&str] = &["--storage", "copy"];
const PASSWORD: &str = "correct horse";
/// Between two looks at what is awaited.
const MOMENT: Duration = Duration::from_millis(50);

/// Files of each kind that a restore has to bring back, and a database with another one beside it.
const FILL: &str = r#"
    set -eu
    mkdir -p sub && echo one > sub/file && chmod 640 sub/file && touch -d '2001-02-03 04:05:06' sub/file
    ln -s ../sub/file link && ln sub/file hard && mkfifo pipe
    head -c 3000000 /dev/urandom > large && sha256sum large > sum
    printf x > "$(printf 'name\nwith line')"
    mkdir -p /var/tmp/app && echo app > /var/tmp/app/bin && chmod 751 /var/tmp/app/bin
    psql -qc "create table items (id int primary key, name text); insert into items select n, 'item ' || n from generate_series(1, 1000) n"
    psql -qc 'create database shadow'
    psql -q -d shadow -c "create table t as select 'in the other database' as text"
"#;

/// What [`FILL`] made, and the variable of the project.
const SHOW: &str = r#"
    cat sub/file; stat -c '%a %Y' sub/file; readlink link; test hard -ef sub/file && echo linked; test -p pipe && echo fifo
    sha256sum -c sum; ls -b | grep with; cat /var/tmp/app/bin; stat -c '%a %u' /var/tmp/app/bin .
    psql -Atc "select count(*), max(name) from items"; psql -At -d shadow -c 'select text from t'
    echo "$SECRET"
"#;

async fn create(api: &Api, name: &str) -> String {
    api.create_as(CreateProject {
        name: name.into(),
        template: Some("host".into()),
        size: Some(Size::Micro),
        env_vars: [("SECRET".to_owned(), "s3cret".to_owned())].into(),
        ..CreateProject::default()
    })
    .await;
    api.until_running(name).await;
    api.shell(name, FILL).await;
    api.shell(name, SHOW).await
}

/// The options of a server with a repository in `folder`.
fn options(folder: &Path, more: &[&str]) -> Vec<String> {
    let password = folder.join("password");
    std::fs::write(&password, PASSWORD).expect("a file");
    let repository = folder.join("repository");
    let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    let mut options = vec![
        "--backup-repository".to_owned(),
        text(&repository),
        "--backup-password-file".to_owned(),
        text(&password),
    ];
    options.extend(more.iter().map(|option| (*option).to_owned()));
    options
}

fn world(folder: &Path, more: &[&str]) -> World {
    let options = options(folder, more);
    World::start(&options.iter().map(String::as_str).collect::<Vec<_>>())
}

fn fsa(world: &World, arguments: &[&str]) -> String {
    let output = world.fsa(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn backup(world: &World, project: &str) -> Backup {
    let stored = fsa(world, &["backup", "create", project, "--json"]);
    let stored: Backup = serde_json::from_str(&stored).expect("a backup as JSON");
    assert_eq!(stored.state, BackupState::Ready);
    stored
}

async fn a_project_comes_back_from_its_backup(storage: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let world = world(folder.path(), storage);
    let api = world.api();
    let shown = create(&api, "shop").await;

    let first = backup(&world, "shop");
    let second = backup(&world, "shop");
    api.delete("shop").await;
    let id = first.id.to_string();
    let restored = fsa(&world, &["backup", "restore", &id, "--name", "again"]);

    assert!(restored.starts_with("again is RUNNING"), "{restored}");
    assert_eq!(api.shell("again", SHOW).await, shown);
    assert!(second.added_bytes < first.added_bytes / 4, "{first:?} {second:?}");
    let listed = fsa(&world, &["backup", "list"]);
    assert_eq!(listed.matches("shop").count(), 2, "{listed}");
    assert!(fsa(&world, &["backup", "verify", &id]).contains("verified"));
    fsa(&world, &["backup", "delete", &id]);

    let restic = Command::new("restic")
        .args(["--no-cache", "check", "--read-data", "--repo"])
        .arg(folder.path().join("repository"))
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .expect("restic is installed");
    assert!(restic.status.success(), "{restic:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_in_plain_folders_comes_back_from_its_backup() {
    a_project_comes_back_from_its_backup(COPY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_on_btrfs_comes_back_from_its_backup() {
    a_project_comes_back_from_its_backup(BTRFS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_with_other_keys_restores_a_backup() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = world(folder.path(), COPY);
    let shown = create(&world.api(), "shop").await;
    let stored = backup(&world, "shop");
    world.finish().await;

    let other = self::world(folder.path(), BTRFS);
    let found = fsa(&other, &["backup", "list", "--foreign"]);
    fsa(&other, &["backup", "restore", &stored.id.to_string()]);

    assert!(found.contains(&stored.id.to_string()), "{found}");
    assert_eq!(other.api().shell("shop", SHOW).await, shown);
    other.finish().await;
}

/// Waits until the server's log has `text` `count` times.
async fn until_logged(world: &World, text: &str, count: usize) {
    while world.log().matches(text).count() < count {
        tokio::time::sleep(MOMENT).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_stores_the_backup_and_restores_it_when_it_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = world(folder.path(), BTRFS);
    let api = world.api();
    let shown = create(&api, "shop").await;
    let backup: Backup = api
        .send(Method::POST, "/api/projects/shop/backups", &json!({}))
        .await;
    until_logged(&world, "made a volume from a snapshot", 1).await;
    world.crash();
    world.serve();

    let path = format!("/api/backups/{}", backup.id);
    let mut now: Backup = api.get(&path).await;
    while matches!(now.state, BackupState::Queued | BackupState::Running) {
        tokio::time::sleep(MOMENT).await;
        now = api.get(&path).await;
    }
    assert_eq!(now.state, BackupState::Ready, "{now:?}");
    let request = api.request(Method::POST, &format!("{path}/restore"));
    let (status, answer) = api.answer(request.json(&json!({"name": "again"}))).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    until_logged(&world, "made a volume from an archive", 1).await;
    world.crash();
    world.serve();
    api.until_running("again").await;

    assert_eq!(api.shell("again", SHOW).await, shown);
    let all: Page<Backup> = api.get("/api/backups").await;
    assert_eq!(all.items.len(), 1);
    world.finish().await;
}
