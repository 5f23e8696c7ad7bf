//! Request limit tests: what all responses have in common, and which requests are refused.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

use crate::common::World;

#[tokio::test]
async fn all_errors_have_the_same_form() {
    let world = World::new().await;
    let owner = world.owner().await;
    let raw = |body: &'static str, kind: &'static str| {
        let owner = owner.clone();
        async move {
            owner
                .send_bytes(
                    Method::POST,
                    "/api/projects",
                    Some(kind),
                    Bytes::from_static(body.as_bytes()),
                )
                .await
        }
    };
    let refusals = [
        (owner.get("/api/nothing").await, 404, "NotFound"),
        (owner.get("/nothing").await, 404, "NotFound"),
        (owner.delete("/api/projects").await, 405, "MethodNotAllowed"),
        (raw("{}", "text/plain").await, 415, "UnsupportedMediaType"),
        (raw("{", "application/json").await, 400, "BadRequest"),
        (
            raw(r#"{"name":1}"#, "application/json").await,
            422,
            "InvalidField",
        ),
        (owner.get("/api/projects?page=2").await, 422, "InvalidField"),
        (
            owner.get("/api/projects/todo/events?follow=maybe").await,
            422,
            "InvalidField",
        ),
        (owner.delete("/api/tokens/not-an-id").await, 404, "NotFound"),
        (world.anonymous().get("/api/me").await, 401, "Unauthorized"),
    ];
    for (answer, status, name) in refusals {
        let answer = answer.expect(status);
        let error = answer.error();
        assert_eq!(error.details.name, name);
        assert!(!error.error.is_empty());
        let id = error.details.request_id.expect("a request has an id");
        assert_eq!(answer.headers["x-request-id"], id.as_str());
        assert_eq!(answer.headers["content-type"], "application/json");
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let world = World::with(|settings| settings.limits.body = 1024 * 1024).await;
    let owner = world.owner().await;
    let long = |bytes: usize| json!({"name": "a", "description": "x".repeat(bytes)});

    let refused = owner.post("/api/projects", &long(1024 * 1024)).await.expect(413);

    assert_eq!(refused.error().details.name, "TooLarge");
    let read = owner.post("/api/projects", &long(900 * 1024)).await.expect(422);
    assert_eq!(read.error().details.field.unwrap().name, "description");
    // An unauthenticated client may send little.
    let anonymous = world.anonymous();
    let sign_in = json!({"token": "x".repeat(65 * 1024)});
    anonymous.post("/api/auth/link", &sign_in).await.expect(413);
}

#[tokio::test]
async fn a_valid_request_id_is_kept() {
    let world = World::new().await;
    let kept = world
        .anonymous()
        .with("x-request-id", "abc-123")
        .get("/healthz")
        .await;
    assert_eq!(kept.headers["x-request-id"], "abc-123");
    let replaced = world
        .anonymous()
        .with("x-request-id", "a b\"c")
        .get("/healthz")
        .await;
    assert_ne!(replaced.headers["x-request-id"], "a b\"c");
}

#[tokio::test]
async fn all_responses_have_security_headers() {
    let world = World::new().await;
    for path in ["/", "/sign-in", "/api/me", "/nothing", "/healthz"] {
        let answer = world.anonymous().get(path).await;
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(answer.headers["x-frame-options"], "DENY", "{path}");
        // A sign-in popup of a preview in the page needs its opener.
        assert_eq!(
            answer.headers["cross-origin-opener-policy"], "same-origin-allow-popups",
            "{path}"
        );
    }
    let redirect = world
        .anonymous()
        .get("/api/auth/preview?host=a--3000.localhost")
        .await;
    assert_eq!(redirect.status, StatusCode::FOUND);
    assert!(!redirect.headers.contains_key("cross-origin-opener-policy"));
    assert_eq!(
        world.anonymous().get("/api/me").await.headers["cache-control"],
        "no-store"
    );
}

#[tokio::test]
async fn causes_of_errors_are_shown_in_development_only() {
    for development in [false, true] {
        let world = World::with(|settings| settings.development = development).await;
        let owner = world.owner().await;
        world
            .database
            .sql("alter table api_tokens rename column name to title");

        let error = owner.get("/api/tokens").await.expect(500).error();

        assert_eq!(error.details.stack.is_some(), development);
        assert!(!error.error.contains("column"));
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_error_without_its_message() {
    use axum::{Router, body::Body, middleware::from_fn_with_state, routing::get};
    use fsa_server::api::middleware::main_host;
    use tower::ServiceExt as _;
    let world = World::new().await;
    async fn fails() {
        panic!("an inside matter");
    }
    let router = Router::new()
        .route("/", get(fails))
        .layer(from_fn_with_state(world.app.clone(), main_host))
        .with_state(world.app.clone());

    let answer = router.oneshot(http::Request::new(Body::empty())).await.unwrap();

    assert_eq!(answer.status(), 500);
    let body = axum::body::to_bytes(answer.into_body(), 10_000).await.unwrap();
    let error: fsa_model::ErrorBody = serde_json::from_slice(&body).unwrap();
    assert!(error.details.request_id.is_some());
    assert!(!String::from_utf8_lossy(&body).contains("inside matter"));
}

#[tokio::test]
async fn liveness_and_readiness_are_reported() {
    let world = World::new().await;
    let anonymous = world.anonymous();
    assert_eq!(anonymous.get("/healthz").await.expect(200).json()["status"], "ok");
    while anonymous.get("/readyz").await.status != 200 {
        tokio::task::yield_now().await;
    }

    world
        .app
        .metrics
        .report("region here", Some("the runner is gone".into()));
    let unready = anonymous.get("/readyz").await.expect(503).json();
    assert_eq!(unready["parts"]["region here"], "the runner is gone");
    assert_eq!(unready["parts"]["database"], "ok");
    world.app.metrics.report("region here", None);
    anonymous.get("/readyz").await.expect(200);

    let metrics = anonymous.get("/metrics").await.expect(200).text();
    assert!(metrics.contains(r#"fsa_http_requests_total{method="GET",route="/healthz",status="200"} 1"#));
}

#[tokio::test]
async fn metrics_are_served_to_loopback_and_on_their_own_listener() {
    let world = World::new().await;
    let here = world.anonymous();
    here.get("/metrics").await.expect(200);
    here.with("host", "localhost:9999")
        .get("/metrics")
        .await
        .expect(200);
    // A proxy on this machine passes them on to the world.
    here.with("x-forwarded-for", "203.0.113.7")
        .get("/metrics")
        .await
        .expect(403);
    here.with("forwarded", "for=203.0.113.7")
        .get("/metrics")
        .await
        .expect(403);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there =
        crate::common::Client::new(listener.local_addr().unwrap()).with("x-forwarded-for", "203.0.113.7");
    tokio::spawn(fsa_server::listener::serve_metrics(world.app.clone(), listener));
    assert!(
        there
            .get("/metrics")
            .await
            .expect(200)
            .text()
            .contains("fsa_http_connections")
    );
    there.get("/api/me").await.expect(404);
}

#[tokio::test]
async fn the_plain_page_shows_version_and_sign_in() {
    let world = World::new().await;
    let page = world.anonymous().get("/").await.expect(200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    let text = page.text();
    assert!(text.contains("Version test") && text.contains("/sign-in") && !text.contains("<script"));
}
