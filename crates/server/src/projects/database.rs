//! View of a branch's database. Revealing its password is audited.

use fsa_model::{DatabaseSpec, api, api::DatabaseStatus};
use secrecy::ExposeSecret as _;

use crate::{
    auth::{
        Caller,
        permission::{Read, Write},
    },
    core::Core,
    error::{Error, Result},
    store::{
        associated_data, audit,
        branches::{self, BranchReference},
        databases,
    },
};

/// Timeout for the region's answer on how to reach the database.
const CREDENTIALS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// The branch's database. With `reveal` it includes the connection string, which is audited first.
///
/// # Errors
/// Not found; 409 where the connection string is requested but not known yet.
pub async fn view(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    reveal: bool,
) -> Result<api::Database> {
    let project = branches::find::<Read>(&core.store, caller, reference).await?;
    let database = databases::of(&core.store, project.branch())
        .await?
        .ok_or_else(|| Error::not_found("database").with_project(project.id))?;
    let region = core.regions.get(&project.region).ok_or_else(|| {
        Error::unavailable(format!(
            "The region {} is not configured on this server.",
            project.region
        ))
        .with_project(project.id)
    })?;
    let mut view = api::Database {
        provider: region.databases.provider().to_owned(),
        status: database.status,
        name: fsa_model::spec::role_of(&database.resource),
        connection_string: None,
    };
    if reveal {
        project.with_permission::<Write>()?;
        if database.status != DatabaseStatus::Ready && !region.databases.predictable_credentials() {
            return Err(Error::conflict("The database is not ready yet.").with_project(project.id));
        }
        let mut tx = core.store.begin().await?;
        let object = match project.branch().name.is_main() {
            true => format!("project {}", project.id),
            false => format!("branch {} of project {}", project.branch().name, project.id),
        };
        audit::record(&mut tx, caller, "database.reveal", object).await?;
        tx.commit().await?;
        let spec = DatabaseSpec {
            project: project.id,
            volume: database.volume,
            password: core.key_ring.decrypt(
                associated_data::database_password(&project.id.to_string()),
                &database.password,
            )?,
            resource: database.resource,
            resources: project.size.resources(),
        };
        let credentials = tokio::time::timeout(CREDENTIALS_TIMEOUT, region.databases.credentials(&spec))
            .await
            .map_err(|_| Error::unavailable("The region did not return the credentials of the database."))?
            .map_err(|error| Error::from(error).with_project(project.id))?;
        // With the parameter that Prisma expects; in the sandbox the URL has no parameter.
        view.connection_string = Some(format!("{}?schema=public", credentials.url().expose_secret()));
    }
    Ok(view)
}
