//! Logs of the start command: `/api/projects/{project}/logs`, as JSON or as a stream (server-sent events) that
//! resumes after the last line that the client received. With `source=database`, the end of the log of the
//! project's database server.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, State},
    response::{IntoResponse as _, Response, sse::Event as Message},
};
use chrono::{DateTime, NaiveDateTime, Utc};
use fsa_model::{
    ErrorBody,
    api::Page,
    sandboxd::{LogLine, LogSource},
};
use fsa_sandboxd_client::TIMEOUT;
use futures_util::{Stream, StreamExt as _};
use http::request::Parts;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{in_branch::InBranch, sse};
use crate::{
    auth::{Caller, permission::Read},
    error::{Error, Result},
    extract::{Json, Query, last_event_id},
    sandbox_client::{RunningSandbox, stream_end},
    state::App,
    store::branches::{self, AuthorizedBranch},
};

/// Lines per page.
const PAGE_SIZE: usize = 10_000;
/// Timeout for the region's answer with a database's log.
const DATABASE_LOG_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15);
/// How PostgreSQL's lines begin (`log_line_prefix = '%m '`).
const DATABASE_TIME: &str = "%Y-%m-%d %H:%M:%S%.3f";
const DATABASE_TIME_LENGTH: usize = "2026-01-02 03:04:05.678".len();

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
    /// `database` returns the end of the log of the project's database server, with `follow=false`.
    #[serde(default)]
    #[param(inline)]
    source: LogsOf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum LogsOf {
    #[default]
    Sandbox,
    Database,
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
    if query.source == LogsOf::Database {
        if query.follow {
            return Err(Error::bad_request(
                "The log of a database cannot be followed: add follow=false.",
            ));
        }
        return Ok(Json(database_log(&app, &project).await?).into_response());
    }
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

/// The end of the log of the project's database server.
async fn database_log(app: &App, project: &AuthorizedBranch<Read>) -> Result<Page<LogLine>> {
    let none = || Error::not_found("log of a database").with_project(project.id);
    let region = app.core().regions.get(&project.region).ok_or_else(none)?;
    let volume = project.branch().volume;
    let text = tokio::time::timeout(DATABASE_LOG_TIMEOUT, region.databases.log(volume))
        .await
        .map_err(|_| Error::unavailable("The region did not return the log of the database."))?
        .map_err(|error| Error::from(error).with_project(project.id))?
        .ok_or_else(none)?;
    Ok(Page {
        items: database_lines(&text),
        next_cursor: None,
    })
}

/// Lines without a time, such as the statement below an error, have that of the line before.
fn database_lines(text: &str) -> Vec<LogLine> {
    let mut at: DateTime<Utc> = DateTime::UNIX_EPOCH;
    let lines = text.lines().zip(1..).map(|(line, sequence)| {
        if let Some(time) = line
            .get(..DATABASE_TIME_LENGTH)
            .and_then(|time| NaiveDateTime::parse_from_str(time, DATABASE_TIME).ok())
        {
            at = time.and_utc();
        }
        LogLine {
            sequence,
            at,
            source: LogSource::Database,
            text: line.to_owned(),
        }
    });
    lines.collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_a_time_has_that_of_the_line_before() {
        let lines = database_lines(
            "2026-01-02 03:04:05.678 UTC ERROR:  column \"x\" does not exist\n\tat character 8\n",
        );
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].at, lines[0].at);
        assert_eq!(lines[0].at.to_rfc3339(), "2026-01-02T03:04:05.678+00:00");
        assert_eq!((lines[1].sequence, lines[1].source), (2, LogSource::Database));
    }
}
