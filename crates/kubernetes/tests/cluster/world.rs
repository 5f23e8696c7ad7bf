//! Test fixture: a namespace of the test cluster with a driver. The namespace is deleted when the fixture is dropped.

use std::{path::PathBuf, process::Command, sync::Arc};

use fsa_driver::{SharedDatabases, SharedDriver};
use fsa_driver_testing::conformance::World;
use fsa_kubernetes::{
    KubernetesDriver,
    connection::{self, Cluster, KubeconfigPaths},
    databases,
    objects::network_policy::block,
    rbac,
    settings::{Network, Reach, Settings},
};
use fsa_model::{DatabaseSpec, Image, SandboxRef};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Namespace, Pod, ServiceAccount},
    rbac::v1::{Role, RoleBinding, RoleRef, Subject},
};
use kube::{
    Api, Config,
    api::{AttachParams, DeleteParams, ListParams, PostParams},
    client::{Body, ClientBuilder},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
    core::ObjectMeta,
};
use parking_lot::Mutex;
use tower::util::MapRequestLayer;

/// An image in the test cluster, with a shell and Python.
pub const TOOLS: &str = "fsa.test/tools:1";
/// An echo server for any number of clients.
const ECHO: &str = "import socket, threading
def serve(client):
    while data := client.recv(4096):
        client.sendall(data)
listener = socket.create_server(('127.0.0.1', PORT))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()";

/// A namespace with a driver.
pub struct Fixture {
    pub cluster: Cluster,
    pub settings: Settings,
    pub driver: KubernetesDriver,
    pub databases: SharedDatabases,
    /// The requests of the driver and the databases to the API server, if they are recorded.
    pub requests: Arc<Mutex<Vec<String>>>,
}

#[allow(
    clippy::disallowed_methods,
    reason = "the test cluster is outside, and make test names it"
)]
pub fn exported(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run this through `make test`, or start the cluster with `tests/cluster/up.sh DIR` and \
             read DIR/env"
        )
    })
}

/// The test cluster, as its administrator.
pub async fn administrator() -> Cluster {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = Settings {
        kubeconfig: Some(PathBuf::from(exported("FSA_TEST_KUBECONFIG"))),
        ..Settings::default()
    };
    connection::read(&settings, &KubeconfigPaths::default())
        .await
        .unwrap()
        .connect()
        .unwrap()
}

impl Fixture {
    pub async fn new(reach: Reach) -> Self {
        Self::with(reach, |_, _| {}).await
    }

    /// The same with other settings. `change` also gets the namespace's name.
    pub async fn with(reach: Reach, change: impl FnOnce(&mut Settings, &str)) -> Self {
        let mut cluster = administrator().await;
        let name = format!("fsa-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                // The API server refuses pods that are not restricted.
                labels: Some(
                    [(
                        "pod-security.kubernetes.io/enforce".to_owned(),
                        "restricted".to_owned(),
                    )]
                    .into(),
                ),
                ..Default::default()
            },
            ..Namespace::default()
        };
        Api::<Namespace>::all(cluster.client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
        cluster.namespace = name;
        let mut settings = Settings {
            installation: "test".into(),
            sandboxd_image: "fsa.test/sandboxd:1".into(),
            web_image: TOOLS.into(),
            reach,
            network: Network {
                control_plane: vec![block("0.0.0.0/0", &[])],
                ..Network::default()
            },
            ..Settings::default()
        };
        change(&mut settings, &cluster.namespace);
        let (databases, peer) = databases::open(&cluster, &settings).unwrap();
        let driver = KubernetesDriver::new(cluster.clone(), settings.clone(), peer);
        Self {
            cluster,
            settings,
            driver,
            databases,
            requests: Arc::default(),
        }
    }

    /// The same with a driver whose account has the control plane's Role in the namespace only.
    pub async fn with_only_its_role(reach: Reach) -> Self {
        Self::with_only_its_role_and(reach, |_| {}).await
    }

    /// The same with other settings, and the permissions that they need.
    pub async fn with_only_its_role_and(reach: Reach, change: impl FnOnce(&mut Settings)) -> Self {
        let mut fixture = Self::new(reach).await;
        change(&mut fixture.settings);
        let named = || ObjectMeta {
            name: Some("control-plane".into()),
            ..ObjectMeta::default()
        };
        let parameters = PostParams::default();
        let account = ServiceAccount {
            metadata: named(),
            ..ServiceAccount::default()
        };
        fixture.api().create(&parameters, &account).await.unwrap();
        let role = Role {
            metadata: named(),
            rules: Some(rbac::rules(&fixture.settings)),
        };
        fixture.api().create(&parameters, &role).await.unwrap();
        let binding = RoleBinding {
            metadata: named(),
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".into(),
                kind: "Role".into(),
                name: "control-plane".into(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".into(),
                name: "control-plane".into(),
                ..Subject::default()
            }]),
        };
        fixture.api().create(&parameters, &binding).await.unwrap();
        let token = fixture
            .api::<ServiceAccount>()
            .create_token_request("control-plane", &parameters, &TokenRequest::default())
            .await
            .unwrap()
            .status
            .unwrap()
            .token;

        let mut kubeconfig = Kubeconfig::read_from(exported("FSA_TEST_KUBECONFIG")).unwrap();
        for user in &mut kubeconfig.auth_infos {
            user.auth_info = Some(AuthInfo {
                token: Some(token.clone().into()),
                ..AuthInfo::default()
            });
        }
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        let requests = Arc::clone(&fixture.requests);
        let count = MapRequestLayer::new(move |request: http::Request<Body>| {
            requests
                .lock()
                .push(format!("{} {}", request.method(), request.uri()));
            request
        });
        let cluster = Cluster {
            client: ClientBuilder::try_from(config)
                .unwrap()
                .with_layer(&count)
                .build(),
            ..fixture.cluster.clone()
        };
        let (databases, peer) = databases::open(&cluster, &fixture.settings).unwrap();
        fixture.driver = KubernetesDriver::new(cluster, fixture.settings.clone(), peer);
        fixture.databases = databases;
        fixture
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace)
    }

    /// The one pod of a sandbox.
    pub async fn pod(&self, sandbox: &SandboxRef) -> Pod {
        let pods = self
            .api::<Pod>()
            .list(&ListParams::default().labels(&format!("app={}", sandbox.resource)))
            .await
            .unwrap();
        pods.items.into_iter().next().expect("the sandbox has a pod")
    }
}

impl Drop for Fixture {
    #[allow(
        clippy::disallowed_methods,
        reason = "there is no runtime to wait in any more; the command is awaited"
    )]
    fn drop(&mut self) {
        if let Ok(kubectl) = std::env::var("FSA_TEST_KUBECTL") {
            let deleted = Command::new(kubectl)
                .args(["--kubeconfig", &exported("FSA_TEST_KUBECONFIG")])
                .args(["delete", "namespace", &self.cluster.namespace, "--wait=false"])
                .output();
            if let Ok(output) = deleted
                && !output.status.success()
            {
                eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
}

#[async_trait::async_trait]
impl World for Fixture {
    fn driver(&self) -> SharedDriver {
        Arc::new(self.driver.clone())
    }

    /// Databases have their own conformance tests, which need no cluster.
    fn databases(&self) -> Option<SharedDatabases> {
        None
    }

    fn image(&self) -> Image {
        Image::Reference(TOOLS.into())
    }

    fn missing_image(&self) -> Image {
        // This template exists on a single machine only.
        Image::Template("host".into())
    }

    fn echo_command(&self, port: u16) -> String {
        let program = ECHO.replace("PORT", &port.to_string());
        format!("python3 -c \"{program}\"")
    }

    async fn kill(&self, sandbox: &SandboxRef) {
        // Process 1 ignores SIGKILL from inside its PID namespace, so the pod is force-deleted.
        let pod = self.pod(sandbox).await;
        let params = DeleteParams::default().grace_period(0);
        self.api::<Pod>()
            .delete(&pod.metadata.name.unwrap(), &params)
            .await
            .unwrap();
    }

    async fn insert_row(&self, _: &DatabaseSpec, _: &str) -> Result<(), String> {
        Err("there are no databases here".into())
    }

    async fn select_rows(&self, _: &DatabaseSpec) -> Result<Vec<String>, String> {
        Err("there are no databases here".into())
    }
}

/// Runs a program in a sandbox's container, as an administrator does with `kubectl exec`.
pub async fn administrators_exec(fixture: &Fixture, sandbox: &SandboxRef, command: &[&str]) -> String {
    let pod = fixture.pod(sandbox).await;
    exec_in(fixture, &pod.metadata.name.unwrap(), command).await
}

/// The same in the container `sandbox` of any pod.
pub async fn exec_in(fixture: &Fixture, pod: &str, command: &[&str]) -> String {
    use tokio::io::AsyncReadExt as _;
    let params = AttachParams::default().container("sandbox").stderr(false);
    let mut process = fixture
        .api::<Pod>()
        .exec(pod, command.iter().copied(), &params)
        .await
        .unwrap();
    let mut out = String::new();
    process.stdout().unwrap().read_to_string(&mut out).await.unwrap();
    out
}
