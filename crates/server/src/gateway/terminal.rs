//! Terminal host, port 7681: serves ttyd's three paths to users who may see or use the project.
//!
//! The bytes come from sandboxd's control interface. A program that listens on this port in the sandbox is not
//! reachable from here.

use axum::{body::Body, response::Response};
use fsa_model::{sharing::ProjectRole, tty::SUBPROTOCOL};
use fsa_sandboxd_client::TerminalQuery;
use http::{HeaderValue, Method, Request, StatusCode, header};

use super::{
    access::Visitor,
    error_page::{Say, ours},
    routes::{Route, Target},
};
use crate::{
    core::Core,
    error::Error,
    sandbox_client::{Handshake, RunningSandbox},
    tunnel::Farewell,
};

pub(super) async fn handle(
    core: &Core,
    route: &Route,
    visitor: Visitor,
    request: Request<Body>,
    end: impl Future<Output = Farewell> + Send + 'static,
) -> Response {
    // A guest or an anonymous visitor never gets a shell; the route's sharing already excludes them.
    let Visitor::Person(_, role, _) = visitor else {
        return Say::nothing_here().answer(request.headers());
    };
    let headers = request.headers().clone();
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => Say::new(
            StatusCode::OK,
            "Terminal",
            "This is the address of a terminal.",
            format!(
                "Open the terminal at {}, or connect a program that speaks ttyd's protocol to /ws here.",
                core.settings.origin_text()
            ),
        )
        .answer(&headers),
        // ttyd's clients send it back in their first message. Authorization was decided before.
        (&Method::GET, "/token") => {
            let mut response = Response::new(Body::from("{\"token\": \"\"}"));
            ours(response.headers_mut());
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        (&Method::GET, "/ws") => open(core, route, role, request, end)
            .await
            .unwrap_or_else(|error| said(&error).answer(&headers)),
        _ => Say::nothing_here().answer(&headers),
    }
}

async fn open(
    core: &Core,
    route: &Route,
    role: ProjectRole,
    request: Request<Body>,
    end: impl Future<Output = Farewell> + Send + 'static,
) -> Result<Response, Error> {
    let Target::Open {
        sandbox,
        region,
        upstream,
    } = &route.target
    else {
        return Err(Error::conflict("The sandbox does not run."));
    };
    let permit = upstream
        .begin()
        .ok_or_else(|| Error::unavailable("Too many terminals are open."))?;
    let query = TerminalQuery {
        watch: role < ProjectRole::Editor,
        ..TerminalQuery::default()
    };
    let running = RunningSandbox::of_row(core, region, sandbox)?;
    let handshake = Handshake::check(request, Some(SUBPROTOCOL))?;
    let answer = running.sandboxd().terminal(&query, handshake.request()).await?;
    handshake.accept(core, answer, end, permit)
}

fn said(error: &Error) -> Say {
    tracing::debug!(%error, "a terminal could not be opened");
    Say::new(error.status(), error.name(), error.sentence(), error.message())
}
