//! `/api/projects/{project}/terminal` and `/terminals`: ttyd's protocol over a WebSocket that is
//! passed through as it is, and the sessions that there are.

use axum::{body::Body, extract::State, response::Response};
use fsa_driver::control::PATIENCE;
use fsa_model::{
    ErrorBody,
    api::Page,
    sandboxd::{TERMINAL_WATCH, TerminalSession},
    tty::SUBPROTOCOL,
};
use futures_util::FutureExt as _;
use http::{Method, Request};
use serde::Deserialize;
use url::form_urlencoded::Serializer;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{Json, Path, Query};
use crate::{
    auth::{
        Caller,
        permission::{Read, Write},
    },
    error::{Error, Result},
    gateway::inside::{Inside, over},
    state::App,
    store::projects,
};

/// Sessions that are listed.
const LISTED: usize = 100;
/// Characters of a title that a program in the terminal set.
const TITLE_MOST: usize = 200;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(open_terminal))
        .routes(routes!(list_terminals))
        .routes(routes!(close_terminal))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Which {
    /// The session's name: 1 to 64 letters, digits, `-`, `_` and `.`; `main` where none is given.
    #[serde(default)]
    session: Option<String>,
    /// `dev` (default) or `root`, where the session begins.
    #[serde(default)]
    user: Option<String>,
}

impl Which {
    /// With `types` to use it, without to see what happens in it.
    fn target(&self, types: bool) -> Result<String> {
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
        let mut query = Serializer::new(String::new());
        for (name, value) in [("session", &self.session), ("user", &self.user)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let path = if types { "/v1/terminal" } else { TERMINAL_WATCH };
        Ok(format!("{path}?{}", query.finish()))
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
    description = "A viewer sees a session that there is, and what they type goes nowhere.",
    params(("project" = String, Path, description = "id or name"), Which),
    responses((status = SWITCHING_PROTOCOLS), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run"),
              (status = UPGRADE_REQUIRED, body = ErrorBody)))]
async fn open_terminal(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
    Query(which): Query<Which>,
    request: Request<Body>,
) -> Result<Response> {
    let project = projects::find::<Read>(&app.store, &caller, &project).await?;
    let types = project.also::<Write>();
    let target = which.target(types.is_ok())?;
    let inside = Inside::of(&app, &project).await?;
    let place = app.gateway.streams.begin(&app, &caller)?;
    // Whoever may no longer type is shown out, and may come back to look.
    let end = match types {
        Ok(types) => over(app.clone(), types).boxed(),
        Err(_) => over(app.clone(), project).boxed(),
    };
    inside
        .websocket(&app, request, &target, Some(SUBPROTOCOL), end, place)
        .await
}

/// Lists the terminal sessions
#[utoipa::path(get, path = "/api/projects/{project}/terminals", tag = "sandbox",
    params(("project" = String, Path, description = "id or name")),
    responses((status = OK, body = Page<TerminalSession>), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run")))]
async fn list_terminals(
    State(app): State<App>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Json<Page<TerminalSession>>> {
    let project = projects::find::<Read>(&app.store, &caller, &project).await?;
    let inside = Inside::of(&app, &project).await?;
    let mut items: Vec<TerminalSession> = inside
        .control()
        .json(Method::GET, "/v1/terminals", None::<&()>, PATIENCE)
        .await?;
    items.truncate(LISTED);
    items.retain(|session| session_name("name", &session.name).is_ok());
    for session in &mut items {
        session.title = session
            .title
            .chars()
            .filter(|c| !c.is_control())
            .take(TITLE_MOST)
            .collect();
    }
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}

/// Ends a terminal session and what runs in it
#[utoipa::path(delete, path = "/api/projects/{project}/terminals/{terminal}", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"),
           ("terminal" = String, Path, description = "the session's name")),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run")))]
async fn close_terminal(
    State(app): State<App>,
    caller: Caller,
    Path((project, terminal)): Path<(String, String)>,
) -> Result<Response> {
    let project = projects::find::<Write>(&app.store, &caller, &project).await?;
    if session_name("terminal", &terminal).is_err() {
        return Err(Error::not_found("terminal"));
    }
    let inside = Inside::of(&app, &project).await?;
    let request = Request::delete(format!("/v1/terminals/{terminal}"))
        .body(Body::empty())
        .map_err(|error| Error::internal("A request cannot be made.").because(error))?;
    inside.pass_on(request, &[], PATIENCE).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_could_not_be_one_never_reaches_the_sandbox() {
        let target = |session: Option<&str>, user: Option<&str>| {
            Which {
                session: session.map(Into::into),
                user: user.map(Into::into),
            }
            .target(true)
            .map_err(|error| error.field().unwrap().name.clone())
        };
        assert_eq!(target(None, None).as_deref(), Ok("/v1/terminal?"));
        assert_eq!(
            target(Some("a.b-c_1"), Some("root")).as_deref(),
            Ok("/v1/terminal?session=a.b-c_1&user=root")
        );
        for name in ["", "a b", "a/../b", "a&user=root", &"x".repeat(65)] {
            assert_eq!(target(Some(name), None), Err("session".into()), "{name:?}");
        }
        assert_eq!(target(None, Some("postgres")), Err("user".into()));
    }
}
