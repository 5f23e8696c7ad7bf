//! Browser tests of the web page: a real browser, a real server and real sandboxes. The stories are scripts
//! in `web/test/browser`; each gets a separate world here, which is checked for leftovers.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fsa_tests::{
    ReservedPort, World,
    cluster::Namespace,
    exported,
    public_host::{self, PublicHost},
    scripted_llm::{self, ReceivedRequests, ScriptedTurn},
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
};

/// Timeout of a story. The one of all screens takes a minute alone, and four minutes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Runs one story, and gives it what it requests of the world.
#[allow(clippy::disallowed_methods, reason = "the tests' subject is a program")]
async fn run_story(world: &mut World, name: &str, more: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are in a folder of the repository");
    let script = root.join("web/test/browser").join(format!("{name}.mjs"));
    let port = world.port();
    let mut child = Command::new(root.join("scripts/with-node.sh"))
        .arg("node")
        .arg(&script)
        .args(more)
        // Cookies and previews are for localhost, whatever address the server listens on.
        .env("FSA_URL", format!("http://localhost:{port}"))
        .env("FSA_TOKEN", &world.token)
        .env("FSA_SCREENSHOTS", shots(root, name))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node can be started");
    let mut answers = child.stdin.take().expect("standard input");
    let mut lines = BufReader::new(child.stdout.take().expect("standard output")).lines();
    let mut stderr = child.stderr.take().expect("standard error");
    let complaints = tokio::spawn(async move {
        let mut text = String::new();
        let _ = tokio::io::AsyncReadExt::read_to_string(&mut stderr, &mut text).await;
        text
    });
    let deadline = Instant::now() + TIMEOUT;
    let mut passed = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(line) = tokio::time::timeout(left, lines.next_line()).await else {
            panic!("the story {name} did not end within {TIMEOUT:?}");
        };
        let Some(line) = line.expect("lines") else { break };
        match line.as_str() {
            "request crash" => world.crash(),
            "request serve" => world.serve(),
            "passed" => passed = true,
            other => println!("{name}: {other}"),
        }
        if line.starts_with("request ") {
            answers.write_all(b"done\n").await.expect("an answer");
        }
    }
    let status = child.wait().await.expect("the end of node");
    let complaints = complaints.await.expect("standard error");
    assert!(status.success() && passed, "{name} ({status}):\n{complaints}");
}

/// Folder of the screenshots, which are build artifacts.
fn shots(root: &Path, name: &str) -> PathBuf {
    root.join("web/test-results").join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_creates_a_project_works_in_it_and_deletes_it() {
    let mut world = World::start(&[]);
    run_story(&mut world, "project-lifecycle", &[]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_share_a_terminal_across_a_server_crash_and_a_third_has_no_access() {
    let mut world = World::start(&[]);
    run_story(&mut world, "collaboration", &[]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_searches_splits_uploads_renames_and_confirms_what_cannot_be_undone() {
    let mut world = World::start(&[]);
    run_story(&mut world, "terminal-and-files", &[]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_edits_files_and_loses_no_text() {
    let mut world = World::start(&[]);
    run_story(&mut world, "editor", &[]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_copies_drops_downloads_shares_a_port_and_uses_the_keyboard_only() {
    let registry = ReservedPort::new();
    let address = format!("127.0.0.1:{}", registry.number);
    let mut world = World::start(&["--allow-registries", &address]);
    run_story(&mut world, "workspace-interactions", &[&address]).await;
    world.finish().await;
}

/// A server with GitHub, and with a region that nothing answers for: the discard port of this machine.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_signs_in_invites_limits_shares_and_disables() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        path.to_str().expect("a path of text").to_owned()
    };
    let kubeconfig = file(
        "kubeconfig",
        "apiVersion: v1\nkind: Config\ncurrent-context: far\n\
         clusters: [{name: far, cluster: {server: 'https://127.0.0.1:9'}}]\n\
         users: [{name: far, user: {token: none}}]\n\
         contexts: [{name: far, context: {cluster: far, user: far}}]\n",
    );
    let config = file(
        "fsa.toml",
        &format!("[regions.far]\nkubeconfig = \"{kubeconfig}\"\nallow_localhost = true\n"),
    );
    let secret = file("secret", "not-a-secret\n");
    let mut world = World::start(&[
        "--config",
        &config,
        "--github-client-id",
        "an-app",
        "--github-client-secret-file",
        &secret,
    ]);
    run_story(&mut world, "users-and-sharing", &[]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_runs_an_agent_and_reads_its_changes() {
    let script = vec![
        ScriptedTurn::Tool {
            name: "Write",
            input: json!({"file_path": "/home/dev/project/notes.txt", "content": "hello"}),
        },
        ScriptedTurn::Tool {
            name: "Bash",
            input: json!({"command": "until [ -e go ]; do sleep 0.1; done", "description": "Wait"}),
        },
        ScriptedTurn::Text("The notes are written."),
    ];
    let received = Arc::new(Mutex::new(ReceivedRequests::default()));
    let host = PublicHost::start(8000, move |listener| {
        scripted_llm::serve(listener, script, received)
    });
    let mut world = World::start_with_agents(
        &[
            "--web-image",
            exported("FSA_WEB_IMAGE").to_str().expect("a path of UTF-8"),
            "--allow-networks",
            public_host::RANGE,
        ],
        &format!(
            "ANTHROPIC_BASE_URL=http://{}:8000\nANTHROPIC_API_KEY=of-a-test\n",
            host.address
        ),
    );
    run_story(&mut world, "tasks", &[]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_commits_pushes_pulls_and_resolves_a_conflict() {
    let mut world = World::start(&[]);
    run_story(&mut world, "git", &[]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_creates_a_snapshot_and_restores_it() {
    let mut world = World::start(&[]);
    run_story(&mut world, "snapshots", &[]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_creates_branches_works_in_them_and_deletes_them() {
    let mut world = World::start(&[]);
    run_story(&mut world, "branches", &[]).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_creates_a_project_in_another_region_and_sees_its_stages() {
    let namespace = Namespace::new().with_postgres();
    let more = format!("reach = \"direct\"\n{}", namespace.databases());
    let settings = namespace.settings(&exported("FSA_TEST_KUBECONFIG"), &more);
    let settings = settings.path().to_str().expect("a path of UTF-8");
    let mut world = World::start(&["--config", settings]);
    run_story(&mut world, "regions", &[]).await;
    world.finish().await;
    assert_eq!(namespace.ours(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_in_the_preview_keeps_its_sign_in_where_all_hosts_are_one_site() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = folder.path().join("config.toml");
    let mut world = World::unserved(None, &["--config", settings.to_str().expect("a path of UTF-8")]);
    let origin = format!("http://www.fsa.localhost:{}", world.port());
    let text = format!("origin = \"{origin}\"\napps_domain = \"apps.fsa.localhost\"\n");
    std::fs::write(&settings, text).expect("the settings can be written");
    world = world.started();
    run_story(&mut world, "one-site", &[]).await;
    world.finish().await;
}

/// The URLs in a program's output, which end at white space or a quotation mark.
fn urls(output: &str) -> impl Iterator<Item = &str> {
    output
        .split(|end: char| end.is_whitespace() || end == '"')
        .filter(|word| word.starts_with("http://") || word.starts_with("https://"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_url_that_a_command_prints_opens_a_page() {
    let mut world = World::start(&[]);
    let application = "echo '<h1>The application</h1>' > index.html; exec python3 -m http.server 3000";
    let commands: &[&[&str]] = &[
        &[
            "project",
            "create",
            "todo",
            "--template",
            "host",
            "--start-command",
            application,
        ],
        &["project", "show", "todo"],
        &["project", "list"],
        &["stop", "todo"],
        &["start", "todo"],
        &["restart", "todo"],
        &["open", "todo", "--print"],
        &["port", "set", "todo", "3000", "--sharing", "private"],
        &["port", "set", "todo", "3000", "--sharing", "link"],
    ];
    let mut printed: Vec<String> = world.printed().to_vec();
    for arguments in commands {
        let json = [arguments, &["--json"][..]].concat();
        for arguments in [arguments, &json[..]] {
            // A project is created once.
            if arguments.contains(&"create") && arguments.contains(&"--json") {
                continue;
            }
            let output = world.fsa(arguments);
            let text =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            assert!(output.status.success(), "{arguments:?}: {text:?}");
            printed.extend(text);
        }
    }
    world.api().until_port("todo", 3000).await;
    let found: BTreeSet<&str> = printed.iter().flat_map(|text| urls(text)).collect();
    let (links, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|url| url.contains("/sign-in#"));
    for kind in ["--3000.", "view=terminal", "fsa_share", "127.0.0.1"] {
        assert!(others.iter().any(|url| url.contains(kind)), "{kind}: {others:?}");
    }

    run_story(&mut world, "printed-urls", &[links, others].concat()).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_screen_fits_a_phone_and_is_readable_in_both_themes() {
    screens("phone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_screen_fits_a_desktop_and_is_readable_in_both_themes() {
    screens("desk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_screen_fits_a_wide_display_in_both_themes() {
    screens("wide").await;
}

async fn screens(size: &str) {
    let mut world = World::start(&[]);
    run_story(&mut world, "screens", &[size]).await;
    world.finish().await;
}
