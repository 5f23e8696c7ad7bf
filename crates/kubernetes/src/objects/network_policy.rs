//! NetworkPolicy of a sandbox: who may reach it, and what it may reach. The cluster's network plugin enforces it; some
//! plugins enforce none.

use std::collections::BTreeMap;

use fsa_model::{
    SandboxSpec,
    address::SPECIAL_PURPOSE_V4,
    sandboxd::{KNOWN_PORTS, TERMINAL_PORT},
};
use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{metadata, pod_selector};
use crate::settings::Settings;

/// `database`: the peer and port of the project's own database, if it has one.
#[must_use]
pub fn network_policy(
    spec: &SandboxSpec,
    settings: &Settings,
    database: Option<(NetworkPolicyPeer, u16)>,
) -> NetworkPolicy {
    let network = &settings.network;
    let control_plane = if network.control_plane.is_empty() {
        vec![pods(&[("app.kubernetes.io/name", "fullstackagent")])]
    } else {
        network.control_plane.clone()
    };
    let mut ingress = vec![NetworkPolicyIngressRule {
        from: Some(control_plane),
        ports: None,
    }];
    if !network.ingress_controller.is_empty() {
        ingress.push(NetworkPolicyIngressRule {
            from: Some(network.ingress_controller.clone()),
            ports: Some(vec![tcp(KNOWN_PORTS[0]), tcp(TERMINAL_PORT)]),
        });
    }
    let dns = if network.dns.is_empty() {
        vec![NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector::default()),
            ..pods(&[("k8s-app", "kube-dns")])
        }]
    } else {
        network.dns.clone()
    };
    let mut egress = vec![
        NetworkPolicyEgressRule {
            to: Some(dns),
            ports: Some(vec![port("UDP", 53), tcp(53)]),
        },
        NetworkPolicyEgressRule {
            to: Some(vec![public_internet()]),
            ports: None,
        },
    ];
    if !network.allow.is_empty() {
        egress.push(NetworkPolicyEgressRule {
            to: Some(network.allow.iter().map(|range| block(range, &[])).collect()),
            ports: None,
        });
    }
    if let Some((peer, number)) = database {
        egress.push(NetworkPolicyEgressRule {
            to: Some(vec![peer]),
            ports: Some(vec![tcp(number)]),
        });
    }
    NetworkPolicy {
        metadata: metadata(spec.sandbox.resource.as_str().to_owned(), spec, settings),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(pod_selector(spec)),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(ingress),
            egress: Some(egress),
        }),
    }
}

/// A peer: the pods with these labels.
#[must_use]
pub fn pods(labels: &[(&str, &str)]) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        pod_selector: Some(LabelSelector {
            match_labels: Some(
                labels
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect::<BTreeMap<_, _>>(),
            ),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    }
}

/// Every IPv4 address that is globally reachable. DNS and the ranges of the setting `allow` are
/// exceptions, as separate rules.
fn public_internet() -> NetworkPolicyPeer {
    let except = SPECIAL_PURPOSE_V4.map(|special| special.network.to_string());
    block("0.0.0.0/0", &except.each_ref().map(String::as_str))
}

/// A peer: the addresses of a network, except some.
#[must_use]
pub fn block(range: &str, except: &[&str]) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: range.into(),
            except: (!except.is_empty()).then(|| except.iter().map(|range| (*range).to_owned()).collect()),
        }),
        ..NetworkPolicyPeer::default()
    }
}

fn tcp(number: u16) -> NetworkPolicyPort {
    port("TCP", number)
}

fn port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.into()),
        port: Some(IntOrString::Int(number.into())),
        ..NetworkPolicyPort::default()
    }
}
