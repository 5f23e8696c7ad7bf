//! The same two ways in as HTTPRoutes of the Gateway API, for clusters without an ingress
//! controller. They have no standard form of a sign-in in front, so the Gateway must bring one
//! (a policy of its implementation, attached to it); the terminal's port asks for its token all
//! the same.

use fsa_model::SandboxSpec;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;

use super::{hosts, metadata};
use crate::settings::{Settings, Style};

/// The kind's place in the API.
#[must_use]
pub fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"),
        "httproutes",
    )
}

/// None where nothing is exposed this way.
#[must_use]
pub fn http_routes(spec: &SandboxSpec, settings: &Settings) -> Vec<DynamicObject> {
    let expose = &settings.expose;
    let (Some(domain), Some(gateway), Style::HttpRoute) = (&expose.domain, &expose.gateway, expose.style)
    else {
        return Vec::new();
    };
    let mut parent = json!({"name": gateway});
    if let Some(namespace) = &expose.gateway_namespace {
        parent["namespace"] = json!(namespace);
    }
    hosts(&spec.sandbox.resource, domain)
        .into_iter()
        .map(|host| {
            let mut route = DynamicObject::new(&host.name, &resource()).data(json!({"spec": {
                "parentRefs": [parent],
                "hostnames": [host.host],
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "backendRefs": [{"name": spec.sandbox.resource.as_str(), "port": host.port}],
                }],
            }}));
            route.metadata = metadata(host.name, spec, settings);
            route
        })
        .collect()
}
