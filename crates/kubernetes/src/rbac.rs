//! The exact list of what the control plane may do, in its one namespace. The Role in deploy/chart
//! (role.json) is made of it, `fsa doctor` asks for each, and a test runs the driver with nothing else.

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::settings::{Provider, Settings, Style};

/// Verbs on one kind.
#[derive(Clone, Copy, Debug)]
pub struct Right {
    pub group: &'static str,
    /// With `/` and the subresource, where it is one.
    pub resource: &'static str,
    pub verbs: &'static [&'static str],
}

const OBJECT: &[&str] = &["create", "patch", "delete", "list", "watch"];

const fn right(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Right {
    Right {
        group,
        resource,
        verbs,
    }
}

const ALWAYS: &[Right] = &[
    right("apps", "deployments", OBJECT),
    right("", "services", OBJECT),
    // The values are read where a sandbox's token is not remembered.
    right(
        "",
        "secrets",
        &["create", "patch", "delete", "list", "watch", "get"],
    ),
    right("", "persistentvolumeclaims", OBJECT),
    right("networking.k8s.io", "networkpolicies", OBJECT),
    right("networking.k8s.io", "ingresses", OBJECT),
    right("", "pods", &["get", "list", "watch", "delete"]),
    // A WebSocket is a GET, and later servers ask for create as well.
    right("", "pods/portforward", &["get", "create"]),
    right("", "pods/log", &["get"]),
    right("", "events", &["list", "watch"]),
];

const ROUTES: &[Right] = &[right("gateway.networking.k8s.io", "httproutes", OBJECT)];

/// Patroni's Role can only be given by one who has what is in it.
const KUBEBLOCKS: &[Right] = &[
    right("apps.kubeblocks.io", "clusters", OBJECT),
    right("", "serviceaccounts", &["create", "patch", "delete"]),
    right(
        "rbac.authorization.k8s.io",
        "roles",
        &["create", "patch", "delete"],
    ),
    right(
        "rbac.authorization.k8s.io",
        "rolebindings",
        &["create", "patch", "delete"],
    ),
    right(
        "",
        "configmaps",
        &["create", "get", "list", "patch", "update", "watch", "delete"],
    ),
    right(
        "",
        "endpoints",
        &["create", "get", "list", "patch", "update", "watch", "delete"],
    ),
    right("", "pods", &["get", "list", "patch", "update", "watch"]),
    right("", "events", &["create"]),
];

/// What these settings need.
#[must_use]
pub fn needed(settings: &Settings) -> Vec<Right> {
    let mut all = ALWAYS.to_vec();
    if settings.expose.style == Style::HttpRoute {
        all.extend(ROUTES);
    }
    if settings.databases.provider == Provider::Kubeblocks {
        all.extend(KUBEBLOCKS);
    }
    all
}

/// The same as the rules of a Role.
#[must_use]
pub fn rules(settings: &Settings) -> Vec<PolicyRule> {
    needed(settings)
        .into_iter()
        .map(|right| PolicyRule {
            api_groups: Some(vec![right.group.into()]),
            resources: Some(vec![right.resource.into()]),
            verbs: right.verbs.iter().map(|verb| (*verb).to_owned()).collect(),
            ..PolicyRule::default()
        })
        .collect()
}
