//! Routes of the control interface. The crate documentation lists them.

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use fsa_model::{sandboxd::paths, tty::SUBPROTOCOL};
use futures_util::stream;
use http::{Method, Request, StatusCode, Uri, header};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::{Answer, Refusal, json, read_json, socket, status, streamed, typed};
use crate::{
    callback, exec, files,
    sandbox::Sandbox,
    terminal::{TerminalRequest, viewer},
    tunnel, usage,
};

/// Log lines in one piece of a response.
const LINES: usize = 200;

/// Query parameters of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Parses `?name=value&…`; the last value of a repeated name counts.
    #[must_use]
    pub fn of(uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Parses a boolean parameter; a missing one is false.
    ///
    /// # Errors
    /// The value is neither `true` nor `false`.
    pub fn is_true(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(_) => Err(Refusal::field(name, "it is `true` or `false`")),
        }
    }
}

/// Handles a request to the control interface.
///
/// # Errors
/// The token is wrong, or the route refuses the request.
pub async fn control(sandbox: Arc<Sandbox>, request: Request<Incoming>) -> Answer {
    let given = bearer(&request).unwrap_or_default();
    if !sandbox.control_token.is(given) {
        return Err(Refusal::unauthorized("Bearer"));
    }
    if request.method() == Method::CONNECT {
        return tunnel::connect(request).await;
    }
    let path = request.uri().path().to_owned();
    match (request.method().clone(), path.as_str()) {
        (Method::GET, paths::STATUS) => Ok(json(&*sandbox.status.borrow())),
        (Method::GET, paths::WATCH) => Ok(watch(&sandbox)),
        (Method::POST, fsa_model::callback::ROUTE) => callback::accept(sandbox, request),
        (Method::GET, paths::USAGE) => Ok(json(&usage::now())),
        (Method::POST, paths::EXEC) => {
            let command = read_json(request.into_body()).await?;
            exec::capture::run(&sandbox, command)
                .await
                .map(|result| json(&result))
        }
        (Method::GET, paths::EXEC) => {
            let (answer, socket) = socket::accept(request, None)?;
            tokio::spawn(async move {
                if let Ok(socket) = socket.await {
                    exec::stream::run(sandbox, socket).await;
                }
            });
            Ok(answer)
        }
        (_, path) if paths::member_of(paths::TASKS, path).is_some() => {
            let id = paths::member_of(paths::TASKS, path).unwrap_or_default();
            exec::tasks::route(&sandbox, id, request).await
        }
        (_, paths::FILES) | (Method::GET | Method::HEAD, paths::PROJECT_FILES) => {
            files::route(&sandbox, request).await
        }
        (Method::POST, paths::MOVE) => files::rename(&sandbox, request.into_body()).await,
        (Method::GET, paths::TERMINAL | paths::TERMINAL_WATCH) => terminal(sandbox, request, false),
        (Method::GET, paths::TERMINALS) => Ok(json(&sandbox.terminals.list())),
        (Method::DELETE, path) if paths::member_of(paths::TERMINALS, path).is_some() => {
            let name = paths::member_of(paths::TERMINALS, path).unwrap_or_default();
            let name = percent_decode_str(name).decode_utf8_lossy();
            let session = sandbox
                .terminals
                .get(&name)
                .ok_or_else(|| Refusal::not_found(format!("there is no terminal `{name}`")))?;
            session.hang_up(&sandbox).await;
            Ok(status(StatusCode::NO_CONTENT))
        }
        (Method::GET, paths::LOGS) => logs(sandbox, &Query::of(request.uri())),
        (Method::POST, paths::RESTART_START_COMMAND) => {
            sandbox.start.restart(&sandbox).await?;
            Ok(status(StatusCode::ACCEPTED))
        }
        (Method::POST, paths::CLONE) => {
            sandbox.start.retry_clone(&sandbox)?;
            Ok(status(StatusCode::ACCEPTED))
        }
        (method, path) => Err(Refusal::not_found(format!("there is no route {method} {path}"))),
    }
}

/// The token of `Authorization: Bearer …`.
pub(super) fn bearer<B>(request: &Request<B>) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Opens the WebSocket of a terminal. `hello_needs_token`: the request has no token.
pub(super) fn terminal(sandbox: Arc<Sandbox>, request: Request<Incoming>, hello_needs_token: bool) -> Answer {
    let query = Query::of(request.uri());
    let get = |name| query.get(name).map(str::to_owned);
    let user = if hello_needs_token { None } else { get("user") };
    let mut session = TerminalRequest::new(get("session"), user)?;
    session.read_only = request.uri().path() == paths::TERMINAL_WATCH;
    // Refuse an unknown user before the upgrade, with an HTTP status.
    sandbox.accounts.find(session.user.as_deref())?;
    let (answer, socket) = socket::accept(request, Some(SUBPROTOCOL))?;
    tokio::spawn(async move {
        if let Ok(socket) = socket.await {
            viewer::serve(sandbox, socket, session, hello_needs_token).await;
        }
    });
    Ok(answer)
}

const NDJSON: &str = "application/x-ndjson";

fn watch(sandbox: &Sandbox) -> http::Response<super::Body> {
    let mut statuses = sandbox.status.subscribe();
    statuses.mark_changed();
    typed(
        NDJSON,
        streamed(stream::unfold(statuses, |mut statuses| async {
            statuses.changed().await.ok()?;
            let piece = line(&*statuses.borrow_and_update());
            Some((piece, statuses))
        })),
    )
}

fn line(value: &impl Serialize) -> io::Result<Bytes> {
    let mut bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    bytes.push(b'\n');
    Ok(bytes.into())
}

fn logs(sandbox: Arc<Sandbox>, query: &Query) -> Answer {
    let after = match query.get("after").filter(|after| !after.is_empty()) {
        Some(after) => after
            .parse::<u64>()
            .map_err(|_| Refusal::field("after", "it is the sequence number of a line"))?,
        None => 0,
    };
    let follow = query.is_true("follow")?;
    let newest = sandbox.logs.newest();
    let pieces = stream::unfold(
        (sandbox, after, newest),
        move |(sandbox, mut after, mut newest)| async move {
            loop {
                newest.mark_unchanged();
                let lines = sandbox.logs.after(after, LINES);
                if let Some(last) = lines.last() {
                    after = last.sequence;
                    let mut piece = Vec::new();
                    for logged in lines {
                        piece.extend_from_slice(&line(&*logged).ok()?);
                    }
                    return Some((Ok(piece.into()), (sandbox, after, newest)));
                }
                if !follow || newest.changed().await.is_err() {
                    return None;
                }
            }
        },
    );
    Ok(typed(NDJSON, streamed(pieces)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::of(&"/v1/files?path=a%2Fb%20c+d&list=true&x".parse().unwrap());
        assert_eq!(query.get("path"), Some("a/b c d"));
        assert!(query.is_true("list").unwrap());
        assert!(query.is_true("x").unwrap());
        assert!(!query.is_true("y").unwrap());
        assert!(query.is_true("path").is_err());
    }

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_the_scheme() {
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
