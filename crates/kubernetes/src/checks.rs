//! Cluster checks of `fsa doctor`: the requirements of projects, each with its fix.

mod running;

use fsa_driver::{Databases as _, Result};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    networking::v1::IngressClass,
    storage::v1::StorageClass,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};

use crate::{
    connection::{Cluster, call},
    databases::{
        kubeblocks::objects::{GROUP, Version},
        postgres::PostgresDatabases,
    },
    rbac,
    settings::{Provider, Settings, Style},
};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Good,
    /// Could not be checked, or is not optimal.
    Warning,
    /// Projects cannot be created.
    Bad,
}

/// One check.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    pub message: String,
}

fn check(name: &'static str, state: State, message: impl Into<String>) -> Check {
    Check {
        name,
        state,
        message: message.into(),
    }
}

/// Runs all checks. If the API does not answer, the others are skipped.
pub async fn run(cluster: &Cluster, settings: &Settings) -> Vec<Check> {
    let mut all = vec![check(
        "kubeconfig",
        State::Good,
        format!(
            "{} leads to {}, namespace {}",
            cluster.source, cluster.server, cluster.namespace
        ),
    )];
    match call("read its version", cluster.client.apiserver_version()).await {
        Ok(version) => all.push(check(
            "cluster's API",
            State::Good,
            format!("Kubernetes {} answers", version.git_version),
        )),
        Err(error) => {
            all.push(check(
                "cluster's API",
                State::Bad,
                format!("{error}; check the server's address in the kubeconfig, and the network"),
            ));
            return all;
        }
    }
    all.push(permissions(cluster, settings).await);
    all.push(databases(cluster, settings).await);
    all.push(storage_class(cluster, settings).await);
    all.extend(ingress_class(cluster, settings).await);
    // The key of this control plane distinguishes its objects from another's.
    if settings.installation.is_empty() {
        all.push(check(
            "sandboxes",
            State::Warning,
            "not checked: the key that identifies this server's sandboxes is not in the data folder, or this user may \
             not read it; run the check again as the server's user, once the server has run",
        ));
    } else {
        all.extend(running::terminals(cluster, settings).await);
        all.extend(running::database_urls(cluster, settings).await);
    }
    all
}

async fn permissions(cluster: &Cluster, settings: &Settings) -> Check {
    const NAME: &str = "permissions";
    let mut missing = Vec::new();
    let mut count = 0;
    for permission in rbac::required(settings) {
        for verb in permission.verbs {
            count += 1;
            match may(cluster, permission.group, permission.resource, verb).await {
                Ok(true) => {}
                Ok(false) => missing.push(format!("{verb} {}", permission.resource)),
                Err(error) => {
                    return check(
                        NAME,
                        State::Warning,
                        format!("they could not be checked: {error}"),
                    );
                }
            }
        }
    }
    if missing.is_empty() {
        check(
            NAME,
            State::Good,
            format!("all {count} that are needed in the namespace are granted"),
        )
    } else {
        check(
            NAME,
            State::Bad,
            format!(
                "the account lacks {}; grant it the Role of deploy/chart/role.json",
                missing.join(", ")
            ),
        )
    }
}

async fn may(cluster: &Cluster, group: &str, resource: &str, verb: &str) -> Result<bool> {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(cluster.namespace.clone()),
                group: Some(group.into()),
                resource: Some(resource.into()),
                subresource,
                verb: Some(verb.into()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let answer = call("check a permission", api.create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

async fn databases(cluster: &Cluster, settings: &Settings) -> Check {
    const NAME: &str = "databases";
    if settings.databases.provider == Provider::Postgres {
        let inventory = match PostgresDatabases::new(&settings.databases) {
            Ok(databases) => databases.inventory().await,
            Err(error) => Err(error),
        };
        return match inventory {
            Ok(all) => check(
                NAME,
                State::Good,
                format!(
                    "the PostgreSQL server answers; it has {} databases of ours",
                    all.len()
                ),
            ),
            Err(error) => check(NAME, State::Bad, error.to_string()),
        };
    }
    let groups = match call("list the kinds of objects", cluster.client.list_api_groups()).await {
        Ok(groups) => groups,
        Err(error) => return check(NAME, State::Bad, error.to_string()),
    };
    let served: Vec<String> = groups
        .groups
        .iter()
        .filter(|group| group.name == GROUP)
        .flat_map(|group| group.versions.iter().map(|version| version.version.clone()))
        .collect();
    match Version::of(&served) {
        Some(version) => check(
            NAME,
            State::Good,
            format!("KubeBlocks serves {}; {version:?} is used", served.join(" and ")),
        ),
        None => check(
            NAME,
            State::Bad,
            "the CRD clusters.apps.kubeblocks.io is missing: install KubeBlocks, or set databases.provider = \"postgres\"",
        ),
    }
}

async fn storage_class(cluster: &Cluster, settings: &Settings) -> Check {
    const NAME: &str = "storage class";
    let api: Api<StorageClass> = Api::all(cluster.client.clone());
    let all = match call("list storage classes", api.list(&ListParams::default())).await {
        Ok(all) => all.items,
        // Storage classes belong to no namespace, and our Role is limited to one.
        Err(error) => return check(NAME, State::Warning, format!("it cannot be checked: {error}")),
    };
    let is_default = |class: &&StorageClass| {
        class
            .annotations()
            .get("storageclass.kubernetes.io/is-default-class")
            .is_some_and(|value| value == "true")
    };
    match &settings.storage_class {
        Some(name) if all.iter().any(|class| class.name_any() == *name) => {
            check(NAME, State::Good, format!("{name} exists"))
        }
        Some(name) => check(
            NAME,
            State::Bad,
            format!("there is no storage class {name}; correct the setting storage_class"),
        ),
        None => match all.iter().find(is_default) {
            Some(class) => check(
                NAME,
                State::Good,
                format!("the default, {}, is used", class.name_any()),
            ),
            None => check(
                NAME,
                State::Bad,
                "the cluster has no default storage class; name one with the setting storage_class",
            ),
        },
    }
}

async fn ingress_class(cluster: &Cluster, settings: &Settings) -> Option<Check> {
    const NAME: &str = "ingress class";
    settings.expose.domain.as_ref()?;
    if settings.expose.style != Style::Ingress {
        return None;
    }
    let Some(sign_in) = &settings.expose.sign_in_url else {
        return Some(check(
            NAME,
            State::Bad,
            "sandboxes are exposed without a sign-in: set expose.sign_in_url to the control plane's address",
        ));
    };
    // The cookie of a preview token is `Secure` exactly if the control plane uses https.
    if sign_in.starts_with("https://") != settings.expose.tls_secret.is_some() {
        return Some(check(
            NAME,
            State::Bad,
            "the control plane and the exposed hosts must both use https or neither, or browsers do not store the preview \
             token; set expose.tls_secret, or correct expose.sign_in_url",
        ));
    }
    let Some(name) = &settings.expose.ingress_class else {
        return Some(check(NAME, State::Good, "the cluster's default is used"));
    };
    let api: Api<IngressClass> = Api::all(cluster.client.clone());
    Some(
        match call("list ingress classes", api.list(&ListParams::default())).await {
            Ok(all) if all.items.iter().any(|class| class.name_any() == *name) => {
                check(NAME, State::Good, format!("{name} exists"))
            }
            Ok(_) => check(
                NAME,
                State::Bad,
                format!("there is no ingress class {name}; correct the setting expose.ingress_class"),
            ),
            Err(error) => check(NAME, State::Warning, format!("it cannot be checked: {error}")),
        },
    )
}
