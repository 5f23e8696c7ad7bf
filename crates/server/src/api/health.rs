//! Liveness, readiness and metrics endpoints.
//!
//! The metrics name users' routes and the load, so on the main host they are for programs on this machine alone. For
//! others there is a separate listener ([`metrics_router`]), which an operator opens.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use fsa_model::{ErrorBody, address::is_localhost};
use http::{StatusCode, header, request::Parts};
use serde::Serialize;
use url::{Host, Url};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    error::{Error, Result},
    extract::Json,
    state::App,
};

/// Timeout for a query to the control database.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// The address of a request's connection, in its extensions: of the client, or of the last proxy before us.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

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
    let ping = app.store.ping();
    match tokio::time::timeout(DATABASE_TIMEOUT, ping).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the control database does not answer");
            failures.insert("database".into(), "the control database does not answer".into());
        }
        Err(_) => {
            failures.insert(
                "database".into(),
                "the control database did not answer in time".into(),
            );
        }
    }
    if !app.hub.is_listening() {
        failures.insert(
            "listener".into(),
            "notifications of the control database do not arrive".into(),
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
    description = "For programs on the server's machine. The setting `metrics_listen` has an address for others.",
    responses((status = OK, body = String, content_type = "application/openmetrics-text"),
              (status = FORBIDDEN, body = ErrorBody)))]
async fn metrics(State(app): State<App>, request: Parts) -> Result<Response> {
    if !is_on_this_machine(&request) {
        return Err(Error::forbidden(
            "Metrics are for programs on the server's machine, at a loopback address. For others, set \
             metrics_listen to an address that only they reach.",
        ));
    }
    Ok(encoded(&app))
}

/// The metrics, on a separate listener, for everyone who reaches it.
pub(super) fn metrics_router(app: App) -> Router {
    Router::new()
        .route("/metrics", get(async |State(app): State<App>| encoded(&app)))
        .with_state(app)
}

fn encoded(app: &App) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.encode()).into_response()
}

/// Whether a program on this machine sent the request for itself. A reverse proxy on this machine is one too, but it
/// forwards the public host name, or says that it forwards.
fn is_on_this_machine(request: &Parts) -> bool {
    const FORWARDED: [&str; 5] = [
        "forwarded",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-real-ip",
    ];
    let peer = request.extensions.get::<Peer>();
    let host = request
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    peer.is_some_and(|Peer(address)| address.to_canonical().is_loopback())
        && host.or(request.uri.host()).is_some_and(is_loopback_name)
        && !FORWARDED.iter().any(|name| request.headers.contains_key(*name))
}

/// Whether an authority names this machine by a loopback name or address.
pub(crate) fn is_loopback_name(authority: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{authority}")) else {
        return false;
    };
    match url.host() {
        Some(Host::Domain(name)) => is_localhost(name),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}
