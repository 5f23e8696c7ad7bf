//! View of a branch's database, and connections to it. Revealing its password is audited.

use std::{net::IpAddr, time::Duration};

use fsa_driver::{BoxConnection, Region};
use fsa_model::{DatabaseSpec, api, api::DatabaseStatus, spec::Credentials};
use http::StatusCode;
use secrecy::ExposeSecret as _;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    auth::{
        Caller,
        permission::{Permission, Read, Write},
    },
    core::Core,
    error::{Error, Result},
    sandbox_client::RunningSandbox,
    store::{
        associated_data, audit,
        branches::{self, AuthorizedBranch, BranchReference},
        databases::{self, DatabaseRow},
    },
};

/// Timeout for the region's answer on how to reach the database.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a connection to a database server that is not in the sandbox.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
    let (database, region) = find(core, &project).await?;
    let mut view = api::Database {
        provider: region.databases.provider().to_owned(),
        status: database.status,
        name: fsa_model::spec::role_of(&database.resource),
        connection_string: None,
    };
    if reveal {
        project.with_permission::<Write>()?;
        check_ready(&project, &database, region)?;
        let mut tx = core.store.begin().await?;
        let object = match project.branch().name.is_main() {
            true => format!("project {}", project.id),
            false => format!("branch {} of project {}", project.branch().name, project.id),
        };
        audit::record(&mut tx, caller, "database.reveal", object).await?;
        tx.commit().await?;
        let credentials = credentials(core, &project, database, region).await?;
        // With the parameter that Prisma expects; in the sandbox the URL has no parameter.
        view.connection_string = Some(format!("{}?schema=public", credentials.url().expose_secret()));
    }
    Ok(view)
}

/// Opens a connection to the branch's database server, in which the client speaks PostgreSQL's protocol.
///
/// # Errors
/// 409 where the database is not ready or its sandbox does not run; 502 where the server cannot be reached.
pub async fn connect(core: &Core, project: &AuthorizedBranch<Write>) -> Result<BoxConnection> {
    let (database, region) = find(core, project).await?;
    check_ready(project, &database, region)?;
    let credentials = credentials(core, project, database, region).await?;
    let (host, port) = (credentials.host.as_str(), credentials.port);
    // Where the address is a loopback one, it is the sandbox's. Others are the region's own database servers.
    let is_inside = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if is_inside {
        return RunningSandbox::of(core, project).await?.connect(port).await;
    }
    let unreachable = |reason: String| {
        let sentence = "The database server cannot be reached from this server.";
        Error::new(StatusCode::BAD_GATEWAY, "DatabaseUnreachable", sentence)
            .with_message(format!(
                "{sentence} Reason: {reason}. `fsa db psql` runs in the sandbox, which may reach it."
            ))
            .with_project(project.id)
    };
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port)))
        .await
        .map_err(|_| unreachable("it did not answer in time".into()))?
        .map_err(|error| unreachable(error.to_string()))?;
    Ok(Box::new(stream))
}

async fn find<'a, R: Permission>(
    core: &'a Core,
    project: &AuthorizedBranch<R>,
) -> Result<(DatabaseRow, &'a Region)> {
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
    Ok((database, region))
}

fn check_ready<R: Permission>(
    project: &AuthorizedBranch<R>,
    database: &DatabaseRow,
    region: &Region,
) -> Result<()> {
    if database.status != DatabaseStatus::Ready && !region.databases.predictable_credentials() {
        return Err(Error::conflict("The database is not ready yet.").with_project(project.id));
    }
    Ok(())
}

async fn credentials<R: Permission>(
    core: &Core,
    project: &AuthorizedBranch<R>,
    database: DatabaseRow,
    region: &Region,
) -> Result<Credentials> {
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
    timeout(CREDENTIALS_TIMEOUT, region.databases.credentials(&spec))
        .await
        .map_err(|_| Error::unavailable("The region did not return the credentials of the database."))?
        .map_err(|error| Error::from(error).with_project(project.id))
}
