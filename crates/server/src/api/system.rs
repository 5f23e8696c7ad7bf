//! System checks and usage of all sandboxes: `/api/system`, for the owners of the system.

use std::time::Duration;

use axum::extract::State;
use fsa_model::{
    ErrorBody,
    api::Page,
    system::{Check, CheckState, SandboxUsage, SystemUsage},
};
use futures_util::{StreamExt as _, stream};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::Caller,
    error::Result,
    extract::Json,
    sandbox_client::RunningSandbox,
    state::App,
    store::sandboxes::{self, RunningRow},
};

/// Timeout for all checks together; checking a cluster takes dozens of requests.
const CHECKS_TIMEOUT: Duration = Duration::from_secs(45);
/// Timeout for one data plane to measure one sandbox.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of sandboxes measured per response.
const MAX_SANDBOXES: u32 = 100;
/// Number of sandboxes measured concurrently.
const CONCURRENCY: usize = 16;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(checks))
        .routes(routes!(usage))
}

/// The checks that `fsa doctor` shows for this server
#[utoipa::path(get, path = "/api/system/checks", tag = "system",
    responses((status = OK, body = Page<Check>), (status = FORBIDDEN, body = ErrorBody)))]
async fn checks(State(app): State<App>, caller: Caller) -> Result<Json<Page<Check>>> {
    caller.must_be_owner()?;
    let (regions, own) = tokio::join!(
        app.health.of(&app.regions),
        tokio::time::timeout(CHECKS_TIMEOUT, app.settings.checks.run()),
    );
    let mut items = own.unwrap_or_else(|_| {
        let why = format!(
            "they took longer than {} seconds; try again, or run `fsa doctor` at the server",
            CHECKS_TIMEOUT.as_secs()
        );
        vec![Check::new("checks", CheckState::Warning, why)]
    });
    items.extend(regions.into_iter().map(|region| {
        let name = format!("region {}", region.name);
        if region.healthy {
            Check::good(&name, format!("{} answers", region.kind))
        } else {
            let why = format!("{} does not answer; the server's log has the reason", region.kind);
            Check::new(&name, CheckState::Bad, why)
        }
    }));
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}

/// Current resource usage of each running sandbox, of all users
#[utoipa::path(get, path = "/api/system/usage", tag = "system",
    responses((status = OK, body = SystemUsage), (status = FORBIDDEN, body = ErrorBody)))]
async fn usage(State(app): State<App>, caller: Caller) -> Result<Json<SystemUsage>> {
    caller.must_be_owner()?;
    let (running, all) = sandboxes::running(&app.store, MAX_SANDBOXES).await?;
    let omitted = all.saturating_sub(running.len() as u64);
    let items = stream::iter(running)
        .map(|running| measure(&app, running))
        .buffered(CONCURRENCY)
        .collect()
        .await;
    Ok(Json(SystemUsage { items, omitted }))
}

/// A sandbox that does not respond has no figures and does not affect the others.
async fn measure(app: &App, running: RunningRow) -> SandboxUsage {
    let usage = match RunningSandbox::of_row(app, &running.region, &running.sandbox) {
        Ok(sandbox) => tokio::time::timeout(MEASURE_TIMEOUT, sandbox.usage())
            .await
            .ok()
            .and_then(Result::ok),
        Err(_) => None,
    };
    SandboxUsage {
        project_id: running.sandbox.project,
        project: running.project,
        owner_login: running.owner,
        region: running.region,
        usage,
    }
}
