//! KubeBlocks objects of one database, for each version of its API. Pure functions.

use fsa_model::DatabaseSpec;
use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta};
use serde_json::{Value, json};

use crate::{
    objects::{PROJECT_ID, common_labels},
    settings::Settings,
};

pub const GROUP: &str = "apps.kubeblocks.io";

/// The version of the KubeBlocks API that is used. KubeBlocks 1.0 serves both, and reconciles `V1` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V1Alpha1,
}

impl Version {
    /// The newest of the served versions.
    #[must_use]
    pub fn of(served: &[String]) -> Option<Self> {
        let has = |name: &str| served.iter().any(|version| version == name);
        if has("v1") {
            Some(Self::V1)
        } else {
            has("v1alpha1").then_some(Self::V1Alpha1)
        }
    }

    #[must_use]
    pub fn resource(self) -> ApiResource {
        let version = match self {
            Self::V1 => "v1",
            Self::V1Alpha1 => "v1alpha1",
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, version, "Cluster"), "clusters")
    }

    /// The secrets that may have the superuser's credentials, in this order.
    #[must_use]
    pub fn secrets(cluster: &str) -> [String; 2] {
        [
            format!("{cluster}-postgresql-account-postgres"),
            format!("{cluster}-conn-credential"),
        ]
    }

    /// The Service in front of the database, if no secret names another.
    #[must_use]
    pub fn host(self, cluster: &str) -> String {
        match self {
            Self::V1 => format!("{cluster}-postgresql-postgresql"),
            Self::V1Alpha1 => format!("{cluster}-postgresql"),
        }
    }
}

fn metadata(spec: &DatabaseSpec, settings: &Settings) -> ObjectMeta {
    let name = spec.resource.as_str();
    let mut labels = common_labels(settings);
    let version = &settings.databases.version;
    for (key, value) in [
        ("app.kubernetes.io/instance", name.to_owned()),
        ("clusterdefinition.kubeblocks.io/name", "postgresql".to_owned()),
        (
            "clusterversion.kubeblocks.io/name",
            format!("postgresql-{version}"),
        ),
        (PROJECT_ID, spec.project.to_string()),
    ] {
        labels.insert(key.to_owned(), value);
    }
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

/// The service account of the database's pods.
#[must_use]
pub fn account(spec: &DatabaseSpec, settings: &Settings) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(spec, settings),
        ..ServiceAccount::default()
    }
}

/// The least that Patroni, which runs in the database's pods, needs for its leader election.
#[must_use]
pub fn role(spec: &DatabaseSpec, settings: &Settings) -> Role {
    let rule = |resources: &[&str], verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(resources.iter().map(|text| (*text).to_owned()).collect()),
        verbs: verbs.iter().map(|text| (*text).to_owned()).collect(),
        ..PolicyRule::default()
    };
    Role {
        metadata: metadata(spec, settings),
        rules: Some(vec![
            rule(
                &["configmaps", "endpoints"],
                &["create", "get", "list", "patch", "update", "watch", "delete"],
            ),
            rule(&["pods"], &["get", "list", "patch", "update", "watch"]),
            rule(&["events"], &["create"]),
        ]),
    }
}

#[must_use]
pub fn binding(spec: &DatabaseSpec, settings: &Settings, namespace: &str) -> RoleBinding {
    let name = spec.resource.as_str();
    RoleBinding {
        metadata: metadata(spec, settings),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "Role".into(),
            name: name.into(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: name.into(),
            namespace: Some(namespace.into()),
            ..Subject::default()
        }]),
    }
}

/// The Cluster itself.
#[must_use]
pub fn cluster(spec: &DatabaseSpec, settings: &Settings, version: Version) -> DynamicObject {
    let name = spec.resource.as_str();
    let databases = &settings.databases;
    let mut claim = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": databases.storage_size}},
    });
    if let Some(class) = &databases.storage_class {
        claim["storageClassName"] = json!(class);
    }
    let mut component = json!({
        "name": "postgresql",
        "replicas": 1,
        "resources": {
            "limits": {"cpu": "1", "memory": "1Gi"},
            "requests": {"cpu": "100m", "memory": "102Mi"},
        },
        "volumeClaimTemplates": [{"name": "data", "spec": claim}],
        "serviceAccountName": name,
    });
    let data = match version {
        Version::V1 => {
            component["serviceVersion"] = json!(databases.version);
            component["labels"] =
                json!({"apps.kubeblocks.postgres.patroni/scope": format!("{name}-postgresql")});
            json!({"spec": {
                "clusterDef": "postgresql",
                "topology": "replication",
                "terminationPolicy": "Delete",
                "componentSpecs": [component],
            }})
        }
        Version::V1Alpha1 => {
            component["componentDefRef"] = json!("postgresql");
            json!({"spec": {
                "clusterDefinitionRef": "postgresql",
                "clusterVersionRef": format!("postgresql-{}", databases.version),
                "terminationPolicy": "Delete",
                "componentSpecs": [component],
            }})
        }
    };
    let mut object = DynamicObject::new(name, &version.resource()).data(data);
    object.metadata = metadata(spec, settings);
    object
}

/// The phase in a Cluster's status, as KubeBlocks names it.
#[must_use]
pub fn phase(cluster: &DynamicObject) -> &str {
    cluster
        .data
        .pointer("/status/phase")
        .and_then(Value::as_str)
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_kubeblocks_reconciles_is_chosen() {
        let served = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(Version::of(&served(&["v1alpha1", "v1"])), Some(Version::V1));
        assert_eq!(Version::of(&served(&["v1alpha1"])), Some(Version::V1Alpha1));
        assert_eq!(Version::of(&served(&["v1beta1"])), None);
    }
}
