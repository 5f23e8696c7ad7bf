//! Ports of a sandbox: which listen, their URLs, and who may open them: `/api/projects/{project}/ports`.

use std::collections::BTreeSet;

use axum::extract::State;
use fsa_model::{
    ErrorBody,
    api::{HostHeader, Page, Port, SharePort, SharedPort, Sharing},
    event::EventKind,
    sandboxd::TERMINAL_PORT,
};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::in_branch::InBranch;
use crate::{
    auth::{Caller, permission::Manage, secret},
    error::{Error, Result},
    extract::{Json, Path},
    projects::status,
    state::App,
    store::{
        audit, branches,
        events::{self, NewEvent},
        notify::Topic,
        previews,
        projects::{self, Overview, ProjectRow},
    },
};

/// Maximum number of shared ports per project.
const MAX_SHARED_PORTS: i64 = 100;
/// Maximum number of ports per project that are presented as localhost.
const MAX_LOCALHOST_PORTS: usize = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_ports))
        .routes(routes!(show_port, share_port))
}

/// The ports that listen, are shared or have settings, and their URLs
#[utoipa::path(get, path = "/api/projects/{project}/ports", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = Page<Port>), (status = NOT_FOUND, body = ErrorBody)))]
async fn list_ports(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
) -> Result<Json<Page<Port>>> {
    let overview = projects::overview(&app.store, &caller, &project).await?;
    Ok(Json(Page {
        items: ports(&app, &overview, None).await?,
        next_cursor: None,
    }))
}

/// A port and its URL, whether or not it listens
#[utoipa::path(get, path = "/api/projects/{project}/ports/{port}", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default"), ("port" = u16, Path)),
    responses((status = OK, body = Port), (status = NOT_FOUND, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn show_port(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Path((_, port)): Path<(String, u32)>,
) -> Result<Json<Port>> {
    let overview = projects::overview(&app.store, &caller, &project).await?;
    let port = port_number(port)?;
    let found = ports(&app, &overview, Some(port)).await?;
    let found = found.into_iter().find(|found| found.port == port);
    found.map(Json).ok_or_else(|| Error::not_found("port"))
}

fn port_number(port: u32) -> Result<u16> {
    u16::try_from(port)
        .ok()
        .filter(|&port| port > 0)
        .ok_or_else(|| Error::invalid("port", "it is a number from 1 to 65535"))
}

/// The ports that listen, are shared or have settings, and `also`.
async fn ports(app: &App, overview: &Overview, also: Option<u16>) -> Result<Vec<Port>> {
    let sandbox = status::sandbox(&app.settings, overview);
    let mut connection = app.store.pool().acquire().await?;
    let localhost = previews::localhost_ports(&mut connection, overview.project.id).await?;
    drop(connection);
    let mut items = sandbox.map(|sandbox| sandbox.ports).unwrap_or_default();
    let configured = overview.shares.keys().chain(&localhost).copied().chain(also);
    for port in configured.collect::<BTreeSet<_>>() {
        if items.iter().all(|listening| listening.port != port) {
            items.push(Port {
                port,
                process: None,
                url: status::port_url(&app.settings, overview, port),
                sharing: overview.shares.get(&port).copied().unwrap_or_default(),
                host_header: HostHeader::default(),
            });
        }
    }
    for item in &mut items {
        item.host_header = header_of(&localhost, item.port);
    }
    items.sort_by_key(|port| port.port);
    Ok(items)
}

/// Sets who may open a port's URL, and which host name its application sees
#[utoipa::path(put, path = "/api/projects/{project}/ports/{port}", tag = "sandbox", request_body = SharePort,
    description = "`sharing`: members (`private`), anyone with its link (`link`), or everyone (`public`). `link` \
        answers with a new link, once; an older link of the port no longer opens it. `hostHeader`: the preview's own \
        (`public`), or `localhost:PORT` (`localhost`).",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default"), ("port" = u16, Path)),
    responses((status = OK, body = SharedPort), (status = NOT_FOUND, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn share_port(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Path((_, port)): Path<(String, u32)>,
    Json(request): Json<SharePort>,
) -> Result<Json<SharedPort>> {
    let found = branches::find::<Manage>(&app.store, &caller, &project).await?;
    let port = port_number(port)?;
    if port == TERMINAL_PORT && request.host_header.is_some() {
        return Err(Error::invalid(
            "hostHeader",
            "port 7681 is the terminal, which has no host header",
        ));
    }
    if port == TERMINAL_PORT && request.sharing.is_some_and(|sharing| sharing != Sharing::Private) {
        return Err(Error::invalid(
            "sharing",
            "port 7681 is the terminal, which stays private because it is a shell",
        ));
    }
    if request.sharing.is_none() && request.host_header.is_none() {
        return Err(Error::invalid("sharing", "give sharing, hostHeader or both"));
    }
    if request.sharing.is_some_and(|sharing| sharing != Sharing::Private) && !found.branch().name.is_main() {
        return Err(Error::invalid(
            "sharing",
            "the ports of a branch are open to the members of the project only; share a port of main",
        ));
    }
    let mut tx = app.store.begin().await?;
    let row = branches::lock(&mut tx, &found).await?;
    let link = match request.sharing {
        Some(_) if !row.branch().name.is_main() => None,
        Some(sharing) => share(&mut tx, &caller, &row, port, sharing).await?,
        None => None,
    };
    if let Some(host_header) = request.host_header {
        set_host_header(&mut tx, &caller, &row, port, host_header).await?;
    }
    let localhost = previews::localhost_ports(&mut tx, row.id).await?;
    tx.commit().await?;
    // Wake local subscribers at once, without waiting for this process's own notification.
    app.hub.wake(Topic::Project(row.id));
    let overview = projects::overview(&app.store, &caller, &project).await?;
    let url = status::port_url(&app.settings, &overview, port);
    Ok(Json(SharedPort {
        port,
        link: link.map(|link| {
            format!(
                "{url}/?{}={}",
                crate::gateway::ACCESS_LINK_PARAM,
                link.expose_secret()
            )
        }),
        url,
        sharing: overview.shares.get(&port).copied().unwrap_or_default(),
        host_header: header_of(&localhost, port),
    }))
}

/// Sets who may open the port, and returns a new access link.
async fn share(
    tx: &mut PgConnection,
    caller: &Caller,
    row: &ProjectRow,
    port: u16,
    sharing: Sharing,
) -> Result<Option<SecretString>> {
    let link = (sharing == Sharing::Link).then(secret::random);
    let hash = link.as_ref().map(|link| secret::hash(link.expose_secret()));
    let others = previews::other_shares(tx, row.id, port).await?;
    if sharing == Sharing::Private {
        previews::unshare(tx, row.id, port).await?;
    } else if others >= MAX_SHARED_PORTS {
        return Err(Error::conflict(format!(
            "At most {MAX_SHARED_PORTS} ports of a project are shared."
        )));
    } else {
        previews::share(tx, row.id, port, sharing_name(sharing), hash).await?;
    }
    audit::record(
        tx,
        caller,
        &format!("port.{}", sharing_name(sharing)),
        object(row, port),
    )
    .await?;
    let event = NewEvent::new(row, EventKind::ProjectChanged, sharing_message(port, sharing)).with(
        serde_json::json!({"fields": ["ports"], "port": port, "sharing": sharing, "by": caller.login()}),
    );
    events::append(tx, event).await?;
    Ok(link)
}

/// Sets which host name the port's application sees.
async fn set_host_header(
    tx: &mut PgConnection,
    caller: &Caller,
    row: &ProjectRow,
    port: u16,
    host_header: HostHeader,
) -> Result<()> {
    let mut others = previews::localhost_ports(tx, row.id).await?;
    others.retain(|other| *other != port);
    if host_header == HostHeader::Localhost && others.len() >= MAX_LOCALHOST_PORTS {
        return Err(Error::conflict(format!(
            "At most {MAX_LOCALHOST_PORTS} ports of a project are presented as localhost."
        )));
    }
    previews::set_host_header(tx, row.id, port, host_header).await?;
    let (action, message) = match host_header {
        HostHeader::Public => (
            "port.hostPublic",
            format!("The application at port {port} sees its preview's host name."),
        ),
        HostHeader::Localhost => (
            "port.hostLocalhost",
            format!("The application at port {port} sees the host name localhost:{port}."),
        ),
    };
    audit::record(tx, caller, action, object(row, port)).await?;
    let event = NewEvent::new(row, EventKind::ProjectChanged, message).with(
        serde_json::json!({"fields": ["ports"], "port": port, "hostHeader": host_header, "by": caller.login()}),
    );
    events::append(tx, event).await?;
    Ok(())
}

fn object(row: &ProjectRow, port: u16) -> String {
    format!("port {port} of {} ({})", row.name, row.id)
}

fn header_of(localhost: &[u16], port: u16) -> HostHeader {
    if localhost.contains(&port) {
        HostHeader::Localhost
    } else {
        HostHeader::Public
    }
}

const fn sharing_name(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Private => "private",
        Sharing::Link => "link",
        Sharing::Public => "public",
    }
}

fn sharing_message(port: u16, sharing: Sharing) -> String {
    match sharing {
        Sharing::Private => format!("Port {port} is private."),
        Sharing::Link => format!("Port {port} is open to anyone with its new link."),
        Sharing::Public => format!("Port {port} is open to everyone."),
    }
}
