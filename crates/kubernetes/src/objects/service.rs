//! Service of a sandbox: its known ports under one name inside the cluster. The control port is not among them.

use fsa_model::{SandboxSpec, sandboxd::KNOWN_PORTS};
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{metadata, pod_selector};
use crate::settings::Settings;

/// The name of a known port.
pub(super) fn port_name(port: u16) -> &'static str {
    match port {
        3000 => "app",
        5000 => "python",
        7681 => "terminal",
        _ => "http",
    }
}

#[must_use]
pub fn service(spec: &SandboxSpec, settings: &Settings) -> Service {
    let ports = KNOWN_PORTS.map(|port| ServicePort {
        name: Some(port_name(port).into()),
        port: port.into(),
        target_port: Some(IntOrString::Int(port.into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    });
    Service {
        metadata: metadata(spec.sandbox.resource.as_str().to_owned(), spec, settings),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            selector: Some(pod_selector(spec)),
            ports: Some(ports.into()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
