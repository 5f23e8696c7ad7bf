//! Kubernetes objects of one sandbox, as pure functions of its spec and the region's settings. The golden files in
//! `tests/` show them.

mod deployment;
mod http_route;
mod ingress;
pub mod network_policy;
mod secret;
mod service;
mod volume;

use std::collections::BTreeMap;

pub use deployment::{CONTAINER, deployment, image};
use fsa_model::{ProjectId, ResourceName, SandboxRef, SandboxSpec, VolumeId};
pub use http_route::{http_routes, resource as http_route_resource};
pub use ingress::{Host, hosts, ingresses};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use secret::{BOOT_FILE, boot, secret, terminal_token};
pub use service::service;
pub use volume::{claim, claim_name};

use crate::settings::Settings;

/// The field manager of server-side apply, which owns our fields.
pub const FIELD_MANAGER: &str = "fullstackagent";
/// sandboxd's control interface, which only the control plane may reach.
pub const CONTROL_PORT: u16 = 7680;

// Labels and annotations. Other tools of the platform read the first three.
pub const SEALOS: &str = "cloud.sealos.io/app-deploy-manager";
pub const PROJECT_NAME: &str = "project.fullstackagent.io/name";
pub const APP: &str = "app";
pub const PROJECT_ID: &str = "project.fullstackagent.io/id";
pub const SANDBOX_ID: &str = "sandbox.fullstackagent.io/id";
/// Only on objects of other branches than the main one, whose volume is known from the project's id.
pub const VOLUME_ID: &str = "volume.fullstackagent.io/id";
pub const INSTALLATION: &str = "fullstackagent.io/installation";
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// [`SandboxSpec::digest`] of the spec that an object was created from.
pub const DIGEST: &str = "fullstackagent.io/digest";
/// The applied values, which distinguish a later change by others from a default of the server.
pub const APPLIED: &str = "fullstackagent.io/applied";

/// The labels of all our objects.
#[must_use]
pub fn common_labels(settings: &Settings) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned()),
        (INSTALLATION.to_owned(), settings.installation.clone()),
    ])
}

/// A label selector for all our objects.
#[must_use]
pub fn selector(settings: &Settings) -> String {
    let labels = common_labels(settings);
    let parts: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    parts.join(",")
}

fn labels(spec: &SandboxSpec, settings: &Settings) -> BTreeMap<String, String> {
    let mut labels = common_labels(settings);
    let resource = spec.sandbox.resource.as_str();
    for (name, value) in [
        (SEALOS, resource.to_owned()),
        (PROJECT_NAME, spec.project_name.as_str().to_owned()),
        (APP, resource.to_owned()),
        (PROJECT_ID, spec.sandbox.project.to_string()),
        (SANDBOX_ID, spec.sandbox.id.to_string()),
    ] {
        labels.insert(name.to_owned(), value);
    }
    labels.extend(volume_label(&spec.sandbox));
    labels
}

/// [`VOLUME_ID`], where it is needed.
fn volume_label(sandbox: &SandboxRef) -> Option<(String, String)> {
    let is_main = sandbox.volume == VolumeId::of_main(sandbox.project);
    (!is_main).then(|| (VOLUME_ID.to_owned(), sandbox.volume.to_string()))
}

/// The labels that select the pods of a sandbox.
fn pod_selector(spec: &SandboxSpec) -> BTreeMap<String, String> {
    BTreeMap::from([
        (APP.to_owned(), spec.sandbox.resource.as_str().to_owned()),
        (SANDBOX_ID.to_owned(), spec.sandbox.id.to_string()),
    ])
}

fn metadata(name: String, spec: &SandboxSpec, settings: &Settings) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        labels: Some(labels(spec, settings)),
        annotations: Some(BTreeMap::from([(
            // Tools of the platform read it as an annotation too.
            PROJECT_NAME.to_owned(),
            spec.project_name.as_str().to_owned(),
        )])),
        ..ObjectMeta::default()
    }
}

/// The project that an object belongs to, from its label.
#[must_use]
pub fn project(metadata: &ObjectMeta) -> Option<ProjectId> {
    metadata.labels.as_ref()?.get(PROJECT_ID)?.parse().ok()
}

/// The sandbox that an object belongs to, from its labels.
#[must_use]
pub fn owner(metadata: &ObjectMeta) -> Option<SandboxRef> {
    let labels = metadata.labels.as_ref()?;
    let project = labels.get(PROJECT_ID)?.parse::<ProjectId>().ok()?;
    Some(SandboxRef {
        id: labels.get(SANDBOX_ID)?.parse().ok()?,
        project,
        volume: match labels.get(VOLUME_ID) {
            Some(id) => id.parse().ok()?,
            None => VolumeId::of_main(project),
        },
        resource: ResourceName::parse(labels.get(APP)?).ok()?,
    })
}
