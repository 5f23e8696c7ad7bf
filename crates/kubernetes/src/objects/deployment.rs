//! Deployment of a sandbox: one pod, in which sandboxd is process 1 of the project's image.
//!
//! An init container copies sandboxd into an emptyDir, so any image works. The pod complies with the restricted Pod
//! Security Standard.

use std::collections::BTreeMap;

use fsa_model::{
    Image, SandboxSpec,
    sandboxd::{HOME, KNOWN_PORTS, TERMINAL_PORT, USER_ID},
    size::Resources,
};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy},
        core::v1::{
            Capabilities, Container, ContainerPort, EmptyDirVolumeSource, HTTPGetAction,
            LocalObjectReference, PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec,
            PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource,
            SecurityContext, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    CONTROL_PORT, DIGEST, claim_name, labels, metadata, pod_selector, secret::BOOT_FILE, service::port_name,
};
use crate::settings::Settings;

/// The container that the user works in.
pub const CONTAINER: &str = "sandbox";
/// The folder into which sandboxd is copied.
const PROGRAM_FOLDER: &str = "/.fsa";
const BOOT_FOLDER: &str = "/.fsa-boot";
/// sandboxd ends its children within five seconds of SIGTERM.
const GRACE_SECONDS: i64 = 10;

/// The image's reference; none for a template that exists on a single machine only.
#[must_use]
pub fn image<'a>(spec: &'a SandboxSpec, settings: &'a Settings) -> Option<&'a str> {
    match &spec.image {
        Image::Reference(reference) => Some(reference),
        Image::Template(name) if name == "web" => Some(&settings.web_image),
        Image::Template(_) => None,
    }
}

#[must_use]
pub fn deployment(spec: &SandboxSpec, settings: &Settings, image: &str) -> Deployment {
    let digest = BTreeMap::from([(DIGEST.to_owned(), spec.digest())]);
    let mut metadata = metadata(spec.sandbox.resource.as_str().to_owned(), spec, settings);
    metadata
        .annotations
        .get_or_insert_default()
        .extend(digest.clone());
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            revision_history_limit: Some(1),
            // Two pods must not write into one home, and most volumes attach to one node at a time.
            strategy: Some(DeploymentStrategy {
                type_: Some("Recreate".into()),
                ..DeploymentStrategy::default()
            }),
            selector: LabelSelector {
                match_labels: Some(pod_selector(spec)),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels(spec, settings)),
                    annotations: Some(digest),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(spec, settings, image)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod(spec: &SandboxSpec, settings: &Settings, image: &str) -> PodSpec {
    let user = i64::from(USER_ID);
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        hostname: Some(spec.project_name.as_str().to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(user),
            run_as_group: Some(user),
            fs_group: Some(user),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        init_containers: Some(vec![installer(settings)]),
        containers: vec![sandbox(spec, settings, image)],
        volumes: Some(volumes(spec)),
        image_pull_secrets: non_empty(
            settings
                .image_pull_secrets
                .iter()
                .map(|name| LocalObjectReference { name: name.clone() })
                .collect::<Vec<_>>(),
            Vec::is_empty,
        ),
        node_selector: non_empty(settings.node_selector.clone(), BTreeMap::is_empty),
        tolerations: non_empty(settings.tolerations.clone(), Vec::is_empty),
        runtime_class_name: settings.runtime_class.clone(),
        ..PodSpec::default()
    }
}

fn installer(settings: &Settings) -> Container {
    let amounts = |cpu: &str, memory: &str| {
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.into())),
            ("memory".to_owned(), Quantity(memory.into())),
        ])
    };
    Container {
        name: "sandboxd".into(),
        image: Some(settings.sandboxd_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        command: Some(vec!["/fsa-sandboxd".into()]),
        args: Some(vec!["--install".into(), format!("{PROGRAM_FOLDER}/sandboxd")]),
        security_context: Some(SecurityContext {
            read_only_root_filesystem: Some(true),
            ..restricted()
        }),
        resources: Some(ResourceRequirements {
            requests: Some(amounts("20m", "25Mi")),
            limits: Some(amounts("200m", "64Mi")),
            ..ResourceRequirements::default()
        }),
        volume_mounts: Some(vec![mount("sandboxd", PROGRAM_FOLDER, false)]),
        ..Container::default()
    }
}

fn sandbox(spec: &SandboxSpec, settings: &Settings, image: &str) -> Container {
    let mut ports: Vec<_> = KNOWN_PORTS.iter().map(|port| (port_name(*port), *port)).collect();
    ports.push(("control", CONTROL_PORT));
    Container {
        name: CONTAINER.into(),
        image: Some(image.into()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        command: Some(vec![format!("{PROGRAM_FOLDER}/sandboxd")]),
        args: Some(
            [
                "--control",
                &format!("0.0.0.0:{CONTROL_PORT}"),
                "--terminal",
                &format!("0.0.0.0:{TERMINAL_PORT}"),
                "--boot",
                &format!("{BOOT_FOLDER}/{BOOT_FILE}"),
                "--keep-environment",
            ]
            .map(str::to_owned)
            .into(),
        ),
        ports: Some(
            ports
                .into_iter()
                .map(|(name, port)| ContainerPort {
                    name: Some(name.into()),
                    container_port: port.into(),
                    protocol: Some("TCP".into()),
                    ..ContainerPort::default()
                })
                .collect(),
        ),
        readiness_probe: Some(Probe {
            http_get: Some(HTTPGetAction {
                path: Some("/".into()),
                port: IntOrString::Int(TERMINAL_PORT.into()),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(1),
            ..Probe::default()
        }),
        resources: Some(resources(spec.resources)),
        security_context: Some(restricted()),
        volume_mounts: Some(vec![
            mount("home", HOME, false),
            mount("sandboxd", PROGRAM_FOLDER, true),
            mount("boot", BOOT_FOLDER, true),
        ]),
        ..Container::default()
    }
}

fn volumes(spec: &SandboxSpec) -> Vec<Volume> {
    vec![
        Volume {
            name: "home".into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(spec.sandbox.volume),
                ..PersistentVolumeClaimVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "sandboxd".into(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity("64Mi".into())),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "boot".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(spec.sandbox.resource.as_str().into()),
                // Readable for the pod's group, which is the sandbox user's; the pod has no other user.
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
    ]
}

fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".into()]),
            ..Capabilities::default()
        }),
        ..SecurityContext::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn resources(resources: Resources) -> ResourceRequirements {
    let amounts = |cpu, memory| {
        BTreeMap::from([
            ("cpu".into(), processors(cpu)),
            ("memory".into(), mebibytes(memory)),
        ])
    };
    ResourceRequirements {
        requests: Some(amounts(
            resources.cpu_request_millis,
            resources.memory_request_mib,
        )),
        limits: Some(amounts(resources.cpu_limit_millis, resources.memory_limit_mib)),
        ..ResourceRequirements::default()
    }
}

/// In the API server's canonical form, so that the stored value compares equal.
fn processors(millis: u32) -> Quantity {
    Quantity(if millis.is_multiple_of(1000) {
        (millis / 1000).to_string()
    } else {
        format!("{millis}m")
    })
}

fn mebibytes(mib: u32) -> Quantity {
    Quantity(if mib > 0 && mib.is_multiple_of(1024) {
        format!("{}Gi", mib / 1024)
    } else {
        format!("{mib}Mi")
    })
}

/// The API server drops empty lists and maps, so they are left out.
fn non_empty<T>(value: T, is_empty: impl Fn(&T) -> bool) -> Option<T> {
    if is_empty(&value) { None } else { Some(value) }
}
