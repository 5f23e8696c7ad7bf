//! Helm chart tests from an administrator's view: the chart is rendered, and applied to a real cluster, where
//! the control plane runs as pods of the image that `make image` builds, with the chart's Role alone.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fsa_model::api::{CreateProject, Sandbox};
use fsa_tests::{
    Api, TestTerminal,
    cluster::Namespace,
    exported,
    ingress::{IngressBrowser, cookie_of},
};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart");
/// Host of the control plane, and parent domain of the sandboxes' pages.
const HOST: &str = "fsa.chart.test";
const APPS: &str = "apps.chart.test";
/// Domain below which each sandbox has its own hosts at the ingress controller.
const BOXES: &str = "boxes.chart.test";
/// The objects of the release.
const RELEASE: &str = "app.kubernetes.io/instance=fsa";
const TIMEOUT: Duration = Duration::from_secs(300);

/// Helm, with none of the settings of the person who runs the tests.
#[allow(clippy::disallowed_methods, reason = "helm is what an administrator has")]
fn helm(home: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(exported("FSA_TEST_HELM"))
        .args(arguments)
        .env("HOME", home)
        .env("KUBECONFIG", exported("FSA_TEST_KUBECONFIG"))
        .stdin(Stdio::null())
        .output()
        .expect("helm runs");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn optional_cluster_features_are_rendered_only_if_enabled() {
    let home = tempfile::tempdir().expect("a folder");
    let rendered = |more: &[&str]| {
        let mut arguments = vec!["template", "fsa", CHART, "--kube-version", "1.34.4"];
        arguments.extend(more);
        helm(home.path(), &arguments).expect("the chart can be rendered")
    };
    let plain = rendered(&[]);
    for kind in [
        "Deployment",
        "Service",
        "Role",
        "RoleBinding",
        "NetworkPolicy",
        "PodDisruptionBudget",
    ] {
        assert!(plain.contains(&format!("\nkind: {kind}\n")), "{kind}: {plain}");
    }
    for kind in ["ServiceMonitor", "Ingress"] {
        assert!(!plain.contains(&format!("\nkind: {kind}\n")), "{kind}: {plain}");
    }
    assert!(!plain.contains("ClusterRole"), "{plain}");

    let more = rendered(&[
        "--set",
        "serviceMonitor.enabled=true,serviceMonitor.labels.release=prometheus",
        "--set",
        "ingress.enabled=true,ingress.className=nginx,ingress.tlsSecret=fsa-tls",
        "--set",
        "networkPolicy.from[0].ipBlock.cidr=10.0.0.0/8",
    ]);
    for line in [
        "kind: ServiceMonitor",
        "release: prometheus",
        "port: metrics, path: /metrics",
        "metrics_listen = \"0.0.0.0:9090\"",
        "ports: [{ port: metrics }]",
        "kind: Ingress",
        "ingressClassName: nginx",
        "host: \"fsa.example.org\"",
        "host: \"*.apps.example.org\"",
        "secretName: fsa-tls",
        "cidr: 10.0.0.0/8",
    ] {
        assert!(more.contains(line), "{line}: {more}");
    }
    let alone = rendered(&[
        "--set",
        "rbac.create=false,networkPolicy.enabled=false,replicas=1",
    ]);
    for kind in ["Role", "NetworkPolicy", "PodDisruptionBudget"] {
        assert!(!alone.contains(&format!("\nkind: {kind}\n")), "{kind}: {alone}");
    }

    let refused = helm(
        home.path(),
        &["template", "fsa", CHART, "--kube-version", "1.29.0"],
    );
    assert!(refused.unwrap_err().contains("1.30"));
}

/// Release in a separate namespace, and a client that resolves its hosts.
struct Installed {
    namespace: Namespace,
    home: tempfile::TempDir,
    http: reqwest::Client,
}

impl Installed {
    fn new() -> Self {
        fsa_tests::init();
        let namespace = Namespace::new().with_postgres();
        // From here on the API server itself refuses pods that are not `restricted`.
        namespace.kubectl(&[
            "label",
            "namespace",
            &namespace.name,
            "pod-security.kubernetes.io/enforce=restricted",
        ]);
        let installed = Self {
            http: reqwest::Client::new(),
            home: tempfile::tempdir().expect("a folder"),
            namespace,
        };
        installed.sql("create database fsa");
        let dsn = installed.namespace.dsn.clone();
        let control = format!("{}/fsa", dsn.rsplit_once('/').expect("a database").0);
        for (name, pair) in [
            ("fsa-database", format!("dsn={control}")),
            (
                "fsa-seal-key",
                format!("seal.key={}", "0123456789abcdef".repeat(4)),
            ),
            ("fsa-agents", ".env=AGENTS_HOME=yes".to_owned()),
        ] {
            let literal = format!("--from-literal={pair}");
            installed
                .namespace
                .kubectl(&["create", "secret", "generic", name, &literal]);
        }
        let settings = format!(
            "[regions.kubernetes]\nreach = \"direct\"\nsandboxd_image = \"fsa.test/sandboxd:1\"\n\
             web_image = \"fsa.test/tools:1\"\ndatabases = {{ provider = \"postgres\", dsn = \"{dsn}\" }}\n\
             expose = {{ domain = \"{BOXES}\", ingress_class = \"nginx\", sign_in_url = \"http://{HOST}\", \
             auth_url = \"http://fsa.{}.svc.cluster.local\" }}\n\
             network.ingress_controller = [{{ ipBlock = {{ cidr = \"{}/32\" }} }}]\n",
            installed.namespace.name,
            exported("FSA_TEST_NODE_ADDRESS").display(),
        );
        let path = installed.home.path().join("settings.toml");
        std::fs::write(&path, settings).expect("the settings can be written");
        let values = format!(
            "image.repository=fsa.test/fsa,image.tag=1,image.pullPolicy=Never,origin=http://{HOST},\
             appsDomain={APPS},agentCredentials.secret=fsa-agents,ingress.enabled=true,ingress.className=nginx"
        );
        let settings = format!("settings={}", path.display());
        let namespace = installed.namespace.name.as_str();
        let done = helm(
            installed.home.path(),
            &[
                "install",
                "fsa",
                CHART,
                "-n",
                namespace,
                "--wait",
                "--timeout",
                "300s",
                "--set",
                &values,
                "--set-file",
                &settings,
            ],
        );
        if let Err(error) = done {
            panic!("helm install: {error}\n{}", installed.state());
        }
        installed.found()
    }

    /// Sends the origin's host names to the service's address.
    fn found(mut self) -> Self {
        let address = self
            .namespace
            .kubectl(&["get", "service", "fsa", "-o", "jsonpath={.spec.clusterIP}"]);
        let address: SocketAddr = format!("{address}:80").parse().expect("an address");
        self.http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .resolve(HOST, address)
            .resolve(&format!("shop--3000.{APPS}"), address)
            // Each request opens a new connection, to any ready pod.
            .pool_max_idle_per_host(0)
            .build()
            .expect("a client");
        self
    }

    /// Runs SQL on the server of the control database and of the projects' databases.
    fn sql(&self, statement: &str) -> String {
        self.namespace.kubectl(&[
            "exec",
            "postgres",
            "--",
            "env",
            "PGPASSWORD=an-admins-password",
            "psql",
            "-h",
            "127.0.0.1",
            "-U",
            "admin",
            "-At",
            "-c",
            statement,
            "postgres",
        ])
    }

    fn pods(&self) -> Vec<String> {
        self.namespace
            .kubectl(&["get", "pods", "-l", RELEASE, "-o", "name"])
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn log(&self) -> String {
        self.namespace
            .kubectl(&["logs", "-l", RELEASE, "--tail=200", "--prefix=false"])
    }

    /// State of the release, for the message of a failed test.
    fn state(&self) -> String {
        [
            "get pods -o wide",
            "get events",
            "logs -l app.kubernetes.io/instance=fsa --tail=50",
        ]
        .map(|line| {
            let arguments: Vec<_> = line.split(' ').collect();
            self.namespace
                .try_kubectl(&arguments)
                .unwrap_or_else(|error| error)
        })
        .join("\n")
    }

    /// Signs in with the link in a pod's log, which the chart's notes describe, and creates a token. Returns
    /// the API client and the owner's browser cookie.
    async fn owner(&self) -> (Api, String) {
        let log = self.log();
        let token = log
            .lines()
            .find(|line| line.starts_with("Sign in, once"))
            .and_then(|line| Some(line.split_once('#')?.1.trim().to_owned()))
            .unwrap_or_else(|| panic!("no link in the log: {log}"));
        let url = format!("http://{HOST}");
        let cookie = self.sign_in(&json!({"token": token})).await;
        let made: Value = self
            .http
            .post(format!("{url}/api/tokens"))
            .header(header::COOKIE, &cookie)
            .header(header::ORIGIN, &url)
            .json(&json!({"name": "a test", "scope": "admin"}))
            .send()
            .await
            .expect("an answer")
            .json()
            .await
            .expect("JSON");
        let token = made["token"].as_str().unwrap_or_else(|| panic!("{made}"));
        let api = Api {
            http: self.http.clone(),
            url,
            token: token.to_owned(),
        };
        (api, cookie)
    }

    /// Signs in with a link. Returns the browser's cookie.
    async fn sign_in(&self, link: &Value) -> String {
        let request = self.http.post(format!("http://{HOST}/api/auth/link")).json(link);
        let signed_in = request.send().await.expect("an answer");
        assert_eq!(signed_in.status(), StatusCode::OK, "{signed_in:?}");
        cookie_of(&signed_in)
    }

    async fn page(&self, api: &Api) -> String {
        self.http
            .get(format!("http://shop--3000.{APPS}/"))
            .header("x-fsa-token", &api.token)
            .send()
            .await
            .expect("an answer")
            .text()
            .await
            .expect("a body")
    }
}

/// Checks the application and the terminal at separate hosts, behind the real ingress-nginx controller, which
/// is configured by the cluster's objects alone.
async fn through_the_ingress_controller(installed: &Installed, api: &Api, sandbox: &Sandbox, session: &str) {
    let node = exported("FSA_TEST_NODE_ADDRESS").display().to_string();
    let address: SocketAddr = format!("{node}:80").parse().expect("an address");
    let browser = IngressBrowser {
        http: reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            // The chart's own Ingress is served by the controller too.
            .resolve(HOST, address)
            .build()
            .expect("a client"),
        address,
        main: format!("http://{HOST}"),
    };
    let invited: Value = api.send(Method::POST, "/api/users/invites", &json!({})).await;
    let link = invited["url"].as_str().expect("a link");
    let secret = link.split_once('#').expect("a fragment").1;
    let guest = installed
        .sign_in(&json!({"token": secret, "login": "guest"}))
        .await;

    let application = format!("{}.{BOXES}", sandbox.name);
    let terminal = format!("t-{}.{BOXES}", sandbox.name);
    browser.until_served(&application).await;
    browser.until_served(&terminal).await;
    for host in [&application, &terminal] {
        let to = browser.sign_in_redirect(host, "/").await;
        assert_eq!(
            browser.get_with_session(&to, &guest).await.status(),
            StatusCode::NOT_FOUND
        );
    }
    let (page, token) = browser.sign_in_at(&application, "/", session).await;
    assert_eq!(page, "sold here\n");
    let another = browser.request(&terminal, "/ws").header(header::COOKIE, &token);
    let another = another.send().await.expect("an answer");
    assert_eq!(another.status(), 302, "another host's preview token");

    let (page, token) = browser.sign_in_at(&terminal, "/", session).await;
    assert!(page.contains("terminal of a sandbox"), "{page}");
    let socket = browser.request(&terminal, "/ws").header(header::COOKIE, &token);
    let mut terminal = TestTerminal::over(socket).await;
    terminal.type_in("echo typed-$((40 + 2))\r").await;
    terminal.until("typed-42").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_runs_in_the_cluster_as_the_chart_installs_it() {
    let installed = Installed::new();
    let namespace = &installed.namespace;
    let before = installed.pods();
    assert_eq!(before.len(), 2, "{before:?}");
    let (api, session) = installed.owner().await;

    api.create_as(CreateProject {
        name: "shop".into(),
        start_command: Some("echo sold here >index.html; python3 -m http.server 3000".into()),
        ..CreateProject::default()
    })
    .await;
    let sandbox = api.until_running("shop").await;
    assert_eq!(
        api.shell(
            "shop",
            "echo $AGENTS_HOME; bash -c 'exec 3<>/dev/tcp/$PGHOST/$PGPORT' && echo reached"
        )
        .await,
        "yes\nreached\n"
    );
    api.until_port("shop", 3000).await;
    assert_eq!(installed.page(&api).await, "sold here\n");

    through_the_ingress_controller(&installed, &api, &sandbox, &session).await;

    // Runs in the server's pod, with its permissions alone.
    let doctor = namespace.kubectl(&[
        "exec",
        "deployment/fsa",
        "--",
        "fsa",
        "doctor",
        "--config",
        "/etc/fsa/fsa.toml",
    ]);
    for point in [
        "address",
        "control database",
        "cluster's API",
        "permissions",
        "databases",
        "terminals ",
        "terminals' ingress",
        "database URLs",
    ] {
        assert!(doctor.contains(&format!("\u{2713} {point}")), "{point}: {doctor}");
    }

    // One replica stops, like in an upgrade or when a node is drained; no request is refused meanwhile.
    let gone = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn({
        let (api, gone) = (api.clone(), Arc::clone(&gone));
        async move {
            let mut answers = 0;
            while !gone.load(Ordering::Relaxed) {
                let _: Sandbox = api.sandbox("shop").await;
                answers += 1;
            }
            answers
        }
    });
    tokio::task::block_in_place(|| namespace.kubectl(&["delete", &before[0], "--timeout=120s"]));
    gone.store(true, Ordering::Relaxed);
    let answers = asking.await.expect("no request fails while a replica ends");
    assert!(answers > 0);
    let same = api.until_running("shop").await;
    assert_eq!(same.name, sandbox.name);
    assert_eq!(api.shell("shop", "cat index.html").await, "sold here\n");
    assert_eq!(installed.page(&api).await, "sold here\n");
    namespace.kubectl(&["rollout", "status", "deployment/fsa", "--timeout=300s"]);
    assert!(!installed.pods().contains(&before[0]));

    api.delete("shop").await;
    assert_eq!(namespace.ours(), Vec::<String>::new());
    let left = "select datname from pg_database where datname not in ('postgres', 'fsa', 'template0', 'template1')
                union all select rolname from pg_roles where rolname not like 'pg\\_%' and rolname <> 'admin'";
    assert_eq!(installed.sql(left), "");

    helm(
        installed.home.path(),
        &[
            "uninstall",
            "fsa",
            "-n",
            &namespace.name,
            "--wait",
            "--timeout",
            "300s",
        ],
    )
    .expect("the release can be removed");
    let kinds = "deployments,services,ingresses,secrets,serviceaccounts,roles,rolebindings,networkpolicies,\
                 poddisruptionbudgets";
    let left = namespace.kubectl(&["get", kinds, "-l", RELEASE, "-o", "name"]);
    assert_eq!(left, "");
}
