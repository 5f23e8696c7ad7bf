//! Liveness, readiness and metrics endpoints.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{extract::Json, state::App};

/// Timeout for a query to the control database.
const DATABASE: Duration = Duration::from_secs(2);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
}

/// The process is alive.
#[derive(Serialize, ToSchema)]
struct Health {
    status: &'static str,
    version: &'static str,
}

/// Readiness of the server.
#[derive(Serialize, ToSchema)]
struct Readiness {
    ready: bool,
    /// By component: `ok`, or a sentence that describes the failure.
    parts: BTreeMap<String, String>,
}

/// Liveness
#[utoipa::path(get, path = "/healthz", tag = "system", security(()), responses((status = OK, body = Health)))]
async fn healthz(State(app): State<App>) -> Json<Health> {
    Json(Health {
        status: "ok",
        version: app.settings.version,
    })
}

/// Readiness, with reasons
#[utoipa::path(get, path = "/readyz", tag = "system", security(()),
    responses((status = OK, body = Readiness), (status = SERVICE_UNAVAILABLE, body = Readiness)))]
async fn readyz(State(app): State<App>) -> Response {
    let mut failures = app.metrics.failures();
    let asked = app.store.ping();
    match tokio::time::timeout(DATABASE, asked).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the control database does not answer");
            failures.insert("database".into(), "the control database does not answer".into());
        }
        Err(_) => {
            failures.insert("database".into(), "the control database is silent".into());
        }
    }
    if !app.hub.is_listening() {
        failures.insert(
            "listener".into(),
            "changes in the control database are not heard".into(),
        );
    }
    if app.regions.iter().next().is_none() {
        failures.insert("regions".into(), "no region is configured".into());
    }
    if app.shutdown.is_cancelled() {
        failures.insert("server".into(), "the server is shutting down".into());
    }
    let ready = failures.is_empty();
    let mut parts: BTreeMap<_, _> = ["database", "listener", "regions"]
        .into_iter()
        .map(|part| (part.to_owned(), "ok".to_owned()))
        .collect();
    parts.extend(failures);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(Readiness { ready, parts })).into_response()
}

/// Metrics for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "system", security(()),
    responses((status = OK, body = String, content_type = "application/openmetrics-text")))]
async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.encode())
}
