//! HTTPRoutes of the Gateway API before a real API server, which has the published definitions
//! (`tests/cluster/gateway.sh DIR`) and checks what is sent by them. No Gateway serves them here.

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

use crate::{faults::spec, world::Place};

#[tokio::test]
async fn routes_are_taken_by_the_api_and_put_right_when_others_change_them() {
    let place = Place::with_its_role_alone_and(Reach::Direct, |settings| {
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
        place.cluster.client.clone(),
        &place.cluster.namespace,
        &objects::http_route_resource(),
    );
    let spec = spec("routed");
    let name = spec.sandbox.resource.as_str();
    place.driver.ensure_network(&spec).await.unwrap();
    assert!(place.driver.observe(&spec.sandbox).await.unwrap().network);

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
        // That it has the definition's defaults shows that it was read by the definition.
        assert_eq!(gateway["kind"], "Gateway");
        let backend = &made["spec"]["rules"][0]["backendRefs"][0];
        assert_eq!(
            (&backend["kind"], &backend["port"]),
            (&json!("Service"), &json!(port))
        );
    }

    let led_astray = json!({"spec": {"hostnames": ["elsewhere.example.org"]}});
    routes
        .patch(name, &PatchParams::default(), &Patch::Merge(led_astray))
        .await
        .unwrap();
    routes
        .delete(&format!("{name}-terminal"), &DeleteParams::default())
        .await
        .unwrap();
    until_network(&place, &spec.sandbox, false).await;
    place.driver.ensure_network(&spec).await.unwrap();
    assert!(place.driver.observe(&spec.sandbox).await.unwrap().network);
    let mended = routes.get(name).await.unwrap().data;
    assert_eq!(
        mended["spec"]["hostnames"],
        json!([format!("{name}.apps.example.org")])
    );

    place.driver.destroy(&spec.sandbox).await.unwrap();
    assert!(
        routes
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

/// Waits, by the driver's own requeues, until it sees the network so.
async fn until_network(place: &Place, sandbox: &fsa_model::SandboxRef, wanted: bool) {
    use futures_util::StreamExt as _;
    let mut requeues = place.driver.changes();
    let wait = async {
        while place.driver.observe(sandbox).await.unwrap().network != wanted {
            // A requeue that came before this look is in the look.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), requeues.next()).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), wait)
        .await
        .expect("it is seen in time");
}
