//! Operations on one object: apply, delete, and whether a watch has observed its new version.

use std::sync::Arc;

use fsa_driver::{DriverError, Result};
use fsa_model::{FailureKind, SandboxRef};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt as _, api::DeleteParams, core::DynamicObject};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Inner, observe::belongs};
use crate::{cached_object::CachedObject, objects, reflectors::named};

impl Inner {
    /// Refuses a sandbox whose name an object of another owner in this namespace already has.
    pub(super) fn check_ownership(&self, sandbox: &SandboxRef) -> Result<()> {
        let foreign = named(
            &self.reflectors.deployments,
            &self.cluster.namespace,
            sandbox.resource.as_str(),
        )
        .is_some_and(|object| !belongs(&object.metadata, sandbox));
        if foreign {
            return Err(DriverError::new(
                FailureKind::Machine,
                format!(
                    "the namespace already has a deployment {} that belongs to another project; it is not changed",
                    sandbox.resource
                ),
            ));
        }
        Ok(())
    }

    pub(super) async fn apply<K>(&self, what: &str, object: Value) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        self.apply_with(self.api(), what, object).await
    }

    pub(super) async fn apply_route(&self, route: Value) -> Result<DynamicObject> {
        self.apply_with(self.routes(), "create a route", route).await
    }

    async fn apply_with<K>(&self, api: Api<K>, what: &str, object: Value) -> Result<K>
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

/// Whether the watch has observed this version of an object, or a later one. (Versions are numbers in all existing API
/// servers; if they were not, any version would count.)
pub(super) fn is_observed(ours: &impl Resource, observed: Option<Arc<impl Resource>>) -> bool {
    let version = |version: Option<String>| version.and_then(|text| text.parse::<u64>().ok());
    observed.is_some_and(|observed| {
        observed.uid() == ours.uid()
            && version(observed.resource_version()) >= version(ours.resource_version())
    })
}
