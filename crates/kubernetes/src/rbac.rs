//! RBAC: the exact list of permissions that the control plane needs, in its one namespace. The Role in deploy/chart
//! (role.json) has these rules, `fsa doctor` checks each of them, and a test runs the driver with no others.

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::settings::{Provider, Settings, Style};

/// Verbs on one kind of object.
#[derive(Clone, Copy, Debug)]
pub struct Permission {
    pub group: &'static str,
    /// `resource` or `resource/subresource`.
    pub resource: &'static str,
    pub verbs: &'static [&'static str],
}

const OBJECT: &[&str] = &["create", "patch", "delete", "list", "watch"];

const fn permission(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
) -> Permission {
    Permission {
        group,
        resource,
        verbs,
    }
}

const ALWAYS: &[Permission] = &[
    permission("apps", "deployments", OBJECT),
    permission("", "services", OBJECT),
    // The values are read if a sandbox's token is not cached.
    permission(
        "",
        "secrets",
        &["create", "patch", "delete", "list", "watch", "get"],
    ),
    permission("", "persistentvolumeclaims", OBJECT),
    permission("networking.k8s.io", "networkpolicies", OBJECT),
    permission("networking.k8s.io", "ingresses", OBJECT),
    permission("", "pods", &["get", "list", "watch", "delete"]),
    // A WebSocket is a GET, and newer API servers require `create` as well.
    permission("", "pods/portforward", &["get", "create"]),
    permission("", "pods/log", &["get"]),
    permission("", "events", &["list", "watch"]),
];

const ROUTES: &[Permission] = &[permission("gateway.networking.k8s.io", "httproutes", OBJECT)];

/// The API server lets an account grant only permissions that it has itself, so Patroni's are among them.
const KUBEBLOCKS: &[Permission] = &[
    permission("apps.kubeblocks.io", "clusters", OBJECT),
    permission("", "serviceaccounts", &["create", "patch", "delete"]),
    permission(
        "rbac.authorization.k8s.io",
        "roles",
        &["create", "patch", "delete"],
    ),
    permission(
        "rbac.authorization.k8s.io",
        "rolebindings",
        &["create", "patch", "delete"],
    ),
    permission(
        "",
        "configmaps",
        &["create", "get", "list", "patch", "update", "watch", "delete"],
    ),
    permission(
        "",
        "endpoints",
        &["create", "get", "list", "patch", "update", "watch", "delete"],
    ),
    permission("", "pods", &["get", "list", "patch", "update", "watch"]),
    permission("", "events", &["create"]),
];

/// The permissions that these settings need.
#[must_use]
pub fn required(settings: &Settings) -> Vec<Permission> {
    let mut all = ALWAYS.to_vec();
    if settings.expose.style == Style::HttpRoute {
        all.extend(ROUTES);
    }
    if settings.databases.provider == Provider::Kubeblocks {
        all.extend(KUBEBLOCKS);
    }
    all
}

/// [`required`] as the rules of a Role.
#[must_use]
pub fn rules(settings: &Settings) -> Vec<PolicyRule> {
    required(settings)
        .into_iter()
        .map(|permission| PolicyRule {
            api_groups: Some(vec![permission.group.into()]),
            resources: Some(vec![permission.resource.into()]),
            verbs: permission.verbs.iter().map(|verb| (*verb).to_owned()).collect(),
            ..PolicyRule::default()
        })
        .collect()
}
