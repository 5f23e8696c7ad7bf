//! Logs of the start command: `/api/projects/{project}/logs`, as JSON or as a stream (server-sent events) that
//! resumes after the last line that the client received.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, State},
    response::{IntoResponse as _, Response, sse::Event as Message},
};
use fsa_model::{ErrorBody, api::Page, sandboxd::LogLine};
use fsa_sandboxd_client::TIMEOUT;
use futures_util::{Stream, StreamExt as _};
use http::request::Parts;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{in_branch::InBranch, sse};
use crate::{
    auth::{Caller, permission::Read},
    error::{Error, Result},
    extract::{Json, Query, last_event_id},
    sandbox_client::{RunningSandbox, stream_end},
    state::App,
    store::branches,
};

/// Lines per page.
const PAGE_SIZE: usize = 10_000;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read_logs))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct LogsQuery {
    /// False returns a page of JSON instead of a stream.
    #[serde(default = "yes")]
    follow: bool,
    /// Only lines after this one (`nextCursor` of the previous page, or a `sequence`).
    #[serde(default)]
    cursor: Option<u64>,
    /// Name of a branch; `main` by default.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

fn yes() -> bool {
    true
}

/// The last line that a browser received before its stream was interrupted.
struct LastEventId(Option<u64>);

impl FromRequestParts<App> for LastEventId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self> {
        last_event_id(&parts.headers, "sequence of a line").map(Self)
    }
}

/// Output of the start command and of the clone of the repository
#[utoipa::path(get, path = "/api/projects/{project}/logs", tag = "sandbox",
    params(("project" = String, Path, description = "id or name"), LogsQuery,
           ("Last-Event-ID" = Option<u64>, Header, description = "resume after this line")),
    responses((status = OK, body = Page<LogLine>), (status = NOT_FOUND, body = ErrorBody),
              (status = CONFLICT, body = ErrorBody, description = "the sandbox does not run")))]
async fn read_logs(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Query(query): Query<LogsQuery>,
    last: LastEventId,
) -> Result<Response> {
    let project = branches::find::<Read>(&app.store, &caller, &project).await?;
    let sandbox = RunningSandbox::of(&app, &project).await?;
    let after = last.0.or(query.cursor).unwrap_or(0);
    let permit = query
        .follow
        .then(|| app.streams.acquire(&app, &caller))
        .transpose()?;
    let lines = sandbox.sandboxd().logs(after, query.follow).await?;
    if !query.follow {
        let page = tokio::time::timeout(TIMEOUT, page(lines))
            .await
            .map_err(|_| Error::unavailable("The sandbox did not finish its answer."))??;
        return Ok(Json(page).into_response());
    }
    // Everything after a line that cannot be parsed is ignored.
    let messages = lines
        .take_while(|line| std::future::ready(line.is_ok()))
        .filter_map(|line| std::future::ready(line.ok()))
        .map(move |line| {
            let _ = &permit;
            Ok::<_, Infallible>(message(&line))
        });
    let messages = messages.take_until(Box::pin(stream_end(app.core().clone(), project.into_project())));
    Ok(sse::stream(messages))
}

async fn page(
    lines: impl Stream<Item = fsa_sandboxd_client::Result<LogLine>> + Send,
) -> Result<Page<LogLine>> {
    let mut lines = std::pin::pin!(lines.take(PAGE_SIZE + 1));
    let mut items = Vec::new();
    while let Some(line) = lines.next().await {
        items.push(line?);
    }
    Ok(sse::page(items, PAGE_SIZE, |line| line.sequence.to_string()))
}

fn message(line: &LogLine) -> Message {
    Message::default()
        .id(line.sequence.to_string())
        .json_data(line)
        .unwrap_or_else(|_| Message::default().comment("a line that cannot be serialized"))
}
