//! API document test: the document has every route of the router.

use std::collections::BTreeSet;

use crate::common::World;

/// Routes outside the API: pages, and the document itself.
const PAGES: [&str; 7] = [
    "/",
    "/sign-in",
    "/sign-in.js",
    "/style.css",
    "/assets/{file}",
    "/icon.svg",
    "/api/openapi.json",
];

/// The types of the web page are generated from this copy of the document.
const COPY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../web/api.json");

#[test]
fn web_api_json_is_the_generated_document() {
    let document = fsa_server::api::document().to_pretty_json().unwrap();
    let copy = std::fs::read_to_string(COPY).unwrap();
    assert!(
        document.trim_end() == copy.trim_end(),
        "web/api.json is outdated; regenerate it: \
         cargo run -p fsa-server --example openapi > web/api.json"
    );
}

#[tokio::test]
async fn every_route_of_the_server_is_in_the_document() {
    let world = World::new().await;

    let document = world
        .anonymous()
        .get("/api/openapi.json")
        .await
        .expect(200)
        .json();

    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let documented: BTreeSet<_> = document["paths"].as_object().unwrap().keys().cloned().collect();
    // The router exposes its paths only in its debug output.
    let router = format!("{:?}", fsa_server::api::router(world.app.clone()));
    let routes: BTreeSet<_> = router
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| text.starts_with('/') && !text.contains("__private"))
        .map(str::to_owned)
        .collect();
    assert!(routes.contains("/api/projects/{project}"), "{routes:?}");
    let undocumented: Vec<_> = routes
        .iter()
        .filter(|route| !documented.contains(*route) && !PAGES.contains(&route.as_str()))
        .collect();
    assert!(undocumented.is_empty(), "{undocumented:?}");
    for path in &documented {
        assert!(routes.contains(path), "{path} is documented but has no route");
    }
}

#[tokio::test]
async fn every_operation_has_a_summary_and_a_unique_name() {
    let world = World::new().await;
    let document = world
        .anonymous()
        .get("/api/openapi.json")
        .await
        .expect(200)
        .json();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            let name = operation["operationId"].as_str().unwrap();
            assert!(
                names.insert(name.to_owned()),
                "{method} {path}: {name} is not unique"
            );
        }
    }
}
