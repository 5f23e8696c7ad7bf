//! Kubernetes tests: `fsa serve` on this machine, with a region on a real cluster.

use fsa_model::{Phase, api::CreateProject};
use fsa_tests::{
    PreviewClient, ReservedPort, TestTerminal, World,
    cluster::Namespace,
    exported,
    ingress::{Controller, IngressBrowser, cookie_of},
};
use reqwest::{Method, header};
use tempfile::NamedTempFile;

/// A world with a region `cluster`, which is not the default.
fn world(namespace: &Namespace, reach: &str) -> (World, NamedTempFile) {
    let databases = format!("{{ provider = \"postgres\", dsn = \"{}\" }}", namespace.dsn);
    world_with(namespace, reach, &databases)
}

fn world_with(namespace: &Namespace, reach: &str, databases: &str) -> (World, NamedTempFile) {
    let file = settings(namespace, reach, databases, "");
    let world = World::start(&["--config", file.path().to_str().expect("a path of UTF-8")]);
    (world, file)
}

/// A settings file with the cluster as a region, and `more` of its table.
fn settings(namespace: &Namespace, reach: &str, databases: &str, more: &str) -> NamedTempFile {
    namespace.settings(
        &exported("FSA_TEST_KUBECONFIG"),
        &format!("reach = \"{reach}\"\ndatabases = {databases}\n{more}"),
    )
}

const SERVER: &str = "import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'served by ' + os.uname().nodename.encode())
print('listening', flush=True)
http.server.HTTPServer(('127.0.0.1', 3000), Page).serve_forever()
";

async fn the_main_job(reach: &str) {
    let namespace = Namespace::new().with_postgres();
    let (world, settings) = world(&namespace, reach);
    let api = world.api();
    api.create("here").await;
    api.create_as(CreateProject {
        name: "there".into(),
        region: Some("cluster".into()),
        start_command: Some("python3 server.py".into()),
        ..CreateProject::default()
    })
    .await;
    api.until_running("here").await;
    api.until_running("there").await;

    // Files and exec.
    api.put("there", "server.py", SERVER).await;
    assert_eq!(api.shell("there", "hostname; id -u").await, "there\n1000\n");
    let pods = namespace.kubectl(&[
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/managed-by=fullstackagent",
        "-o",
        "name",
    ]);
    assert_eq!(pods.lines().count(), 1, "{pods}");

    // The database, which the sandbox's network policy allows.
    let reached = api
        .shell(
            "there",
            "echo $DATABASE_URL; bash -c 'exec 3<>/dev/tcp/$PGHOST/$PGPORT' && echo reached",
        )
        .await;
    assert!(
        reached.starts_with("postgresql://") && reached.ends_with("reached\n"),
        "{reached}"
    );

    // The terminal, and a page through the gateway.
    let mut terminal = TestTerminal::open(&api, "there", "main").await;
    terminal.type_in("echo typed-$((40 + 2))\r").await;
    terminal.until("typed-42").await;
    api.until_port("there", 3000).await;
    let page = PreviewClient::owner(&world).open("there", 3000, "/").await;
    assert_eq!(page.body, "served by there");
    let logs = world.fsa(&["logs", "there"]);
    assert!(
        String::from_utf8_lossy(&logs.stdout).contains("listening"),
        "{logs:?}"
    );
    drop(terminal);

    // A stop keeps the files.
    let stopped = world.fsa(&["stop", "there"]);
    assert!(stopped.status.success(), "{stopped:?}");
    api.until("there", Phase::Stopped).await;
    let started = world.fsa(&["start", "there"]);
    assert!(started.status.success(), "{started:?}");
    api.until_running("there").await;
    assert!(api.shell("there", "cat server.py").await.contains("served by"));

    // The diagnosis of a cluster.
    let settings = settings.path().to_str().expect("a path of UTF-8");
    let debug = world.fsa(&["debug", "there", "--config", settings]);
    let output = String::from_utf8_lossy(&debug.stdout);
    assert!(
        debug.status.success() && output.contains("1 of 1 ready"),
        "{debug:?}"
    );
    let doctor = world.fsa(&["doctor", "--config", settings]);
    let output = String::from_utf8_lossy(&doctor.stdout);
    for point in [
        "cluster's API",
        "permissions",
        "databases",
        "storage class",
        "terminals",
        "database URLs",
    ] {
        assert!(output.contains(&format!("\u{2713} {point}")), "{point}: {output}");
    }
    without_this_machine(&world, &namespace, settings);

    world.finish().await;
    assert_eq!(namespace.ours(), Vec::<String>::new());
}

/// A server for clusters alone needs a database, and little of this machine: neither a runtime nor
/// PostgreSQL's programs.
fn without_this_machine(world: &World, namespace: &Namespace, settings: &str) {
    let doctor = |dsn: &str| {
        let output = world.fsa(&[
            "doctor",
            "--no-local",
            "--listen",
            "127.0.0.1:0",
            "--database-dsn",
            dsn,
            "--config",
            settings,
        ]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    let (code, output) = doctor(&namespace.dsn);
    assert_eq!(code, Some(0), "{output}");
    assert!(
        output.contains("\u{2713} control database   PostgreSQL "),
        "{output}"
    );
    assert!(output.ends_with("Projects can be created.\n"), "{output}");
    for point in [
        "kernel",
        "user",
        "runtime",
        "runner",
        "limits",
        "PostgreSQL",
        "template",
    ] {
        let line = output
            .lines()
            .find(|line| line.split_whitespace().nth(1) == Some(point));
        assert_eq!(line, None, "{output}");
    }
    let (code, output) = doctor("postgresql://nobody:nothing@127.0.0.1:9/nowhere");
    assert_eq!(code, Some(1), "{output}");
    assert!(
        output.contains("\u{2717} control database   127.0.0.1:9 cannot be used"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_runs_on_a_cluster_whose_pods_are_reached_directly() {
    the_main_job("direct").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_runs_on_a_cluster_that_is_reached_through_its_api_only() {
    the_main_job("port-forward").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_reported_with_the_clusters_message() {
    let namespace = Namespace::new().with_postgres();
    let (world, _settings) = world(&namespace, "direct");
    let api = world.api();
    api.create_as(CreateProject {
        name: "imageless".into(),
        region: Some("cluster".into()),
        image: Some("127.0.0.1:9/nothing:1".into()),
        ..CreateProject::default()
    })
    .await;
    let sandbox = api.until("imageless", Phase::Error).await;
    let error = sandbox.error.expect("an error");
    assert!(
        error
            .failure
            .kubernetes_status
            .as_deref()
            .unwrap_or_default()
            .contains("ImagePull"),
        "{error:?}"
    );
    // The cluster may have another warning first.
    let could_not = "The image 127.0.0.1:9/nothing:1 could not be pulled";
    api.until_event_matching("imageless", could_not, |event| {
        event["kind"] == "warned" && event["message"].to_string().contains(could_not)
    })
    .await;
    let events = world.fsa(&["events", "imageless"]);
    let output = String::from_utf8_lossy(&events.stdout);
    assert!(output.contains(could_not), "{events:?}");
    world.finish().await;
    assert_eq!(namespace.ours(), Vec::<String>::new());
}

/// The cluster has a stand-in for KubeBlocks' operator, which follows its published contract
/// (`tests/cluster/kubeblocks.sh DIR start v1`).
async fn a_database_of_kubeblocks(reach: &str) {
    let namespace = Namespace::new();
    let (world, settings) = world_with(&namespace, reach, "{ provider = \"kubeblocks\" }");
    let api = world.api();
    api.create_as(CreateProject {
        name: "blocks".into(),
        region: Some("cluster".into()),
        ..CreateProject::default()
    })
    .await;
    api.until_running("blocks").await;
    let output = api
        .shell(
            "blocks",
            "echo $PGUSER@$PGHOST; bash -c 'exec 3<>/dev/tcp/$PGHOST/$PGPORT' && echo reached",
        )
        .await;
    assert!(
        output.starts_with("blocks_agentruntime_") && output.ends_with("reached\n"),
        "{output}"
    );
    let clusters = namespace.kubectl(&[
        "get",
        "clusters.apps.kubeblocks.io",
        "-o",
        "jsonpath={.items[*].status.phase}",
    ]);
    assert_eq!(clusters, "Running");
    let settings = settings.path().to_str().expect("a path of UTF-8");
    let doctor = world.fsa(&["doctor", "--config", settings]);
    let output = String::from_utf8_lossy(&doctor.stdout);
    assert!(output.contains("KubeBlocks serves"), "{output}");

    // The project's database is deleted with the project, and not before.
    let stopped = world.fsa(&["stop", "blocks"]);
    assert!(stopped.status.success(), "{stopped:?}");
    let clusters = namespace.kubectl(&["get", "clusters.apps.kubeblocks.io", "-o", "name"]);
    assert_eq!(clusters.lines().count(), 1, "{clusters}");
    world.finish().await;
    assert_eq!(namespace.ours(), Vec::<String>::new());
    let clusters = namespace.kubectl(&["get", "clusters.apps.kubeblocks.io", "-o", "name"]);
    assert_eq!(clusters, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_has_a_database_of_kubeblocks_that_is_reached_directly() {
    a_database_of_kubeblocks("direct").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_has_a_database_of_kubeblocks_that_is_reached_through_the_api() {
    a_database_of_kubeblocks("port-forward").await;
}

/// Signs in with a link. Returns the cookie of the owner's browser.
async fn session(world: &World) -> String {
    let link: serde_json::Value = world.api().send(Method::POST, "/api/auth/links", &()).await;
    let url = link["url"].as_str().expect("an address");
    let token = url.split_once('#').expect("a token").1;
    let answer = reqwest::Client::new()
        .post(format!("http://{}/api/auth/link", world.address))
        .json(&serde_json::json!({"token": token}))
        .send()
        .await
        .expect("an answer");
    cookie_of(&answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_controller_admits_the_owner_to_the_application_and_the_terminal() {
    let namespace = Namespace::new().with_postgres();
    let port = ReservedPort::new();
    let listen = format!("127.0.0.1:{}", port.number);
    let more = format!(
        "network.ingress_controller = [{{ ipBlock = {{ cidr = \"0.0.0.0/0\" }} }}]
expose = {{ domain = \"cluster.test\", sign_in_url = \"http://{listen}\" }}
"
    );
    let databases = format!("{{ provider = \"postgres\", dsn = \"{}\" }}", namespace.dsn);
    let file = settings(&namespace, "direct", &databases, &more);
    let mut world = World::unserved(
        None,
        &["--config", file.path().to_str().expect("a path of UTF-8")],
    );
    world.address = listen;
    let world = world.started();
    let api = world.api();
    api.create_as(CreateProject {
        name: "shop".into(),
        region: Some("cluster".into()),
        start_command: Some("python3 server.py".into()),
        ..CreateProject::default()
    })
    .await;
    api.until_running("shop").await;
    api.put("shop", "server.py", &SERVER.replace("127.0.0.1", "0.0.0.0"))
        .await;
    api.until_port("shop", 3000).await;
    let sandbox = api.sandbox("shop").await;
    let resource = sandbox.name.as_str();
    let controller = Controller::start(&namespace, world.folder());
    let browser = IngressBrowser {
        http: reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client"),
        address: ([127, 0, 0, 1], controller.port).into(),
        main: format!("http://{}", world.address),
    };
    let session = session(&world).await;

    let (page, token) = browser
        .sign_in_at(&format!("{resource}.cluster.test"), "/a", &session)
        .await;
    assert_eq!(page, "served by shop");
    let again = browser
        .request(&format!("{resource}.cluster.test"), "/b")
        .header(header::COOKIE, &token);
    assert_eq!(again.send().await.expect("an answer").status(), 200);

    let host = format!("t-{resource}.cluster.test");
    let refused = browser.request(&host, "/ws").header(header::COOKIE, &token);
    assert_eq!(
        refused.send().await.expect("an answer").status(),
        302,
        "another host's preview token"
    );
    let (page, token) = browser.sign_in_at(&host, "/", &session).await;
    assert!(page.contains("terminal of a sandbox"), "{page}");
    let socket = browser.request(&host, "/ws").header(header::COOKIE, &token);
    let mut terminal = TestTerminal::over(socket).await;
    terminal.type_in("echo typed-$((40 + 2))\r").await;
    terminal.until("typed-42").await;

    drop((terminal, controller));
    world.finish().await;
    assert_eq!(namespace.ours(), Vec::<String>::new());
}
