//! Ports of a sandbox: which listen, their URLs, and who may open them: `/api/projects/{project}/ports`.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use fsa_model::{
    ErrorBody,
    api::{HostHeader, Page, Port, SharePort, SharedPort, Sharing},
    event::EventKind,
    public_path::{MAX_PUBLIC_PATHS, PUBLIC_PATH_RULE, parse_public_path},
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
        previews::{self, PortSettings},
        projects::{self, Overview, ProjectRow},
    },
};

/// Maximum number of shared ports per project.
const MAX_SHARED_PORTS: i64 = 100;
/// Maximum number of ports per project that have settings.
const MAX_CONFIGURED_PORTS: usize = 100;

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
    let mut settings = previews::port_settings(&mut connection, overview.project.id).await?;
    drop(connection);
    let mut items = sandbox.map(|sandbox| sandbox.ports).unwrap_or_default();
    let configured = overview.shares.keys().chain(settings.keys()).copied().chain(also);
    for port in configured.collect::<BTreeSet<_>>() {
        if items.iter().all(|listening| listening.port != port) {
            items.push(Port {
                port,
                process: None,
                url: status::port_url(&app.settings, overview, port),
                sharing: overview.shares.get(&port).copied().unwrap_or_default(),
                host_header: HostHeader::default(),
                public_paths: Vec::new(),
            });
        }
    }
    for item in &mut items {
        if let Some(settings) = settings.remove(&item.port) {
            item.host_header = settings.host_header;
            item.public_paths = settings.public_paths;
        }
    }
    items.sort_by_key(|port| port.port);
    Ok(items)
}

/// Sets who may open a port's URL or paths of it, and which host name its application sees
#[utoipa::path(put, path = "/api/projects/{project}/ports/{port}", tag = "sandbox", request_body = SharePort,
    description = "`sharing`: members (`private`), anyone with its link (`link`), or everyone (`public`). `link` \
        answers with a new link, once; an older link of the port no longer opens it. `hostHeader`: the preview's own \
        (`public`), or `localhost:PORT` (`localhost`). `publicPaths`: paths that everyone may request although the port is \
        private, each with all below it, for webhooks and sign-in callbacks.",
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
    if request.sharing.is_none() && request.host_header.is_none() && request.public_paths.is_none() {
        return Err(Error::invalid(
            "sharing",
            "give sharing, hostHeader or publicPaths",
        ));
    }
    let public_paths = request.public_paths.as_deref().map(parse_paths).transpose()?;
    if port == TERMINAL_PORT && public_paths.as_ref().is_some_and(|paths| !paths.is_empty()) {
        return Err(Error::invalid(
            "publicPaths",
            "port 7681 is the terminal, which stays private because it is a shell",
        ));
    }
    let opens = request.sharing.is_some_and(|sharing| sharing != Sharing::Private)
        || public_paths.as_ref().is_some_and(|paths| !paths.is_empty());
    if opens && !found.branch().name.is_main() {
        let field = if request.public_paths.is_some() {
            "publicPaths"
        } else {
            "sharing"
        };
        return Err(Error::invalid(
            field,
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
    let mut all = previews::port_settings(&mut tx, row.id).await?;
    let mut settings = all.remove(&port).unwrap_or_default();
    if let Some(host_header) = request.host_header {
        settings.host_header = host_header;
        set(
            &mut tx,
            (&caller, &row),
            (port, &settings),
            &all,
            host_header_change(port, host_header),
        )
        .await?;
    }
    if let Some(paths) = public_paths.filter(|_| row.branch().name.is_main()) {
        settings.public_paths = paths;
        let change = public_paths_change(port, &settings.public_paths);
        set(&mut tx, (&caller, &row), (port, &settings), &all, change).await?;
    }
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
        host_header: settings.host_header,
        public_paths: settings.public_paths,
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

/// The valid form of these public paths, each once.
fn parse_paths(paths: &[String]) -> Result<Vec<String>> {
    let refused = |rule: &str| Error::invalid("publicPaths", rule);
    let parsed: Option<BTreeSet<String>> = paths.iter().map(|path| parse_public_path(path)).collect();
    let parsed = parsed.ok_or_else(|| refused(PUBLIC_PATH_RULE))?;
    if parsed.len() > MAX_PUBLIC_PATHS {
        return Err(refused("a port has at most 20 public paths"));
    }
    Ok(parsed.into_iter().collect())
}

/// A change of a port's settings, for the audit log and the project's events.
struct Change {
    action: &'static str,
    message: String,
    data: serde_json::Value,
}

fn host_header_change(port: u16, host_header: HostHeader) -> Change {
    let (action, name) = match host_header {
        HostHeader::Public => ("port.hostPublic", "its preview's host name".to_owned()),
        HostHeader::Localhost => ("port.hostLocalhost", format!("the host name localhost:{port}")),
    };
    Change {
        action,
        message: format!("The application at port {port} sees {name}."),
        data: serde_json::json!({"hostHeader": host_header}),
    }
}

fn public_paths_change(port: u16, paths: &[String]) -> Change {
    Change {
        action: "port.publicPaths",
        message: if paths.is_empty() {
            format!("No path of port {port} is public.")
        } else {
            format!("Everyone may request {} of port {port}.", paths.join(", "))
        },
        data: serde_json::json!({"publicPaths": paths}),
    }
}

/// Stores the settings of a port; `others` are those of the project's other ports.
async fn set(
    tx: &mut PgConnection,
    (caller, row): (&Caller, &ProjectRow),
    (port, settings): (u16, &PortSettings),
    others: &BTreeMap<u16, PortSettings>,
    change: Change,
) -> Result<()> {
    if others.len() >= MAX_CONFIGURED_PORTS {
        return Err(Error::conflict(format!(
            "At most {MAX_CONFIGURED_PORTS} ports of a project have settings."
        )));
    }
    previews::set_port_settings(tx, row.id, port, settings).await?;
    audit::record(tx, caller, change.action, object(row, port)).await?;
    let mut data = change.data;
    data["fields"] = serde_json::json!(["ports"]);
    data["port"] = port.into();
    data["by"] = caller.login().into();
    let event = NewEvent::new(row, EventKind::ProjectChanged, change.message).with(data);
    events::append(tx, event).await?;
    Ok(())
}

fn object(row: &ProjectRow, port: u16) -> String {
    format!("port {port} of {} ({})", row.name, row.id)
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
