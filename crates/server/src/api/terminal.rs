//! Terminal sessions: `/api/projects/{project}/terminals`, and ttyd's protocol over a WebSocket that is passed
//! through unchanged: `/api/projects/{project}/terminal`.

use axum::{body::Body, extract::State, response::Response};
use fsa_model::{ErrorBody, api::Page, sandboxd::TerminalSession, tty::SUBPROTOCOL};
use fsa_sandboxd_client::TerminalQuery;
use futures_util::FutureExt as _;
use http::{Request, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::in_branch::InBranch;
use crate::{
    auth::{
        Caller,
        permission::{Read, Write},
    },
    error::{Error, Result},
    extract::{Json, Path, Query},
    sandbox_client::{Handshake, RunningSandbox, stream_end},
    state::App,
    store::branches,
};

/// Maximum number of sessions listed.
const MAX_SESSIONS: usize = 100;
/// Maximum characters of a title that a program in the terminal set.
const MAX_TITLE: usize = 200;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(open_terminal))
        .routes(routes!(list_terminals))
        .routes(routes!(close_terminal))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct TerminalParams {
    /// The session's name: 1 to 64 letters, digits, `-`, `_` and `.`; defaults to `main`.
    #[serde(default)]
    session: Option<String>,
    /// User that starts the session: `dev` (default) or `root`.
    #[serde(default)]
    user: Option<String>,
    /// Name of a branch; `main` by default.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

impl TerminalParams {
    /// `watch` opens it without input.
    fn query(&self, watch: bool) -> Result<TerminalQuery<'_>> {
        if let Some(name) = &self.session {
            session_name("session", name)?;
        }
        if self
            .user
            .as_deref()
            .is_some_and(|user| !["dev", "root"].contains(&user))
        {
            return Err(Error::invalid("user", "it is dev or root"));
        }
        Ok(TerminalQuery {
            session: self.session.as_deref(),
            user: self.user.as_deref(),
            watch,
        })
    }
}

fn session_name(field: &str, name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        let rule = "it has 1 to 64 letters, digits, dashes, underscores and dots";
        Err(Error::invalid(field, rule))
    }
}

/// Opens a terminal: a WebSocket with the subprotocol `tty` (ttyd's protocol)
#[utoipa::path(get, path = "/api/projects/{project}/terminal", tag = "sandbox",
    description = "A viewer sees an existing session; their input is discarded.",
    params(("project" = String, Path, description = "id or name"), TerminalParams),
    responses((status = SWITCHING_PROTOCOLS), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run"),
              (status = UPGRADE_REQUIRED, body = ErrorBody)))]
async fn open_terminal(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Query(params): Query<TerminalParams>,
    request: Request<Body>,
) -> Result<Response> {
    let project = branches::find::<Read>(&app.store, &caller, &project).await?;
    let types = project.with_permission::<Write>();
    let query = params.query(types.is_err())?;
    let sandbox = RunningSandbox::of(&app, &project).await?;
    let permit = app.streams.acquire(&app, &caller)?;
    // End a connection that may no longer type; the client may reconnect to watch.
    let end = match types {
        Ok(types) => stream_end(app.core().clone(), types).boxed(),
        Err(_) => stream_end(app.core().clone(), project.into_project()).boxed(),
    };
    let handshake = Handshake::check(request, Some(SUBPROTOCOL))?;
    let answer = sandbox.sandboxd().terminal(&query, handshake.request()).await?;
    handshake.accept(&app, answer, end, permit)
}

/// Lists the terminal sessions
#[utoipa::path(get, path = "/api/projects/{project}/terminals", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = OK, body = Page<TerminalSession>), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run")))]
async fn list_terminals(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
) -> Result<Json<Page<TerminalSession>>> {
    let project = branches::find::<Read>(&app.store, &caller, &project).await?;
    let sandbox = RunningSandbox::of(&app, &project).await?;
    let mut items = sandbox.sandboxd().terminals().await?;
    items.truncate(MAX_SESSIONS);
    items.retain(|session| session_name("name", &session.name).is_ok());
    for session in &mut items {
        session.title = session
            .title
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_TITLE)
            .collect();
    }
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}

/// Ends a terminal session and the programs in it
#[utoipa::path(delete, path = "/api/projects/{project}/terminals/{terminal}", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default"),
           ("terminal" = String, Path, description = "the session's name")),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run")))]
async fn close_terminal(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Path((_, terminal)): Path<(String, String)>,
) -> Result<StatusCode> {
    let project = branches::find::<Write>(&app.store, &caller, &project).await?;
    if session_name("terminal", &terminal).is_err() {
        return Err(Error::not_found("terminal"));
    }
    let sandbox = RunningSandbox::of(&app, &project).await?;
    sandbox.sandboxd().close_terminal(&terminal).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_session_names_are_rejected() {
        let target = |session: Option<&str>, user: Option<&str>| {
            let params = TerminalParams {
                session: session.map(Into::into),
                user: user.map(Into::into),
                _branch: None,
            };
            let query = params.query(false);
            query
                .map(|query| [query.session, query.user].map(|value| value.map(str::to_owned)))
                .map_err(|error| error.field().unwrap().name.clone())
        };
        assert_eq!(target(None, None), Ok([None, None]));
        assert_eq!(
            target(Some("a.b-c_1"), Some("root")),
            Ok([Some("a.b-c_1".into()), Some("root".into())])
        );
        for name in ["", "a b", "a/../b", "a&user=root", &"x".repeat(65)] {
            assert_eq!(target(Some(name), None), Err("session".into()), "{name:?}");
        }
        assert_eq!(target(None, Some("postgres")), Err("user".into()));
    }
}
