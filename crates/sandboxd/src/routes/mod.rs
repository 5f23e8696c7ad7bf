//! Routes of the control interface and of the terminal port.

pub mod control;
pub mod terminal_port;

use std::sync::Arc;

use fsa_model::{sandboxd::paths, tty::SUBPROTOCOL};
use http::{Request, header};
use hyper::body::Incoming;

use crate::{
    callback::Callback,
    exec::tasks::Tasks,
    http::{Query, RouteResult, websocket},
    sandbox::Sandbox,
    start::Start,
    terminal::{TerminalRequest, Terminals, viewer},
};

/// The services of sandboxd that have routes.
#[derive(Debug)]
pub struct Services {
    pub sandbox: Arc<Sandbox>,
    pub callback: Arc<Callback>,
    pub start: Arc<Start>,
    pub tasks: Tasks,
    pub terminals: Arc<Terminals>,
}

/// The token of `Authorization: Bearer …`.
fn bearer<B>(request: &Request<B>) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Opens the WebSocket of a terminal. `hello_needs_token`: the request has no token.
fn terminal(services: &Services, request: Request<Incoming>, hello_needs_token: bool) -> RouteResult {
    let query = Query::of(request.uri());
    let get = |name| query.get(name).map(str::to_owned);
    let user = if hello_needs_token { None } else { get("user") };
    let mut session = TerminalRequest::new(get("session"), user)?;
    session.read_only = request.uri().path() == paths::TERMINAL_WATCH;
    // Refuse an unknown user before the upgrade, with an HTTP status.
    services.sandbox.accounts.find(session.user.as_deref())?;
    let (answer, socket) = websocket::accept(request, Some(SUBPROTOCOL))?;
    let terminals = Arc::clone(&services.terminals);
    tokio::spawn(async move {
        if let Ok(socket) = socket.await {
            viewer::serve(terminals, socket, session, hello_needs_token).await;
        }
    });
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_of_a_bearer_token_is_case_insensitive() {
        let request = |value: &str| {
            Request::builder()
                .header("authorization", value)
                .body(())
                .unwrap()
        };
        assert_eq!(bearer(&request("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&request("bearer abc")), Some("abc"));
        assert_eq!(bearer(&request("Basic abc")), None);
        assert_eq!(bearer(&request("abc")), None);
    }
}
