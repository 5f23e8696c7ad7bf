//! Agent tasks: `/api/projects/{project}/tasks`, agents that work without a user at a terminal.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    extract::{FromRequestParts, State},
    response::{IntoResponse as _, Response, sse::Event as Message},
};
use fsa_model::{
    ErrorBody,
    api::Page,
    task::{CreateTask, Task, TaskDiff, TaskStep},
};
use futures_util::Stream;
use http::{StatusCode, request::Parts};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{in_branch::InBranch, sse};
use crate::{
    auth::{
        Caller,
        permission::{Authorized, Read},
    },
    error::{Error, Result},
    extract::{Json, Path, Query, last_event_id},
    state::App,
    store::{
        self,
        branches::BranchReference,
        notify::{Subscription, Topic},
        projects,
    },
    tasks,
};

/// Tasks or steps per page, and steps per query of a stream.
const PAGE_SIZE: i64 = 100;
/// Poll interval: the longest delay after a lost notification.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, cancel))
        .routes(routes!(steps))
        .routes(routes!(diff))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// `nextCursor` of the previous page.
    #[serde(default)]
    cursor: Option<Uuid>,
    /// Name of a branch.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

/// The project's tasks, newest first; those of one branch where the query names another one than main
#[utoipa::path(get, path = "/api/projects/{project}/tasks", tag = "tasks",
    params(("project" = String, Path, description = "id or name"), ListQuery),
    responses((status = OK, body = Page<Task>), (status = NOT_FOUND, body = ErrorBody)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    InBranch(BranchReference { project, branch }): InBranch,
    Query(ListQuery { cursor, .. }): Query<ListQuery>,
) -> Result<Json<Page<Task>>> {
    let project = projects::find::<Read>(&app.store, &caller, &project).await?;
    let branch = Some(&branch).filter(|branch| !branch.is_main());
    let mut items = store::tasks::list(&app.store, project.id, branch, cursor, PAGE_SIZE + 1).await?;
    let more = items.len() > PAGE_SIZE as usize;
    items.truncate(PAGE_SIZE as usize);
    let next_cursor = items.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(Json(Page { items, next_cursor }))
}

/// Creates a task: an agent works on the prompt in the sandbox, after earlier tasks
#[utoipa::path(post, path = "/api/projects/{project}/tasks", tag = "tasks", request_body = CreateTask,
    params(("project" = String, Path, description = "id or name"),
           ("branch" = Option<String>, Query, description = "name of a branch; main by default")),
    responses((status = CREATED, body = Task), (status = NOT_FOUND, body = ErrorBody),
              (status = UNPROCESSABLE_ENTITY, body = ErrorBody),
              (status = TOO_MANY_REQUESTS, body = ErrorBody)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    InBranch(project): InBranch,
    Json(request): Json<CreateTask>,
) -> Result<(StatusCode, Json<Task>)> {
    let task = tasks::create(&app, &caller, &project, request).await?;
    Ok((StatusCode::CREATED, Json(task)))
}

/// A task
#[utoipa::path(get, path = "/api/projects/{project}/tasks/{task}", tag = "tasks",
    params(("project" = String, Path, description = "id or name"), ("task" = Uuid, Path)),
    responses((status = OK, body = Task), (status = NOT_FOUND, body = ErrorBody)))]
async fn show(
    State(app): State<App>,
    caller: Caller,
    InBranch(BranchReference { project, .. }): InBranch,
    Path((_, task)): Path<(String, String)>,
) -> Result<Json<Task>> {
    tasks::show(&app, &caller, &project, id(&task)?).await.map(Json)
}

/// Cancels a task; a task that has ended is unchanged
#[utoipa::path(delete, path = "/api/projects/{project}/tasks/{task}", tag = "tasks",
    params(("project" = String, Path, description = "id or name"), ("task" = Uuid, Path)),
    responses((status = ACCEPTED, body = Task), (status = NOT_FOUND, body = ErrorBody)))]
async fn cancel(
    State(app): State<App>,
    caller: Caller,
    InBranch(BranchReference { project, .. }): InBranch,
    Path((_, task)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Task>)> {
    let task = tasks::cancel(&app, &caller, &project, id(&task)?).await?;
    Ok((StatusCode::ACCEPTED, Json(task)))
}

/// Changes that the agent of a task made
#[utoipa::path(get, path = "/api/projects/{project}/tasks/{task}/diff", tag = "tasks",
    params(("project" = String, Path, description = "id or name"), ("task" = Uuid, Path)),
    responses((status = OK, body = TaskDiff), (status = NOT_FOUND, body = ErrorBody)))]
async fn diff(
    State(app): State<App>,
    caller: Caller,
    InBranch(BranchReference { project, .. }): InBranch,
    Path((_, task)): Path<(String, String)>,
) -> Result<Json<TaskDiff>> {
    tasks::diff(&app, &caller, &project, id(&task)?).await.map(Json)
}

fn id(text: &str) -> Result<Uuid> {
    text.parse().map_err(|_| Error::not_found("task"))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct StepsQuery {
    /// False returns a page of JSON instead of a stream.
    #[serde(default = "yes")]
    follow: bool,
    /// Only steps after this sequence number (`nextCursor` of the previous page).
    #[serde(default)]
    cursor: Option<i64>,
    /// Name of a branch; it makes no difference.
    #[serde(rename = "branch", default)]
    _branch: Option<String>,
}

fn yes() -> bool {
    true
}

/// The last step that a browser received before its stream was interrupted.
struct LastEventId(Option<i64>);

impl FromRequestParts<App> for LastEventId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self> {
        last_event_id(&parts.headers, "sequence of a step").map(Self)
    }
}

/// The steps of a task; the stream ends with the task
#[utoipa::path(get, path = "/api/projects/{project}/tasks/{task}/steps", tag = "tasks",
    params(("project" = String, Path, description = "id or name"), ("task" = Uuid, Path), StepsQuery,
           ("Last-Event-ID" = Option<i64>, Header, description = "resume after this step")),
    responses((status = OK, body = Page<TaskStep>), (status = NOT_FOUND, body = ErrorBody)))]
async fn steps(
    State(app): State<App>,
    caller: Caller,
    InBranch(BranchReference { project, .. }): InBranch,
    Path((_, task)): Path<(String, String)>,
    Query(query): Query<StepsQuery>,
    last: LastEventId,
) -> Result<Response> {
    let project = projects::find::<Read>(&app.store, &caller, &project).await?;
    // Subscribe before the first query, so that no step is missed in between.
    let subscription = app.hub.subscribe(Topic::Project(project.id));
    let task = store::tasks::find(&app.store, project.id, id(&task)?).await?.task;
    let after = last.0.or(query.cursor).unwrap_or(0);
    if !query.follow {
        let items = store::tasks::steps(&app.store, task.id, after, PAGE_SIZE + 1).await?;
        let page = sse::page(items, PAGE_SIZE as usize, |step| step.sequence.to_string());
        return Ok(Json(page).into_response());
    }
    let permit = app.streams.acquire(&app, &caller)?;
    let reader = Reader {
        app: app.clone(),
        task,
        after,
        subscription,
        ready: VecDeque::new(),
        end_sent: false,
    };
    Ok(sse::stream(stream(app, project, reader, permit)))
}

struct Reader {
    app: App,
    task: Task,
    after: i64,
    subscription: Subscription,
    ready: VecDeque<TaskStep>,
    end_sent: bool,
}

/// Streams steps as they arrive, and finally the ended task (`event: task`). Ends early when the server drains,
/// or the caller may no longer see it.
fn stream(
    app: App,
    project: Authorized<Read>,
    reader: Reader,
    permit: impl Send + 'static,
) -> impl Stream<Item = Result<Message, Infallible>> {
    let ended = async move {
        let shutdown = app.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = project.ended(&app) => {}
        }
    };
    let messages = futures_util::stream::unfold((reader, permit), |(mut reader, permit)| async move {
        let message = reader.next().await?;
        Some((Ok(message), (reader, permit)))
    });
    futures_util::StreamExt::take_until(messages, Box::pin(ended))
}

impl Reader {
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(step) = self.ready.pop_front() {
                self.after = step.sequence;
                let message = Message::default().event("step").id(step.sequence.to_string());
                return message.json_data(&step).ok();
            }
            if self.end_sent {
                return None;
            }
            // Read the task first: the steps that it counts exist by then.
            let (project, id) = (self.task.project_id, self.task.id);
            let read = async {
                let task = store::tasks::find(&self.app.store, project, id).await?.task;
                let steps = store::tasks::steps(&self.app.store, id, self.after, PAGE_SIZE).await?;
                Ok::<_, Error>((task, steps))
            };
            match read.await {
                Ok((task, steps)) => {
                    let over = task.state.is_over();
                    self.task = task;
                    if !steps.is_empty() {
                        self.ready = steps.into();
                        continue;
                    }
                    if over {
                        self.end_sent = true;
                        return Message::default().event("task").json_data(&self.task).ok();
                    }
                }
                Err(error) => {
                    // The client reconnects with the last step that it received.
                    tracing::warn!(%error, "a stream of steps failed");
                    return None;
                }
            }
            tokio::select! {
                () = self.subscription.changed() => {}
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }
}
