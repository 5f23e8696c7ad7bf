//! Project events: `/api/projects/{project}/events` and `/api/events`, as JSON or as a stream (server-sent
//! events) that resumes after the last event that the client received.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    extract::{FromRequestParts, State},
    response::{IntoResponse as _, Response, sse::Event as Message},
};
use fsa_model::{
    BranchName, ErrorBody, EventId,
    api::Page,
    event::{Event, EventKind},
};
use futures_util::Stream;
use http::request::Parts;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{in_branch::InBranch, sse};
use crate::{
    auth::{Caller, permission::Read},
    error::{Error, Result},
    extract::{Json, Query, last_event_id},
    state::App,
    store::{
        events::{self, EventScope},
        notify::{Subscription, Topic},
        projects,
    },
};

/// Events per page, and per query of a stream.
const PAGE_SIZE: i64 = 200;
/// Poll interval: the longest delay after a lost notification.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(of_project))
        .routes(routes!(of_caller))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    /// False returns a page of JSON instead of a stream.
    #[serde(default = "yes")]
    follow: bool,
    /// Only events from now on.
    #[serde(default)]
    tail: bool,
    /// Only events of this branch.
    #[serde(default)]
    branch: Option<BranchName>,
    /// Only events after this id (`nextCursor` of the previous page).
    #[serde(default)]
    cursor: Option<EventId>,
}

fn yes() -> bool {
    true
}

/// The last event that a browser received before its stream was interrupted.
struct LastEventId(Option<EventId>);

impl FromRequestParts<App> for LastEventId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self> {
        last_event_id(&parts.headers, "id of an event").map(Self)
    }
}

/// Events of a project
#[utoipa::path(get, path = "/api/projects/{project}/events", tag = "events",
    params(("project" = String, Path, description = "id or name"), EventsQuery,
           ("Last-Event-ID" = Option<i64>, Header, description = "resume after this event")),
    responses((status = OK, body = Page<Event>), (status = NOT_FOUND, body = ErrorBody)))]
async fn of_project(
    State(app): State<App>,
    caller: Caller,
    InBranch(reference): InBranch,
    Query(mut query): Query<EventsQuery>,
    last: LastEventId,
) -> Result<Response> {
    let project = projects::find_any::<Read>(&app.store, &caller, &reference.project).await?;
    let topic = Topic::Project(project.id);
    let scope = EventScope::project(&project);
    let branch = (!reference.branch.is_main()).then_some(reference.branch);
    query.branch = query.branch.or(branch);
    let ended = {
        let app = app.clone();
        async move { project.ended(&app).await }
    };
    answer(app, scope, topic, query, last, ended).await
}

/// Events of all your projects and of those shared with you
#[utoipa::path(get, path = "/api/events", tag = "events",
    params(EventsQuery, ("Last-Event-ID" = Option<i64>, Header, description = "resume after this event")),
    responses((status = OK, body = Page<Event>), (status = UNAUTHORIZED, body = ErrorBody)))]
async fn of_caller(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<EventsQuery>,
    last: LastEventId,
) -> Result<Response> {
    let topic = Topic::Events(caller.user());
    let scope = EventScope::caller(&caller);
    let ended = {
        let app = app.clone();
        async move { caller.ended(&app).await }
    };
    answer(app, scope, topic, query, last, ended).await
}

/// `ended` completes when the caller may no longer see the events.
async fn answer(
    app: App,
    scope: EventScope,
    topic: Topic,
    query: EventsQuery,
    last: LastEventId,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Result<Response> {
    // Subscribe before the first query, so that no event is missed in between.
    let subscription = app.hub.subscribe(topic);
    let after = match last.0.or(query.cursor) {
        Some(id) => id,
        None if query.tail => events::last(&app.store, scope).await?,
        None => 0,
    };
    if !query.follow {
        let items = events::after(&app.store, scope, query.branch.as_ref(), after, PAGE_SIZE + 1).await?;
        let page = sse::page(items, PAGE_SIZE as usize, |event| event.id.to_string());
        return Ok(Json(page).into_response());
    }
    let reader = Reader {
        app,
        scope,
        branch: query.branch,
        after,
        subscription,
        ready: VecDeque::new(),
        ended: false,
    };
    Ok(sse::stream(stream(reader, ended)))
}

struct Reader {
    app: App,
    scope: EventScope,
    branch: Option<BranchName>,
    after: EventId,
    subscription: Subscription,
    ready: VecDeque<Event>,
    ended: bool,
}

/// Streams events until the server drains, the caller may no longer see them, or the project is deleted.
fn stream(
    reader: Reader,
    refused: impl Future<Output = ()> + Send + 'static,
) -> impl Stream<Item = Result<Message, Infallible>> {
    let ended = {
        let shutdown = reader.app.shutdown.clone();
        async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = refused => {}
            }
        }
    };
    let messages = futures_util::stream::unfold(reader, |mut state| async move {
        let event = state.next().await?;
        Some((Ok(message(&event)), state))
    });
    futures_util::StreamExt::take_until(messages, Box::pin(ended))
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.id;
                self.ended |=
                    matches!(self.scope, EventScope::Project(_)) && event.kind == EventKind::ProjectDeleted;
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match events::after(
                &self.app.store,
                self.scope,
                self.branch.as_ref(),
                self.after,
                PAGE_SIZE,
            )
            .await
            {
                Ok(found) if !found.is_empty() => self.ready = found.into(),
                Ok(_) => {
                    tokio::select! {
                        () = self.subscription.changed() => {}
                        () = tokio::time::sleep(POLL_INTERVAL) => {}
                    }
                }
                Err(error) => {
                    // The client reconnects with the last id that it received.
                    tracing::warn!(%error, causes = error.causes().join(": "), "a stream of events failed");
                    return None;
                }
            }
        }
    }
}

fn message(event: &Event) -> Message {
    Message::default()
        .id(event.id.to_string())
        .json_data(event)
        .unwrap_or_else(|_| Message::default().comment("an event that cannot be serialized"))
}
