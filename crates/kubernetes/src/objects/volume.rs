//! PersistentVolumeClaim of a home: one per branch of a project, which outlives its sandboxes.

use std::collections::BTreeMap;

use fsa_model::{SandboxSpec, VolumeId};
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{PROJECT_ID, PROJECT_NAME, common_labels, volume_label};
use crate::settings::Settings;

#[must_use]
pub fn claim_name(volume: VolumeId) -> String {
    format!("home-{volume}")
}

#[must_use]
pub fn claim(spec: &SandboxSpec, settings: &Settings) -> PersistentVolumeClaim {
    let mut labels = common_labels(settings);
    labels.insert(PROJECT_ID.into(), spec.sandbox.project.to_string());
    labels.insert(PROJECT_NAME.into(), spec.project_name.as_str().into());
    labels.extend(volume_label(&spec.sandbox));
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name(spec.sandbox.volume)),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([(
                    "storage".into(),
                    Quantity(settings.home_size.clone()),
                )])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: settings.storage_class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
