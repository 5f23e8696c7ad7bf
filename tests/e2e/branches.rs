//! Branch tests on this machine: a branch is a copy of a living project, and neither changes the other.

use fsa_model::{
    Phase,
    api::{CreateProject, Page},
    branch::Branch,
    snapshot::{Snapshot, SnapshotCause},
};
use fsa_tests::{PreviewClient, World};
use reqwest::{Method, StatusCode};
use serde_json::json;

const BTRFS: [&str; 4] = ["--storage", "btrfs", "--storage-size-mib", "4096"];
/// Serves the project's folder at port 3000 in the background.
const SERVE: &str = "setsid python3 -m http.server 3000 >/dev/null 2>&1 </dev/null &";

async fn story(world: World) {
    let api = world.api();
    // Without a database on this machine.
    api.create_as(CreateProject {
        name: "shop".into(),
        template: Some("host".into()),
        env_vars: [(
            "DATABASE_URL".to_owned(),
            "postgresql://ada:x@db.example/shop".to_owned(),
        )]
        .into(),
        ..CreateProject::default()
    })
    .await;
    api.until_running("shop").await;
    api.shell("shop", &format!("echo old > note; {SERVE}")).await;
    api.until_port("shop", 3000).await;

    // Its programs run while it is copied.
    let branch: Branch = api
        .send(
            Method::POST,
            "/api/projects/shop/branches",
            &json!({"name": "fix"}),
        )
        .await;
    api.until("shop@fix", Phase::Running).await;

    assert_eq!(branch.name.as_str(), "fix");
    assert_eq!(api.shell("shop@fix", "cat note").await.trim(), "old");
    let url = async |project: &str| api.shell(project, "printenv DATABASE_URL").await;
    assert_eq!(url("shop@fix").await, url("shop").await);
    api.shell("shop@fix", &format!("echo fixed > note; {SERVE}"))
        .await;
    api.shell("shop", "echo new > note").await;
    assert_eq!(api.shell("shop@fix", "cat note").await.trim(), "fixed");
    api.until_port("shop@fix", 3000).await;
    let browser = PreviewClient::owner(&world);
    assert_eq!(browser.open("shop", 3000, "/note").await.body.trim(), "new");
    assert_eq!(
        browser.open("fix--shop", 3000, "/note").await.body.trim(),
        "fixed"
    );

    let deleted = world.fsa(&["branch", "delete", "shop", "fix", "--yes"]);
    assert!(
        deleted.status.success(),
        "{}",
        String::from_utf8_lossy(&deleted.stderr)
    );
    let gone = api.request(Method::GET, "/api/sandbox/shop@fix");
    assert_eq!(api.answer(gone).await.0, StatusCode::NOT_FOUND);
    assert_eq!(browser.open("shop", 3000, "/note").await.body.trim(), "new");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_has_the_files_of_a_living_project() {
    story(World::start(&[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_on_btrfs_has_them_too() {
    story(World::start(&BTRFS)).await;
}

async fn copies_the_database(world: World) {
    let api = world.api();
    api.create_running("shop").await;
    let sql = async |project: &str, statement: &str| {
        let script = format!("psql -v ON_ERROR_STOP=1 -qAtc \"{statement}\"");
        api.shell(project, &script).await.trim().to_owned()
    };
    let visitors = "select string_agg(name, ' ' order by name) from visitors";
    sql(
        "shop",
        "create table visitors (name text); insert into visitors values ('ada')",
    )
    .await;

    // A transaction is open while the files of the database are copied.
    api.shell(
        "shop",
        "setsid sh -c \"(echo 'begin; insert into visitors select 1;'; sleep 600) | psql -q\" \
         >/dev/null 2>&1 </dev/null &",
    )
    .await;
    let branch = json!({"name": "fix"});
    let _: Branch = api
        .send(Method::POST, "/api/projects/shop/branches", &branch)
        .await;
    api.until("shop@fix", Phase::Running).await;

    assert_eq!(sql("shop@fix", visitors).await, "ada");
    let url = async |project: &str| api.shell(project, "printenv DATABASE_URL").await;
    assert_eq!(url("shop@fix").await, url("shop").await);
    sql("shop@fix", "insert into visitors values ('grace')").await;
    sql("shop", "insert into visitors values ('linus')").await;
    assert_eq!(sql("shop", visitors).await, "ada linus");
    assert_eq!(sql("shop@fix", visitors).await, "ada grace");

    // Files and database of the branch become those of main; the branch and the earlier main are kept.
    api.shell("shop@fix", "echo fixed > note").await;
    let promoted = world.fsa(&["branch", "promote", "shop", "fix"]);
    let text = String::from_utf8_lossy(&promoted.stdout);
    assert!(
        promoted.status.success() && text.starts_with("shop is RUNNING"),
        "{promoted:?}"
    );
    assert_eq!(sql("shop", visitors).await, "ada grace");
    assert_eq!(api.shell("shop", "cat note").await.trim(), "fixed");
    sql("shop@fix", "insert into visitors values ('edsger')").await;
    assert_eq!(sql("shop", visitors).await, "ada grace");
    let kept: Page<Snapshot> = api.get("/api/projects/shop/snapshots").await;
    assert_eq!(kept.items[0].cause, SnapshotCause::BeforePromote);
    let undone = world.fsa(&["restore", "shop", &kept.items[0].id.to_string()]);
    assert!(undone.status.success(), "{undone:?}");
    assert_eq!(sql("shop", visitors).await, "ada linus");
    let deleted = world.fsa(&["branch", "delete", "shop", "fix", "--yes"]);
    assert!(
        deleted.status.success(),
        "{}",
        String::from_utf8_lossy(&deleted.stderr)
    );
    assert_eq!(sql("shop", visitors).await, "ada linus");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_has_the_database_of_a_living_project() {
    copies_the_database(World::start(&[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_on_btrfs_has_its_database_too() {
    copies_the_database(World::start(&BTRFS)).await;
}
