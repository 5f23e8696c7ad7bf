//! HTTPRoutes of the Gateway API at a real API server, which has the published definitions
//! (`tests/cluster/gateway.sh DIR`) and validates what is sent. No Gateway serves them here.

use fsa_driver::Driver as _;
use fsa_kubernetes::{
    objects,
    settings::{Expose, Reach, Style},
};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{faults::spec, world::Fixture};

#[tokio::test]
async fn routes_are_accepted_by_the_api_and_repaired_when_others_change_them() {
    let fixture = Fixture::with_only_its_role_and(Reach::Direct, |settings| {
        settings.expose = Expose {
            style: Style::HttpRoute,
            domain: Some("apps.example.org".into()),
            gateway: Some("public".into()),
            gateway_namespace: Some("gateways".into()),
            ..Expose::default()
        };
    })
    .await;
    let routes: Api<DynamicObject> = Api::namespaced_with(
        fixture.cluster.client.clone(),
        &fixture.cluster.namespace,
        &objects::http_route_resource(),
    );
    let spec = spec("routed");
    let name = spec.sandbox.resource.as_str();
    fixture.driver.ensure_network(&spec).await.unwrap();
    assert!(fixture.driver.observe(&spec.sandbox).await.unwrap().network);

    for (route, host, port) in [
        (name.to_owned(), format!("{name}.apps.example.org"), 3000),
        (
            format!("{name}-terminal"),
            format!("t-{name}.apps.example.org"),
            7681,
        ),
    ] {
        let made = routes.get(&route).await.unwrap().data;
        assert_eq!(made["spec"]["hostnames"], json!([host]));
        let gateway = &made["spec"]["parentRefs"][0];
        assert_eq!(
            (&gateway["name"], &gateway["namespace"]),
            (&json!("public"), &json!("gateways"))
        );
        // The definition's defaults are set, so the object was validated against it.
        assert_eq!(gateway["kind"], "Gateway");
        let backend = &made["spec"]["rules"][0]["backendRefs"][0];
        assert_eq!(
            (&backend["kind"], &backend["port"]),
            (&json!("Service"), &json!(port))
        );
    }

    let edit = json!({"spec": {"hostnames": ["elsewhere.example.org"]}});
    routes
        .patch(name, &PatchParams::default(), &Patch::Merge(edit))
        .await
        .unwrap();
    routes
        .delete(&format!("{name}-terminal"), &DeleteParams::default())
        .await
        .unwrap();
    until_network(&fixture, &spec.sandbox, false).await;
    fixture.driver.ensure_network(&spec).await.unwrap();
    assert!(fixture.driver.observe(&spec.sandbox).await.unwrap().network);
    let repaired = routes.get(name).await.unwrap().data;
    assert_eq!(
        repaired["spec"]["hostnames"],
        json!([format!("{name}.apps.example.org")])
    );

    fixture.driver.destroy(&spec.sandbox).await.unwrap();
    assert!(
        routes
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

/// Waits, by the driver's own requeues, until it observes the network as `expected`.
async fn until_network(fixture: &Fixture, sandbox: &fsa_model::SandboxRef, expected: bool) {
    use futures_util::StreamExt as _;
    let mut requeues = fixture.driver.changes();
    let wait = async {
        while fixture.driver.observe(sandbox).await.unwrap().network != expected {
            // Bounded, because a requeue that came before the observation is not repeated.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), requeues.next()).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(240), wait)
        .await
        .expect("it is observed in time");
}
