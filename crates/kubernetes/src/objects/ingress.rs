//! Ingresses of a sandbox, one for its application and one for its terminal, both behind the control plane's sign-in.

use std::collections::BTreeMap;

use fsa_model::{ResourceName, SandboxSpec, sandboxd::TERMINAL_PORT};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
    IngressSpec, IngressTLS, ServiceBackendPort,
};

use super::metadata;
use crate::settings::{Settings, Style};

/// The port of a project's application.
const APPLICATION_PORT: u16 = 3000;

/// One host name that leads to a port of a sandbox.
pub struct Host {
    /// The name of the Ingress or HTTPRoute.
    pub name: String,
    pub host: String,
    pub port: u16,
}

/// The hosts of a sandbox below a domain. The prefix keeps the longest resource name's label
/// within 63 characters.
#[must_use]
pub fn hosts(resource: &ResourceName, domain: &str) -> [Host; 2] {
    let resource = resource.as_str();
    [
        Host {
            name: resource.to_owned(),
            host: format!("{resource}.{domain}"),
            port: APPLICATION_PORT,
        },
        Host {
            name: format!("{resource}-terminal"),
            host: format!("t-{resource}.{domain}"),
            port: TERMINAL_PORT,
        },
    ]
}

/// Empty if the settings do not expose sandboxes by Ingresses.
#[must_use]
pub fn ingresses(spec: &SandboxSpec, settings: &Settings) -> Vec<Ingress> {
    match (&settings.expose.domain, settings.expose.style) {
        (Some(domain), Style::Ingress) => hosts(&spec.sandbox.resource, domain)
            .into_iter()
            .map(|host| ingress(host, spec, settings))
            .collect(),
        _ => Vec::new(),
    }
}

fn ingress(host: Host, spec: &SandboxSpec, settings: &Settings) -> Ingress {
    let mut metadata = metadata(host.name, spec, settings);
    metadata
        .annotations
        .get_or_insert_default()
        .extend(annotations(host.port, spec, settings));
    Ingress {
        metadata,
        spec: Some(IngressSpec {
            ingress_class_name: settings.expose.ingress_class.clone(),
            tls: settings.expose.tls_secret.clone().map(|secret| {
                vec![IngressTLS {
                    hosts: Some(vec![host.host.clone()]),
                    secret_name: Some(secret),
                }]
            }),
            rules: Some(vec![IngressRule {
                host: Some(host.host),
                http: Some(HTTPIngressRuleValue {
                    paths: vec![HTTPIngressPath {
                        path: Some("/".into()),
                        path_type: "Prefix".into(),
                        backend: IngressBackend {
                            service: Some(IngressServiceBackend {
                                name: spec.sandbox.resource.as_str().into(),
                                port: Some(ServiceBackendPort {
                                    number: Some(host.port.into()),
                                    ..ServiceBackendPort::default()
                                }),
                            }),
                            ..IngressBackend::default()
                        },
                    }],
                }),
            }]),
            ..IngressSpec::default()
        }),
        ..Ingress::default()
    }
}

fn annotations(port: u16, spec: &SandboxSpec, settings: &Settings) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, value: String| {
        all.insert(format!("nginx.ingress.kubernetes.io/{name}"), value);
    };
    add("proxy-body-size", "32m".into());
    add("ssl-redirect", settings.expose.tls_secret.is_some().to_string());
    add("backend-protocol", "HTTP".into());
    if port == TERMINAL_PORT {
        add(
            "proxy-set-headers",
            "Upgrade $http_upgrade\nConnection \"upgrade\"\n".into(),
        );
        // A terminal may be silent for long.
        add("proxy-read-timeout", "3600".into());
        add("proxy-send-timeout", "3600".into());
    }
    if let Some(sign_in) = &settings.expose.sign_in_url {
        let auth = settings.expose.auth_url.as_ref().unwrap_or(sign_in);
        let target = format!("sandbox={}&port={port}", spec.sandbox.id);
        add(
            "auth-url",
            format!("{}/api/ingress/check?{target}", auth.trim_end_matches('/')),
        );
        add(
            "auth-signin",
            format!("{}/api/ingress/enter?{target}", sign_in.trim_end_matches('/')),
        );
        // Otherwise a new preview token is lost if the application's first answer is an error.
        add("auth-always-set-cookie", "true".into());
        if port == TERMINAL_PORT {
            // The terminal's own token, which the control plane adds. For an application the client's header stays.
            add("auth-response-headers", "Authorization".into());
        }
    }
    all
}
