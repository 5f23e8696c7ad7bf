//! Regions for projects: `/api/regions`.

use axum::extract::State;
use fsa_model::{ErrorBody, api::Page, system::RegionInfo};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{auth::Caller, error::Result, extract::Json, state::App};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The available regions, the default first
#[utoipa::path(get, path = "/api/regions", tag = "regions",
    responses((status = OK, body = Page<RegionInfo>), (status = UNAUTHORIZED, body = ErrorBody)))]
async fn list(State(app): State<App>, _: Caller) -> Result<Json<Page<RegionInfo>>> {
    let mut items = app.health.of(&app.regions).await;
    for region in &mut items {
        region.backups &= app.backups.is_some();
    }
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}
