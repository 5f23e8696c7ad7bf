//! Namespace of the test cluster, used through kubectl, with an optional PostgreSQL server.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::NamedTempFile;

use crate::exported;

/// Timeout of a pod's start on a busy machine.
const START: Duration = Duration::from_secs(300);

/// The server's files are in memory. In a real cluster its disk is separate from the benchmark's; and
/// containerd repeatedly counts the files that a container writes into its own layer, one by one.
const POSTGRES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: postgres, labels: {app: postgres}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: data, emptyDir: {medium: Memory}}]
  containers:
    - name: postgres
      image: fsa.test/postgres:1
      imagePullPolicy: Never
      volumeMounts: [{name: data, mountPath: /data}]
      command: [bash, -ec]
      args:
        - |
          echo PASSWORD > /tmp/password
          initdb -D /data/server -U admin --auth=scram-sha-256 --pwfile=/tmp/password --no-sync >/dev/null
          echo 'host all all all scram-sha-256' >> /data/server/pg_hba.conf
          exec postgres -D /data/server -c listen_addresses='*' -c fsync=off -c unix_socket_directories=/tmp
      readinessProbe: {periodSeconds: 1, exec: {command: [pg_isready, -h, 127.0.0.1]}}
";

/// Namespace, deleted with everything in it when this is dropped.
pub struct Namespace {
    pub name: String,
    /// DSN of its PostgreSQL server, if there is one.
    pub dsn: String,
}

impl Namespace {
    #[must_use]
    pub fn new() -> Self {
        let bytes = std::fs::read("/proc/sys/kernel/random/uuid").expect("random bytes");
        let name = format!("fsa-{}", String::from_utf8_lossy(&bytes[..8]));
        let namespace = Self {
            name: name.clone(),
            dsn: String::new(),
        };
        namespace.kubectl(&["create", "namespace", &name]);
        namespace
    }

    /// Starts a PostgreSQL server in a pod, and waits until it accepts connections.
    #[must_use]
    pub fn with_postgres(mut self) -> Self {
        self.apply(&POSTGRES.replace("PASSWORD", "an-admins-password"));
        let began = Instant::now();
        loop {
            let waited =
                self.try_kubectl(&["wait", "--for=condition=Ready", "--timeout=10s", "pod/postgres"]);
            if waited.is_ok() {
                break;
            }
            assert!(began.elapsed() < START, "no PostgreSQL server: {waited:?}");
        }
        let address = self.kubectl(&["get", "pod", "postgres", "-o", "jsonpath={.status.podIP}"]);
        self.dsn = format!("postgresql://admin:an-admins-password@{address}/postgres");
        self
    }

    /// Settings with this namespace as the region `cluster`. `more` belongs to the region's table, such as
    /// `databases`.
    #[must_use]
    pub fn settings(&self, kubeconfig: &Path, more: &str) -> NamedTempFile {
        let file = NamedTempFile::with_suffix(".toml").expect("a file");
        let text = format!(
            "[regions.cluster]
kubeconfig = \"{kubeconfig}\"
namespace = \"{name}\"
sandboxd_image = \"fsa.test/sandboxd:1\"
web_image = \"fsa.test/tools:1\"
network.control_plane = [{{ ipBlock = {{ cidr = \"0.0.0.0/0\" }} }}]
{more}
",
            kubeconfig = kubeconfig.display(),
            name = self.name,
        );
        std::fs::write(file.path(), text).expect("the settings can be written");
        file
    }

    /// The settings for the databases of a region that are on the server in this namespace.
    #[must_use]
    pub fn databases(&self) -> String {
        format!(
            "databases = {{ provider = \"postgres\", dsn = \"{}\" }}",
            self.dsn
        )
    }

    /// Runs kubectl in this namespace.
    ///
    /// # Panics
    /// It failed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments)
            .unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// Runs kubectl in this namespace.
    ///
    /// # Errors
    /// kubectl's message.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self
            .command()
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("kubectl runs");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Whether the namespace has this object (`kind/name`).
    #[must_use]
    pub fn has(&self, object: &str) -> bool {
        !self
            .kubectl(&["get", "--ignore-not-found", object, "-o", "name"])
            .is_empty()
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) {
        self.feed(&["apply", "-f", "-"], manifest);
    }

    /// Runs kubectl with this text as its input.
    ///
    /// # Panics
    /// It failed.
    pub fn feed(&self, arguments: &[&str], text: &str) {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("kubectl runs");
        let mut input = child.stdin.take().expect("standard input");
        input.write_all(text.as_bytes()).expect("kubectl reads");
        drop(input);
        assert!(child.wait().expect("kubectl ends").success(), "{text}");
    }

    /// The names of all objects of the control plane in it.
    #[must_use]
    pub fn ours(&self) -> Vec<String> {
        let kinds = "deployments,services,ingresses,networkpolicies,secrets,persistentvolumeclaims,pods,\
                     serviceaccounts,roles,rolebindings";
        let labels = "app.kubernetes.io/managed-by=fullstackagent";
        self.kubectl(&["get", kinds, "-l", labels, "-o", "name"])
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// kubectl command for this namespace; later arguments win.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "kubectl is what an administrator has")]
    pub fn command(&self) -> Command {
        let mut command = Command::new(exported("FSA_TEST_KUBECTL"));
        command
            .arg("--kubeconfig")
            .arg(exported("FSA_TEST_KUBECONFIG"))
            .args(["--request-timeout", "120s", "-n", &self.name]);
        command
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.try_kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}
