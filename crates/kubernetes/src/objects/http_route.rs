//! HTTPRoutes of the Gateway API for the same two hosts as the Ingresses, for clusters without an ingress controller.
//! The Gateway API has no standard external authorization, so the Gateway must provide the sign-in (a policy of its
//! implementation, attached to it). The terminal's port requires its token in any case.

use fsa_model::SandboxSpec;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;

use super::{hosts, metadata};
use crate::settings::{Settings, Style};

/// The API resource of HTTPRoutes.
#[must_use]
pub fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"),
        "httproutes",
    )
}

/// Empty if the settings do not expose sandboxes by HTTPRoutes.
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
