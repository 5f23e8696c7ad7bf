//! Settings of a Kubernetes region: how to reach the cluster, and the parts of its objects that differ between clusters.
//! Plain data, read from the server's settings file.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::api::{core::v1::Toleration, networking::v1::NetworkPolicyPeer};
use secrecy::SecretString;
use serde::Deserialize;

/// A region's table in the settings file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Default: `KUBECONFIG`, `.secret/kubeconfig`, or the pod that we run in, in this order.
    pub kubeconfig: Option<PathBuf>,
    /// Default: the kubeconfig's current context.
    pub context: Option<String>,
    /// Default: the context's namespace.
    pub namespace: Option<String>,
    /// Allows a server on this machine, which usually means a kubeconfig that was copied from another.
    pub allow_localhost: bool,
    /// Lets a kubeconfig start programs (exec and auth-provider plugins).
    pub allow_plugins: bool,
    /// Distinguishes our objects from those of another control plane in the same namespace.
    pub installation: String,
    pub reach: Reach,

    /// The image of the template `web`.
    pub web_image: String,
    /// The image from which sandboxd is copied into every pod.
    pub sandboxd_image: String,
    pub image_pull_policy: String,
    pub image_pull_secrets: Vec<String>,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub runtime_class: Option<String>,

    /// Of home volumes. Default: the cluster's default class.
    pub storage_class: Option<String>,
    pub home_size: String,

    pub expose: Expose,
    pub network: Network,
    pub databases: Databases,
}

/// How a connection reaches a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// To the pod's address. For a control plane in the cluster or on its pod network.
    Direct,
    /// Through the API server. Works from everywhere, at the cost of load on the API server.
    #[default]
    PortForward,
}

/// How sandboxes are exposed outside of the control plane's gateway.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expose {
    pub style: Style,
    /// The parent domain of the hosts. Without one nothing is exposed.
    pub domain: Option<String>,
    pub ingress_class: Option<String>,
    /// The secret with the certificate of `*.domain`.
    pub tls_secret: Option<String>,
    /// The control plane's address for browsers, where people sign in.
    pub sign_in_url: Option<String>,
    /// The control plane's address for the ingress controller. Default: `sign_in_url`.
    pub auth_url: Option<String>,
    /// Of HTTPRoutes: the Gateway's name, and its namespace if that is another.
    pub gateway: Option<String>,
    pub gateway_namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    #[default]
    Ingress,
    HttpRoute,
}

/// Who may reach sandboxes, and what they may reach.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Peers from which the control plane connects. Default: the pods with its label.
    pub control_plane: Vec<NetworkPolicyPeer>,
    /// Peers from which the ingress controller connects. Default: none.
    pub ingress_controller: Vec<NetworkPolicyPeer>,
    /// DNS servers. Default: the cluster's DNS.
    pub dns: Vec<NetworkPolicyPeer>,
    /// Private networks that sandboxes may reach nevertheless, such as `10.1.0.0/16`.
    pub allow: Vec<String>,
}

/// Provider of project databases.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Databases {
    pub provider: Provider,
    /// Of `postgres`: an account that may create roles and databases.
    pub dsn: Option<SecretString>,
    /// Of `postgres`: the server's address for sandboxes. Default: that of the DSN.
    pub host: Option<String>,
    pub port: Option<u16>,
    /// Of `kubeblocks`.
    pub storage_class: Option<String>,
    pub storage_size: String,
    pub version: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    Postgres,
    #[default]
    Kubeblocks,
}

impl Default for Databases {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            dsn: None,
            host: None,
            port: None,
            storage_class: Some("openebs-backup".into()),
            storage_size: "3Gi".into(),
            version: "14.8.0".into(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            namespace: None,
            allow_localhost: false,
            allow_plugins: false,
            installation: String::new(),
            reach: Reach::default(),
            web_image: "fullstackagent/fullstack-web-runtime:latest".into(),
            sandboxd_image: concat!("fullstackagent/sandboxd:", env!("CARGO_PKG_VERSION")).into(),
            image_pull_policy: "IfNotPresent".into(),
            image_pull_secrets: Vec::new(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            runtime_class: None,
            storage_class: None,
            home_size: "1Gi".into(),
            expose: Expose::default(),
            network: Network::default(),
            databases: Databases::default(),
        }
    }
}
