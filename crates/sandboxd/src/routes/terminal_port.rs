//! Terminal port: ttyd's three routes.
//!
//! An Ingress that exposes this port exposes the terminal only: the control interface has no route on it.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;

use super::{Services, bearer, terminal};
use crate::{
    http::{ApiError, RouteResult, full, json, typed, websocket},
    sandbox::Sandbox,
};

const INDEX_PAGE: &str = "<!doctype html><meta charset=utf-8><title>Terminal</title>\
<p>This is the terminal of a sandbox. Open it from the project's page, or connect a ttyd client to <code>/ws</code>.\n";

/// Handles a request to the terminal port.
///
/// # Errors
/// The request is for none of the three routes, or not allowed.
pub async fn handle(services: Arc<Services>, request: Request<Incoming>) -> RouteResult {
    let sandbox = &services.sandbox;
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => Ok(typed("text/html; charset=utf-8", full(INDEX_PAGE))),
        // ttyd's client takes the token of its first message from here. The request must have the token already.
        (&Method::GET, "/token") => match &sandbox.terminal_token {
            None => Ok(json(&serde_json::json!({"token": ""}))),
            Some(token) if has_token(sandbox, &request) => {
                Ok(json(&serde_json::json!({"token": token.expose()})))
            }
            Some(_) => Err(ApiError::unauthorized("Basic realm=\"terminal\"")),
        },
        (&Method::GET, "/ws") => {
            let authenticated = has_token(sandbox, &request);
            // Without a token, this check alone keeps a page of another site from sending input.
            if sandbox.terminal_token.is_none() && !same_origin(&request) {
                return Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    "ForeignOrigin",
                    "a page of another site cannot open this terminal",
                ));
            }
            if !websocket::is_upgrade(request.headers()) {
                return Err(ApiError::bad_request(
                    "this route is a WebSocket with the subprotocol `tty`",
                ));
            }
            terminal(&services, request, !authenticated)
        }
        _ => Err(ApiError::not_found(
            "this port serves the terminal and nothing else",
        )),
    }
}

/// Whether the request has the token, as a bearer token or as the password of Basic credentials.
fn has_token<B>(sandbox: &Sandbox, request: &Request<B>) -> bool {
    let Some(token) = &sandbox.terminal_token else {
        return false;
    };
    if bearer(request).is_some_and(|given| token.is(given)) {
        return true;
    }
    request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "))
        .and_then(|encoded| String::from_utf8(STANDARD.decode(encoded).ok()?).ok())
        .and_then(|pair| pair.split_once(':').map(|(_, password)| token.is(password)))
        .unwrap_or(false)
}

/// Whether the `Origin` is this host. Programs send none; browsers do.
fn same_origin<B>(request: &Request<B>) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else {
        return true;
    };
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_of_the_same_host_may_connect() {
        let request = |origin: Option<&str>| {
            let mut request = Request::builder().header("host", "a.example:7681");
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            request.body(()).unwrap()
        };
        assert!(same_origin(&request(None)));
        assert!(same_origin(&request(Some("https://a.example:7681"))));
        for foreign in ["https://b.example:7681", "https://a.example", "null"] {
            assert!(!same_origin(&request(Some(foreign))), "{foreign}");
        }
    }
}
