//! One object at a time: how it is applied, how it is deleted, and how its echo in a watch is known.

use std::sync::Arc;

use fsa_driver::{DriverError, Result};
use fsa_model::{FailureKind, SandboxRef};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt as _, api::DeleteParams, core::DynamicObject};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Inner, look::belongs};
use crate::{cached_object::CachedObject, objects, reflectors::named};

impl Inner {
    /// A name that somebody else already uses in this namespace is left to them.
    pub(super) fn not_foreign(&self, sandbox: &SandboxRef) -> Result<()> {
        let taken = named(
            &self.watched.deployments,
            &self.cluster.namespace,
            sandbox.resource.as_str(),
        )
        .is_some_and(|one| !belongs(&one.metadata, sandbox));
        if taken {
            return Err(DriverError::new(
                FailureKind::Machine,
                format!(
                    "the namespace already has a deployment {} of another project; it is left alone",
                    sandbox.resource
                ),
            ));
        }
        Ok(())
    }

    pub(super) async fn put<K>(&self, what: &str, object: Value) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        self.put_by(self.api(), what, object).await
    }

    pub(super) async fn put_route(&self, route: Value) -> Result<DynamicObject> {
        self.put_by(self.routes(), "make a route", route).await
    }

    async fn put_by<K>(&self, api: Api<K>, what: &str, object: Value) -> Result<K>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        self.cluster.apply(what, api, name, &object).await
    }

    fn routes(&self) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.cluster.client.clone(),
            &self.cluster.namespace,
            &objects::http_route_resource(),
        )
    }

    pub(super) async fn delete<K>(&self, name: Option<String>) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let Some(name) = name else { return Ok(()) };
        let api: Api<K> = self.api();
        let what = format!("delete a {}", K::kind(&()).to_lowercase());
        self.cluster
            .change_if_present(&what, api.delete(&name, &DeleteParams::background()))
            .await
            .map(drop)
    }

    pub(super) async fn delete_routes(&self, routes: &[Arc<CachedObject<DynamicObject>>]) -> Result<()> {
        let api = self.routes();
        for route in routes {
            let name = route.name_any();
            self.cluster
                .change_if_present("delete a route", api.delete(&name, &DeleteParams::background()))
                .await?;
        }
        Ok(())
    }
}

/// Whether the watch has brought this version of an object, or a later one. (Versions are numbers
/// in every API server that there is; where they were not, any version would do.)
pub(super) fn is_seen(ours: &impl Resource, seen: Option<Arc<impl Resource>>) -> bool {
    let version = |version: Option<String>| version.and_then(|text| text.parse::<u64>().ok());
    seen.is_some_and(|seen| {
        seen.uid() == ours.uid() && version(seen.resource_version()) >= version(ours.resource_version())
    })
}
