//! Images of a region: their list, the import of an archive, and removal, `/api/images`.

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
    extract::{Json, Path, Query},
    projects::validate,
    state::App,
    store::{audit, projects},
};

/// Timeout for a region to list or look up its images.
const REGION_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// Projects that an error names.
const MAX_NAMED_PROJECTS: usize = 5;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, import))
        .routes(routes!(remove))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct RegionQuery {
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
#[utoipa::path(get, path = "/api/images", tag = "images", params(RegionQuery),
    responses((status = OK, body = Page<ImageInfo>), (status = UNAUTHORIZED, body = ErrorBody)))]
async fn list(
    State(app): State<App>,
    _: Caller,
    Query(query): Query<RegionQuery>,
) -> Result<Json<Page<ImageInfo>>> {
    let region = region(&app, query.region.as_deref())?;
    Ok(Json(Page {
        items: within_time(region.driver.images()).await?,
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
    must_store_images(region)?;
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

/// Removes an image that no project uses
#[utoipa::path(delete, path = "/api/images/{name}", tag = "images", params(("name" = String, Path), RegionQuery),
    responses((status = NO_CONTENT), (status = FORBIDDEN, body = ErrorBody), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "projects use it, or the region stores no images")))]
async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<RegionQuery>,
) -> Result<StatusCode> {
    caller.must_be_owner()?;
    let region = region(&app, query.region.as_deref())?;
    must_store_images(region)?;
    let images = within_time(region.driver.images()).await?;
    let image = images
        .iter()
        .find(|image| image.name == name)
        .ok_or_else(|| Error::not_found("image"))?;
    let mut users = Vec::new();
    for (image, projects) in projects::by_image(&app.store, &region.name).await? {
        if within_time(region.driver.stored_image(&image)).await?.as_deref() == Some(&name) {
            users.extend(projects);
        }
    }
    if !users.is_empty() {
        return Err(Error::conflict(in_use(&name, &users)));
    }
    let object = format!("image {} ({})", image.name, image.digest);
    let mut tx = app.store.begin().await?;
    audit::record(&mut tx, &caller, "image.remove", object).await?;
    within_time(region.driver.remove_image(&name)).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `projects`: as `OWNER/NAME`.
fn in_use(image: &str, projects: &[String]) -> String {
    let named = projects
        .iter()
        .take(MAX_NAMED_PROJECTS)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let more = match projects.len().saturating_sub(MAX_NAMED_PROJECTS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("The image {image} is used by {named}{more}. Change the image of these projects, or delete them.")
}

async fn within_time<T>(request: impl Future<Output = fsa_driver::Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(REGION_TIMEOUT, request).await;
    Ok(answer.map_err(|_| Error::unavailable("The region does not answer."))??)
}

/// # Errors
/// 409.
fn must_store_images(region: &Region) -> Result<()> {
    if region.driver.capabilities().imports_images {
        return Ok(());
    }
    let why = format!("The region {} takes images from registries only.", region.name);
    Err(Error::conflict(why))
}

fn region<'a>(app: &'a App, name: Option<&str>) -> Result<&'a Region> {
    let name = name.unwrap_or_else(|| app.regions.default_name());
    app.regions
        .get(name)
        .ok_or_else(|| Error::invalid("region", "there is no such region"))
}
