//! Ports of a sandbox: which listen, their URLs, and who may open them: `/api/projects/{project}/ports`.

use axum::extract::State;
use fsa_model::{
    ErrorBody,
    api::{Page, Port, SharePort, SharedPort, Sharing},
    event::EventKind,
    sandboxd::TERMINAL_PORT,
};
use secrecy::ExposeSecret as _;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::{Caller, permission::Manage, secret},
    error::{Error, Result},
    extract::{Json, Path},
    projects::status,
    state::App,
    store::{
        audit,
        events::{self, NewEvent},
        notify::Topic,
        previews, projects,
    },
};

/// Maximum number of shared ports per project.
const SHARED_MOST: i64 = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_ports))
        .routes(routes!(share_port))
}

/// The ports that listen or are shared, and their URLs
#[utoipa::path(get, path = "/api/projects/{project}/ports", tag = "sandbox",
    params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = Page<Port>), (status = NOT_FOUND, body = ErrorBody)))]
async fn list_ports(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Json<Page<Port>>> {
    let overview = projects::overview(&app.store, &caller, &project).await?;
    let sandbox = status::sandbox(&app.settings, &overview);
    let mut items = sandbox.map(|sandbox| sandbox.ports).unwrap_or_default();
    for (&port, &sharing) in &overview.shares {
        if items.iter().all(|listening| listening.port != port) {
            items.push(Port {
                port,
                process: None,
                url: status::port_url(&app.settings, &overview, port),
                sharing,
            });
        }
    }
    items.sort_by_key(|port| port.port);
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}

/// Sets who may open a port's URL: members (`private`), anyone with its link (`link`), or everyone (`public`)
#[utoipa::path(put, path = "/api/projects/{project}/ports/{port}", tag = "sandbox", request_body = SharePort,
    description = "`link` answers with a new link, once; an older link of the port no longer opens it.",
    params(("project" = String, Path, description = "id or name"), ("port" = u16, Path)),
    responses((status = OK, body = SharedPort), (status = NOT_FOUND, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody)))]
async fn share_port(
    State(app): State<App>,
    caller: Caller,
    Path((project, port)): Path<(String, u32)>,
    Json(wish): Json<SharePort>,
) -> Result<Json<SharedPort>> {
    let found = projects::find::<Manage>(&app.store, &caller, &project).await?;
    let port = u16::try_from(port)
        .ok()
        .filter(|&port| port > 0)
        .ok_or_else(|| Error::invalid("port", "it is a number from 1 to 65535"))?;
    if port == TERMINAL_PORT && wish.sharing != Sharing::Private {
        return Err(Error::invalid(
            "sharing",
            "port 7681 is the terminal's; whoever opens it can do anything, so it stays private",
        ));
    }
    let link = (wish.sharing == Sharing::Link).then(secret::random);
    let hash = link.as_ref().map(|link| secret::hash(link.expose_secret()));
    let mut tx = app.store.begin().await?;
    let row = projects::lock(&mut tx, &found).await?;
    let others = previews::other_shares(&mut tx, row.id, port).await?;
    if wish.sharing == Sharing::Private {
        previews::unshare(&mut tx, row.id, port).await?;
    } else if others >= SHARED_MOST {
        return Err(Error::conflict(format!(
            "At most {SHARED_MOST} ports of a project are shared."
        )));
    } else {
        previews::share(&mut tx, row.id, port, word(wish.sharing), hash).await?;
    }
    let object = format!("port {port} of {} ({})", row.name, row.id);
    let action = format!("port.{}", word(wish.sharing));
    audit::record(&mut tx, &caller, &action, object).await?;
    let event = NewEvent::new(&row, EventKind::ProjectChanged, said(port, wish.sharing)).with(
        serde_json::json!({"fields": ["ports"], "port": port, "sharing": wish.sharing, "by": caller.login()}),
    );
    events::append(&mut tx, event).await?;
    tx.commit().await?;
    // Wake local subscribers at once, without waiting for this process's own notification.
    app.hub.wake(Topic::Project(row.id));
    let overview = projects::overview(&app.store, &caller, &row.id.to_string()).await?;
    let url = status::port_url(&app.settings, &overview, port);
    Ok(Json(SharedPort {
        port,
        link: link.map(|link| format!("{url}/?{}={}", crate::gateway::SHARE, link.expose_secret())),
        url,
        sharing: wish.sharing,
    }))
}

const fn word(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Private => "private",
        Sharing::Link => "link",
        Sharing::Public => "public",
    }
}

fn said(port: u16, sharing: Sharing) -> String {
    match sharing {
        Sharing::Private => format!("Port {port} is private."),
        Sharing::Link => format!("Port {port} is open to whoever has its new link."),
        Sharing::Public => format!("Port {port} is open to everybody."),
    }
}
