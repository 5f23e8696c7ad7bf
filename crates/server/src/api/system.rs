//! `/api/system`: for the owners of the system, what its doctor finds and what all sandboxes use.

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
    store::sandboxes::{self, Running},
};

/// How long all checks together may take; a cluster is asked dozens of questions.
const CHECKS: Duration = Duration::from_secs(45);
/// How long one data plane may take to look at one sandbox.
const LOOK: Duration = Duration::from_secs(5);
/// Sandboxes that are looked at for one answer.
const MOST: u32 = 100;
/// Of those, so many at the same time.
const SIDE_BY_SIDE: usize = 16;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(checks))
        .routes(routes!(usage))
}

/// What `fsa doctor` says of this server
#[utoipa::path(get, path = "/api/system/checks", tag = "system",
    responses((status = OK, body = Page<Check>), (status = FORBIDDEN, body = ErrorBody)))]
async fn checks(State(app): State<App>, caller: Caller) -> Result<Json<Page<Check>>> {
    caller.must_be_owner()?;
    let (regions, own) = tokio::join!(
        app.health.of(&app.regions),
        tokio::time::timeout(CHECKS, app.settings.checks.run()),
    );
    let mut items = own.unwrap_or_else(|_| {
        let why = format!(
            "they took longer than {} seconds; look again, or run `fsa doctor` at the server",
            CHECKS.as_secs()
        );
        vec![Check::new("checks", CheckState::Warning, why)]
    });
    items.extend(regions.into_iter().map(|region| {
        let name = format!("region {}", region.name);
        if region.healthy {
            Check::good(&name, format!("{} answers", region.kind))
        } else {
            let why = format!("{} does not answer; the server's log says why", region.kind);
            Check::new(&name, CheckState::Bad, why)
        }
    }));
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}

/// What each sandbox that runs uses at this moment, of all users
#[utoipa::path(get, path = "/api/system/usage", tag = "system",
    responses((status = OK, body = SystemUsage), (status = FORBIDDEN, body = ErrorBody)))]
async fn usage(State(app): State<App>, caller: Caller) -> Result<Json<SystemUsage>> {
    caller.must_be_owner()?;
    let (running, all) = sandboxes::running(&app.store, MOST).await?;
    let omitted = all.saturating_sub(running.len() as u64);
    let items = stream::iter(running)
        .map(|running| look(&app, running))
        .buffered(SIDE_BY_SIDE)
        .collect()
        .await;
    Ok(Json(SystemUsage { items, omitted }))
}

/// One that does not answer has no figures, and takes nothing from the others.
async fn look(app: &App, running: Running) -> SandboxUsage {
    let usage = match RunningSandbox::of_row(app, &running.region, &running.sandbox) {
        Ok(sandbox) => tokio::time::timeout(LOOK, sandbox.usage())
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
