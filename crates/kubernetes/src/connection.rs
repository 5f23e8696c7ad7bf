//! Connection to the API server: which kubeconfig is read, what is refused in it, and how long an answer may take. A
//! kubeconfig may name programs to run and servers to talk to, so it is treated as untrusted input.

use std::{fmt::Debug, future::Future, path::PathBuf, sync::Arc, time::Duration};

use fsa_driver::{DriverError, Result};
use fsa_model::{Failure, FailureKind, address::is_localhost};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use crate::{objects::FIELD_MANAGER, request_metrics::RequestMetrics, settings::Settings};

/// The timeout of a call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of concurrent changes at the API server. With hundreds it answers none before the timeout, and each
/// is then retried (docs/benchmarks.md).
const MAX_CONCURRENT_CHANGES: usize = 16;

/// Where a kubeconfig may be, if the settings name none.
#[derive(Clone, Debug, Default)]
pub struct KubeconfigPaths {
    /// The value of `KUBECONFIG`.
    pub environment: Option<PathBuf>,
    /// The folder with `kubeconfig` in it.
    pub secret_dir: Option<PathBuf>,
}

/// A cluster, and the one namespace in it that we use.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    pub namespace: String,
    /// For people: the server's address.
    pub server: String,
    /// For people: where the address was read.
    pub source: String,
    /// The requests that the client has sent.
    pub request_metrics: RequestMetrics,
    /// One permit for each change in flight.
    pub change_permits: Arc<Semaphore>,
}

impl Cluster {
    /// As [`call`], for a change. The timeout begins once it has a permit.
    ///
    /// # Errors
    /// As [`call`].
    pub async fn change<T>(
        &self,
        what: &str,
        work: impl Future<Output = std::result::Result<T, kube::Error>>,
    ) -> Result<T> {
        // The semaphore is never closed.
        let _permit = self.change_permits.acquire().await;
        call(what, work).await
    }

    /// Server-side apply of an object under our one field manager. Fields that others added stay.
    ///
    /// # Errors
    /// As [`call`].
    pub async fn apply<K>(
        &self,
        what: &str,
        api: Api<K>,
        name: &str,
        object: impl Serialize + Debug,
    ) -> Result<K>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.change(what, api.patch(name, &params, &Patch::Apply(object)))
            .await
    }

    /// As [`Self::change`], for an object that may be gone: `None` if the API answers 404.
    ///
    /// # Errors
    /// As [`call`].
    pub async fn change_if_present<T>(
        &self,
        what: &str,
        work: impl Future<Output = std::result::Result<T, kube::Error>>,
    ) -> Result<Option<T>> {
        let or_absent = async {
            match work.await {
                Ok(answer) => Ok(Some(answer)),
                Err(error) if is_not_found(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.change(what, or_absent).await
    }
}

/// A kubeconfig that was read and checked.
pub struct CheckedConfig {
    config: Config,
    source: String,
    namespace: String,
}

/// Reads the kubeconfig, and checks it. Separate from [`CheckedConfig::connect`], so that a file which only its owner
/// may read is read before privileges are dropped.
///
/// # Errors
/// There is no kubeconfig, or it is refused.
pub async fn read(settings: &Settings, paths: &KubeconfigPaths) -> Result<CheckedConfig> {
    let path = settings
        .kubeconfig
        .clone()
        .or_else(|| paths.environment.clone())
        .or_else(|| {
            let path = paths.secret_dir.as_ref()?.join("kubeconfig");
            path.exists().then_some(path)
        });
    let (mut config, source) = match path {
        Some(path) => {
            let source = path.display().to_string();
            let unreadable = |error: &dyn std::error::Error| {
                input(format!("the kubeconfig {source} cannot be used: {error}"))
            };
            let kubeconfig = Kubeconfig::read_from(&path).map_err(|error| unreadable(&error))?;
            refuse(&kubeconfig, settings)
                .map_err(|why| input(format!("the kubeconfig {source} is refused: {why}")))?;
            let options = KubeConfigOptions {
                context: settings.context.clone(),
                ..KubeConfigOptions::default()
            };
            let config = Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(|error| unreadable(&error))?;
            (config, source)
        }
        None => {
            let config = Config::incluster().map_err(|_| {
                input(
                    "no kubeconfig found: name one with --kubeconfig or KUBECONFIG, put it at .secret/kubeconfig, or run \
                     in a pod with a service account",
                )
            })?;
            (config, "the pod's service account".to_owned())
        }
    };
    config.connect_timeout = Some(CALL_TIMEOUT);
    let namespace = settings
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    Ok(CheckedConfig {
        config,
        source,
        namespace,
    })
}

impl CheckedConfig {
    /// Builds the client. Nothing is sent yet, so a cluster that is down does not delay the start. Must be called in the
    /// tokio runtime in which the connection lives.
    ///
    /// # Errors
    /// A certificate in the kubeconfig cannot be used.
    pub fn connect(self) -> Result<Cluster> {
        let server = self.config.cluster_url.to_string();
        let request_metrics = RequestMetrics::default();
        let metrics = request_metrics.clone();
        let recording =
            tower::util::MapRequestLayer::new(move |request: http::Request<kube::client::Body>| {
                metrics.record(&request);
                request
            });
        let client: Client = ClientBuilder::try_from(self.config)
            .map_err(|error| {
                input(format!("the connection to {server} cannot be set up: {error}")).because(error)
            })?
            .with_layer(&recording)
            .build();
        Ok(Cluster {
            client,
            request_metrics,
            change_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_CHANGES)),
            namespace: self.namespace,
            server,
            source: self.source,
        })
    }
}

/// Refuses servers on this machine and plugins, unless the settings allow them.
fn refuse(kubeconfig: &Kubeconfig, settings: &Settings) -> std::result::Result<(), String> {
    let context_name = settings.context.as_ref().or(kubeconfig.current_context.as_ref());
    let context = kubeconfig
        .contexts
        .iter()
        .find(|named| Some(&named.name) == context_name)
        .and_then(|named| named.context.as_ref())
        .ok_or("the context does not exist, or none is current; name one with the setting `context`")?;
    let server = kubeconfig
        .clusters
        .iter()
        .find(|named| named.name == context.cluster)
        .and_then(|named| named.cluster.as_ref()?.server.as_deref())
        .unwrap_or_default();
    if !settings.allow_localhost && is_local(server) {
        return Err(format!(
            "invalid server endpoint: {server}. It is on this machine, which is rarely intended; set allow_localhost if \
             the cluster is on this machine"
        ));
    }
    let user = kubeconfig
        .auth_infos
        .iter()
        .find(|named| Some(&named.name) == context.user.as_ref())
        .and_then(|named| named.auth_info.as_ref());
    let plugin = user.and_then(|user| {
        (user.exec.is_some())
            .then_some("exec")
            .or_else(|| user.auth_provider.is_some().then_some("auth-provider"))
    });
    match plugin {
        Some(kind) if !settings.allow_plugins => Err(format!(
            "its user has an {kind} plugin, which would run a program here; use a token or a certificate, or set \
             allow_plugins if the file is trusted"
        )),
        _ => Ok(()),
    }
}

fn is_local(server: &str) -> bool {
    let Ok(url) = url::Url::parse(server) else {
        return server.is_empty();
    };
    match url.host() {
        Some(url::Host::Domain(name)) => is_localhost(name.trim_end_matches('.')),
        Some(url::Host::Ipv4(address)) => address.is_loopback() || address.is_unspecified(),
        Some(url::Host::Ipv6(address)) => address.is_loopback() || address.is_unspecified(),
        None => true,
    }
}

/// Waits at most [`CALL_TIMEOUT`] for an answer of the API server, and turns its errors into messages for people.
/// `what` completes "the control plane may not …".
///
/// # Errors
/// The server's, or a timeout.
pub async fn call<T>(
    what: &str,
    work: impl Future<Output = std::result::Result<T, kube::Error>>,
) -> Result<T> {
    match tokio::time::timeout(CALL_TIMEOUT, work).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failure(what, error)),
        Err(_) => Err(DriverError::new(
            FailureKind::Transient,
            format!(
                "the Kubernetes API did not answer a request to {what} within {} seconds; it is retried",
                CALL_TIMEOUT.as_secs()
            ),
        )),
    }
}

/// Whether the API answered 404.
#[must_use]
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// An error of the API, with a message for people.
fn failure(what: &str, error: kube::Error) -> DriverError {
    let kube::Error::Api(status) = &error else {
        return DriverError::new(
            FailureKind::Transient,
            format!("the Kubernetes API could not be reached to {what}; it is retried"),
        )
        .because(error);
    };
    let (kind, message) = match status.code {
        403 if status.message.contains("exceeded quota") => (
            FailureKind::Machine,
            format!(
                "the namespace's quota leaves no room to {what}: {}",
                status.message
            ),
        ),
        401 => (
            FailureKind::Machine,
            format!(
                "the cluster refused to {what}: it does not accept the kubeconfig's credentials, which may have expired"
            ),
        ),
        403 => (
            FailureKind::Machine,
            format!(
                "the control plane may not {what} in this namespace; grant its account the Role of deploy/chart/role.json"
            ),
        ),
        404 => (
            FailureKind::Machine,
            format!(
                "the cluster lacks something that is needed to {what}: {}",
                status.message
            ),
        ),
        400 | 422 => (
            FailureKind::Machine,
            format!("the cluster refused to {what}: {}", status.message),
        ),
        _ => (
            FailureKind::Transient,
            format!(
                "the cluster could not {what} just now ({}); it is retried",
                status.reason
            ),
        ),
    };
    let text = format!("{} ({}): {}", status.reason, status.code, status.message);
    let failure = Failure {
        kubernetes_status: Some(text),
        ..Failure::new(kind, message)
    };
    DriverError::from(failure).because(error)
}

fn input(message: impl Into<String>) -> DriverError {
    DriverError::new(FailureKind::Input, message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: c, user: u, namespace: mine}}]
clusters: [{name: c, cluster: {server: 'SERVER'}}]
users: [{name: u, user: USER}]
";

    async fn opened(server: &str, user: &str, settings: Settings) -> Result<Cluster> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let text = KUBECONFIG.replace("SERVER", server).replace("USER", user);
        std::fs::write(folder.path().join("kubeconfig"), text).unwrap();
        let paths = KubeconfigPaths {
            secret_dir: Some(folder.path().to_owned()),
            ..KubeconfigPaths::default()
        };
        read(&settings, &paths).await?.connect()
    }

    #[tokio::test]
    async fn the_namespace_comes_from_the_context() {
        let cluster = opened("https://10.0.0.1:6443", "{token: t}", Settings::default())
            .await
            .unwrap();
        assert_eq!(cluster.namespace, "mine");
        assert_eq!(cluster.server, "https://10.0.0.1:6443/");
    }

    #[tokio::test]
    async fn a_server_on_this_machine_is_refused_unless_a_setting_allows_it() {
        for server in [
            "https://localhost:6443",
            "https://127.0.0.2:6443",
            "https://[::1]:6443",
            "https://x.localhost",
        ] {
            let error = opened(server, "{token: t}", Settings::default())
                .await
                .err()
                .unwrap();
            assert_eq!(error.failure.kind, FailureKind::Input);
            assert!(error.to_string().contains("invalid server endpoint"), "{error}");
            let allowed = Settings {
                allow_localhost: true,
                ..Settings::default()
            };
            assert!(opened(server, "{token: t}", allowed).await.is_ok());
        }
        assert!(
            opened("https://localhost.example.org", "{token: t}", Settings::default())
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn a_kubeconfig_does_not_run_a_program() {
        let folder = tempfile::tempdir().unwrap();
        let proof = folder.path().join("ran");
        let exec = format!(
            "{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: touch, args: [{}]}}}}",
            proof.display()
        );
        for user in [exec.as_str(), "{auth-provider: {name: gcp, config: {}}}"] {
            let error = opened("https://10.0.0.1:6443", user, Settings::default())
                .await
                .err()
                .unwrap();
            assert!(error.to_string().contains("plugin"), "{error}");
        }
        assert!(!proof.exists());
    }

    #[tokio::test]
    async fn a_call_to_a_cluster_that_does_not_answer_times_out() {
        let error = call::<()>("list pods", std::future::pending()).await.unwrap_err();
        assert_eq!(error.failure.kind, FailureKind::Transient);
    }

    #[tokio::test]
    async fn changes_wait_for_a_permit_and_the_wait_does_not_count_as_timeout() {
        let (busy, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let cluster = opened("https://10.0.0.1:6443", "{token: t}", Settings::default())
            .await
            .unwrap();
        let slow = async || {
            most.fetch_max(busy.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(CALL_TIMEOUT / 4).await;
            busy.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        };
        // The last of them wait longer than the timeout.
        let all = (0..MAX_CONCURRENT_CHANGES * 6).map(|_| cluster.change("create a service", slow()));
        for outcome in futures_util::future::join_all(all).await {
            outcome.unwrap();
        }
        assert_eq!(most.into_inner(), MAX_CONCURRENT_CHANGES);
    }
}
