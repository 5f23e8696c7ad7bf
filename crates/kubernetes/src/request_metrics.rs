//! Request metrics: counts the requests to the API server by verb and resource, named as its authorization names them.
//! They show what a sandbox costs the cluster, and that nothing polls.

use std::{collections::BTreeMap, sync::Arc};

use fsa_driver::RequestCount;
use http::{Method, Request, Uri};
use parking_lot::Mutex;

type Key = (&'static str, String);

/// The requests sent so far. Cheap to clone; clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct RequestMetrics(Arc<Mutex<BTreeMap<Key, u64>>>);

impl RequestMetrics {
    /// Counts a request when it is sent, whatever its outcome.
    pub fn record<B>(&self, request: &Request<B>) {
        let key = verb_and_resource(request.method(), request.uri());
        *self.0.lock().entry(key).or_default() += 1;
    }

    #[must_use]
    pub fn snapshot(&self) -> Vec<RequestCount> {
        let counts = self.0.lock();
        counts
            .iter()
            .map(|((verb, resource), count)| RequestCount {
                verb,
                resource: resource.clone(),
                count: *count,
            })
            .collect()
    }
}

/// The verb and the resource of a request, such as `patch` and `deployments`, or `create` and
/// `pods/portforward`. A path without a resource is `other`, so the number of keys is bounded by the API.
/// <https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb>
fn verb_and_resource(method: &Method, uri: &Uri) -> Key {
    let mut path = uri.path().split('/').filter(|part| !part.is_empty()).peekable();
    let prefix = match path.next() {
        Some("api") => path.next(),
        Some("apis") => path.next().and_then(|_group| path.next()),
        _ => None,
    };
    if prefix.is_none() {
        return ("get", "other".into());
    }
    if path.peek() == Some(&"namespaces") {
        let mut within = path.clone();
        within.next();
        within.next();
        if within.peek().is_some() {
            path = within;
        }
    }
    let Some(resource) = path.next() else {
        return ("get", "other".into());
    };
    let name = path.next();
    let resource = path
        .next()
        .map_or_else(|| resource.to_owned(), |part| format!("{resource}/{part}"));
    let has_parameter = |parameter: &str| {
        uri.query()
            .is_some_and(|query| query.split('&').any(|pair| pair == parameter))
    };
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ if has_parameter("watch=true") => "watch",
        _ if name.is_some() => "get",
        _ => "list",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_the_api_server_names_them() {
        for (method, uri, verb, resource) in [
            (
                Method::GET,
                "/api/v1/namespaces/n/pods?&labelSelector=a",
                "list",
                "pods",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/n/pods?watch=true&timeoutSeconds=290",
                "watch",
                "pods",
            ),
            (Method::GET, "/api/v1/namespaces/n/secrets/s", "get", "secrets"),
            (Method::GET, "/api/v1/namespaces/n", "get", "namespaces"),
            (
                Method::GET,
                "/api/v1/namespaces/n/pods/p/portforward?ports=7680",
                "get",
                "pods/portforward",
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/n/deployments/d?force=true",
                "patch",
                "deployments",
            ),
            (
                Method::DELETE,
                "/apis/networking.k8s.io/v1/namespaces/n/ingresses/i",
                "delete",
                "ingresses",
            ),
            (
                Method::POST,
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                "create",
                "selfsubjectaccessreviews",
            ),
            (
                Method::GET,
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/c",
                "get",
                "customresourcedefinitions",
            ),
            (Method::GET, "/version", "get", "other"),
            (Method::GET, "/apis", "get", "other"),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(
                verb_and_resource(&method, &uri),
                (verb, resource.to_owned()),
                "{method} {uri}"
            );
        }
    }

    #[test]
    fn clones_share_their_counts() {
        let metrics = RequestMetrics::default();
        let request = Request::get("/api/v1/namespaces/n/pods").body(()).unwrap();
        metrics.record(&request);
        metrics.clone().record(&request);
        let all = metrics.snapshot();
        assert_eq!(
            (all.len(), all[0].verb, all[0].resource.as_str(), all[0].count),
            (1, "list", "pods", 2)
        );
    }
}
