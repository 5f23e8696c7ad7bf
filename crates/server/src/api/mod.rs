//! HTTP API and pages of the main host, for people, browsers and programs.
//!
//! Each module owns the routes of one resource: short handlers that call a use case, and `routes()`, which
//! [`routes`] merges. Handlers state whole paths, so that a search for a path finds them. [`middleware`] owns
//! what all responses have in common.

mod agent_account;
mod agents;
mod audit;
mod auth;
mod backups;
mod branches;
pub mod cursor;
mod environment;
pub mod error;
mod events;
mod exec;
mod files;
mod git;
mod git_credential;
mod github;
pub mod health;
mod idempotency_key;
mod images;
mod in_branch;
mod keys;
mod local_redirect;
mod logs;
mod members;
pub mod middleware;
mod openapi;
mod page;
mod ports;
pub mod prefer;
mod projects;
mod regions;
mod sandbox;
mod snapshot_diff;
mod snapshot_schedule;
mod snapshots;
mod sse;
mod start_suggestion;
mod system;
mod tasks;
mod terminal;
mod tokens;
mod usage;
mod users;
pub mod web;

use axum::{Router, extract::DefaultBodyLimit, middleware::from_fn_with_state};
pub use error::Error;
pub use openapi::document;
use utoipa_axum::router::OpenApiRouter;

use crate::state::App;

/// All routes of the main host, and the API document with them. A route that is in neither the document nor the
/// list of pages does not exist.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::frame())
        .merge(health::routes())
        .merge(system::routes())
        .merge(regions::routes())
        .merge(auth::routes())
        .merge(github::routes())
        .merge(tokens::routes())
        .merge(users::routes())
        .merge(audit::routes())
        .merge(keys::routes())
        .merge(projects::routes())
        .merge(sandbox::routes())
        .merge(snapshots::routes())
        .merge(snapshot_diff::routes())
        .merge(snapshot_schedule::routes())
        .merge(branches::routes())
        .merge(backups::routes())
        .merge(members::routes())
        .merge(environment::routes())
        .merge(events::routes())
        .merge(agents::routes())
        .merge(agent_account::routes())
        .merge(git_credential::routes())
        .merge(git::routes())
        .merge(tasks::routes())
        .merge(images::routes())
        .merge(ports::routes())
        .merge(exec::routes())
        .merge(files::routes())
        .merge(terminal::routes())
        .merge(logs::routes())
        .merge(start_suggestion::routes())
        .merge(usage::routes())
        .merge(crate::gateway::handoff::routes())
        .merge(crate::gateway::ingress::routes())
}

/// The listener for metrics as a service.
pub fn metrics_router(app: App) -> Router {
    health::metrics_router(app)
}

/// The main host as a service, with all its middleware.
pub fn router(app: App) -> Router {
    let (router, document) = routes().split_for_parts();
    router
        .merge(openapi::routes(document))
        .merge(page::routes())
        .merge(web::routes())
        .fallback(web::fallback)
        .method_not_allowed_fallback(middleware::no_such_method)
        .layer(DefaultBodyLimit::max(app.settings.limits.body))
        .layer(from_fn_with_state(app.clone(), middleware::main_host))
        .with_state(app)
}
