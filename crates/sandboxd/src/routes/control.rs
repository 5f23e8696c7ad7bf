//! Routes of the control interface. The crate documentation lists them.

use std::{io, sync::Arc};

use bytes::Bytes;
use fsa_model::sandboxd::paths;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::{Services, bearer, terminal};
use crate::{
    callback, exec, files,
    http::{ApiError, Body, Query, RouteResult, json, read_json, status, streamed, typed, websocket},
    sandbox::Sandbox,
    tunnel, usage,
};

/// Log lines in one piece of a response.
const LINES_PER_CHUNK: usize = 200;

/// Handles a request to the control interface.
///
/// # Errors
/// The token is wrong, or the route refuses the request.
pub async fn handle(services: Arc<Services>, request: Request<Incoming>) -> RouteResult {
    let sandbox = &services.sandbox;
    let given = bearer(&request).unwrap_or_default();
    if !sandbox.control_token.is(given) {
        return Err(ApiError::unauthorized("Bearer"));
    }
    if request.method() == Method::CONNECT {
        return tunnel::connect(request).await;
    }
    let path = request.uri().path().to_owned();
    match (request.method().clone(), path.as_str()) {
        (Method::GET, paths::STATUS) => Ok(json(&*sandbox.status.borrow())),
        (Method::GET, paths::WATCH) => Ok(watch(sandbox)),
        (Method::POST, fsa_model::callback::ROUTE) => callback::accept(&services.callback, request),
        (Method::GET, paths::USAGE) => Ok(json(&usage::now())),
        (Method::POST, paths::EXEC) => {
            let command = read_json(request.into_body()).await?;
            exec::capture::run(sandbox, command)
                .await
                .map(|result| json(&result))
        }
        (Method::GET, paths::EXEC) => {
            let (answer, socket) = websocket::accept(request, None)?;
            let sandbox = Arc::clone(sandbox);
            tokio::spawn(async move {
                if let Ok(socket) = socket.await {
                    exec::stream::run(sandbox, socket).await;
                }
            });
            Ok(answer)
        }
        (_, path) if paths::member_of(paths::TASKS, path).is_some() => {
            let id = paths::member_of(paths::TASKS, path).unwrap_or_default();
            exec::tasks::route(sandbox, &services.tasks, id, request).await
        }
        (_, paths::FILES) | (Method::GET | Method::HEAD, paths::PROJECT_FILES) => {
            files::route(sandbox, request).await
        }
        (Method::POST, paths::MOVE) => files::rename(sandbox, request.into_body()).await,
        (Method::GET, paths::TERMINAL | paths::TERMINAL_WATCH) => terminal(&services, request, false),
        (Method::GET, paths::TERMINALS) => Ok(json(&services.terminals.list())),
        (Method::DELETE, path) if paths::member_of(paths::TERMINALS, path).is_some() => {
            let name = paths::member_of(paths::TERMINALS, path).unwrap_or_default();
            let name = percent_decode_str(name).decode_utf8_lossy();
            let session = services
                .terminals
                .get(&name)
                .ok_or_else(|| ApiError::not_found(format!("there is no terminal `{name}`")))?;
            session.hang_up(sandbox).await;
            Ok(status(StatusCode::NO_CONTENT))
        }
        (Method::GET, paths::LOGS) => logs(Arc::clone(sandbox), &Query::of(request.uri())),
        (Method::POST, paths::RESTART_START_COMMAND) => {
            services.start.restart().await?;
            Ok(status(StatusCode::ACCEPTED))
        }
        (Method::POST, paths::CLONE) => {
            services.start.retry_clone()?;
            Ok(status(StatusCode::ACCEPTED))
        }
        (method, path) => Err(ApiError::not_found(format!("there is no route {method} {path}"))),
    }
}

const NDJSON: &str = "application/x-ndjson";

fn watch(sandbox: &Sandbox) -> Response<Body> {
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

fn logs(sandbox: Arc<Sandbox>, query: &Query) -> RouteResult {
    let after = match query.get("after").filter(|after| !after.is_empty()) {
        Some(after) => after
            .parse::<u64>()
            .map_err(|_| ApiError::field("after", "it is the sequence number of a line"))?,
        None => 0,
    };
    let follow = query.is_true("follow")?;
    let newest = sandbox.logs.newest();
    let pieces = stream::unfold(
        (sandbox, after, newest),
        move |(sandbox, mut after, mut newest)| async move {
            loop {
                newest.mark_unchanged();
                let lines = sandbox.logs.after(after, LINES_PER_CHUNK);
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
