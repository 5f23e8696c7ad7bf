//! Images of a region, and the import of an archive: `/api/images`.

use axum::{body::Body, extract::State};
use fsa_driver::Region;
use fsa_model::{
    ErrorBody,
    api::{ImageInfo, Page},
};
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::Caller,
    error::{Error, Result},
    extract::{Json, Query},
    projects::validate,
    state::App,
    store::audit,
};

/// Timeout for a region to list its images.
const LIST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, import))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Defaults to the default region.
    #[serde(default)]
    region: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ImportQuery {
    /// Name to give the imported image.
    name: String,
    /// Defaults to the default region.
    #[serde(default)]
    region: Option<String>,
}

/// The images of a region
#[utoipa::path(get, path = "/api/images", tag = "images", params(ListQuery),
    responses((status = OK, body = Page<ImageInfo>), (status = UNAUTHORIZED, body = ErrorBody)))]
async fn list(
    State(app): State<App>,
    _: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<ImageInfo>>> {
    let region = region(&app, query.region.as_deref())?;
    let items = tokio::time::timeout(LIST_TIMEOUT, region.driver.images())
        .await
        .map_err(|_| Error::unavailable("The region does not answer."))??;
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}

/// Imports an OCI archive (a tar of an OCI layout, or of `docker save`)
#[utoipa::path(post, path = "/api/images", tag = "images", params(ImportQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = CREATED, body = ImageInfo), (status = FORBIDDEN, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the region takes images from registries only"),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn import(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ImportQuery>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<ImageInfo>)> {
    caller.must_be_owner()?;
    validate::image_reference("name", &query.name)?;
    let region = region(&app, query.region.as_deref())?;
    if !region.driver.capabilities().imports_images {
        let why = format!("The region {} takes images from registries only.", region.name);
        return Err(Error::conflict(why));
    }
    let archive = request
        .into_body()
        .into_data_stream()
        .map(|chunk| chunk.map_err(std::io::Error::other));
    let image = region.driver.import_image(&query.name, Box::pin(archive)).await?;
    let mut connection = app.store.pool().acquire().await?;
    let object = format!("image {} ({})", image.name, image.digest);
    audit::record(&mut connection, &caller, "image.import", object).await?;
    Ok((StatusCode::CREATED, Json(image)))
}

fn region<'a>(app: &'a App, name: Option<&str>) -> Result<&'a Region> {
    let name = name.unwrap_or_else(|| app.regions.default_name());
    app.regions
        .get(name)
        .ok_or_else(|| Error::invalid("region", "there is no such region"))
}
