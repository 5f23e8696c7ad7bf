//! Terminal host, port 7681: ttyd's three paths, for users with a role in the project.
//!
//! The terminal is sandboxd's. A program that listens on this port in the sandbox is not reachable.

use axum::{body::Body, response::Response};
use fsa_model::{sharing::ProjectRole, tty::SUBPROTOCOL};
use fsa_sandboxd_client::TerminalQuery;
use http::{HeaderValue, Method, Request, StatusCode, header};

use super::{
    access::Principal,
    error_page::{ErrorPage, set_security_headers},
    routes::{Route, Target},
};
use crate::{
    core::Core,
    error::Error,
    sandbox_client::{Handshake, RunningSandbox},
    tunnel::CloseReason,
};

pub(super) async fn handle(
    core: &Core,
    route: &Route,
    principal: Principal,
    request: Request<Body>,
    end: impl Future<Output = CloseReason> + Send + 'static,
) -> Response {
    // Only users get a shell. A terminal's port cannot be public or have an access link anyway.
    let Principal::User(_, role, _) = principal else {
        return ErrorPage::not_found().response(request.headers());
    };
    let headers = request.headers().clone();
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => ErrorPage::new(
            StatusCode::OK,
            "Terminal",
            "This is a terminal.",
            format!(
                "Open the terminal at {}, or connect a program that speaks ttyd's protocol to /ws here.",
                core.settings.origin_text()
            ),
        )
        .response(&headers),
        // ttyd's clients send this token in their first message. The request is already authorized.
        (&Method::GET, "/token") => {
            let mut response = Response::new(Body::from("{\"token\": \"\"}"));
            set_security_headers(response.headers_mut());
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        (&Method::GET, "/ws") => open(core, route, role, request, end)
            .await
            .unwrap_or_else(|error| failed(&error).response(&headers)),
        _ => ErrorPage::not_found().response(&headers),
    }
}

async fn open(
    core: &Core,
    route: &Route,
    role: ProjectRole,
    request: Request<Body>,
    end: impl Future<Output = CloseReason> + Send + 'static,
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

fn failed(error: &Error) -> ErrorPage {
    tracing::debug!(%error, "a terminal could not be opened");
    ErrorPage::new(error.status(), error.name(), error.sentence(), error.message())
}
