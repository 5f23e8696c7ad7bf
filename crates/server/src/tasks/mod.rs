//! Agent tasks: runs of an agent in a project's sandbox without a person present. This module has the operations of
//! the API; [`run`] executes the tasks.

pub mod agents;
mod changes;
mod end;
pub mod run;

use fsa_model::{
    event::EventKind,
    task::{CreateTask, Task, TaskDiff},
};
use uuid::Uuid;

use crate::{
    auth::{
        Caller,
        permission::{Read, Write},
    },
    core::Core,
    error::{Error, Result},
    projects::lifecycle::{self, LifecycleAction},
    store::{
        branches::{self, BranchReference},
        events::{self, NewEvent},
        notify::Topic,
        projects, tasks,
        tasks::NewTask,
    },
};

const DEFAULT_TIMEOUT_SECONDS: u32 = 3600;
const MAX_TIMEOUT_SECONDS: u32 = 86_400;
/// Most characters of a prompt.
const MAX_PROMPT: usize = 100_000;
/// Most unfinished tasks of one project.
const MAX_UNFINISHED: i64 = 50;

/// Creates a task in the branch's queue. A sandbox that is stopped is started for it.
///
/// # Errors
/// Not found; 422 with the field and its rule; 429 where too many tasks wait.
pub async fn create(
    core: &Core,
    caller: &Caller,
    reference: &BranchReference,
    request: CreateTask,
) -> Result<Task> {
    let found = branches::find::<Write>(&core.store, caller, reference).await?;
    check(&request)?;
    if let Some(earlier) = request.continues {
        let earlier = tasks::find(&core.store, found.id, earlier)
            .await
            .map_err(|_| Error::invalid("continue", "this project has no such task"))?;
        if earlier.branch != found.branch().volume {
            return Err(Error::invalid("continue", "it must be a task of the same branch"));
        }
        if earlier.task.agent != request.agent || earlier.session.is_none() {
            return Err(Error::invalid(
                "continue",
                "it must be a task of the same agent whose conversation has begun",
            ));
        }
    }
    // No effect where the project runs or is starting. The start comes first, because a limit may refuse it, and a
    // task would then wait for a sandbox that never comes.
    let reference = BranchReference::of(found.branch());
    lifecycle::request(core, caller, &reference, LifecycleAction::Start).await?;
    let id = Uuid::now_v7();
    let mut tx = core.store.begin().await?;
    let project = branches::lock(&mut tx, &found).await?;
    if tasks::count_unfinished(&mut tx, project.id).await? >= MAX_UNFINISHED {
        return Err(Error::too_often(
            format!("This project has {MAX_UNFINISHED} tasks that have not ended; cancel some or wait."),
            std::time::Duration::from_secs(60),
        ));
    }
    let new = NewTask {
        id,
        project: project.id,
        branch: project.branch().volume,
        by: caller.user(),
        agent: request.agent,
        prompt: &request.prompt,
        model: request.model.as_deref(),
        budget: request.budget,
        timeout_seconds: request.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS),
        continues: request.continues,
    };
    tasks::insert(&mut tx, new).await?;
    let message = format!("A task for {} was created.", request.agent.title());
    let event = NewEvent::new(&project, EventKind::TaskCreated, message)
        .in_branch(&project.branch().name)
        .with(serde_json::json!({"task": id, "agent": request.agent, "by": caller.login()}));
    events::append(&mut tx, event).await?;
    tx.commit().await?;
    core.hub.wake(Topic::DesiredState);
    Ok(tasks::find(&core.store, project.id, id).await?.task)
}

fn check(request: &CreateTask) -> Result<()> {
    let prompt = request.prompt.trim();
    if prompt.is_empty() || request.prompt.len() > MAX_PROMPT || prompt.contains('\0') {
        let rule = format!("it has from 1 to {MAX_PROMPT} characters, and no NUL character");
        return Err(Error::invalid("prompt", rule));
    }
    let is_model = |model: &str| {
        (1..=200).contains(&model.len())
            && model.starts_with(|c: char| c.is_ascii_alphanumeric())
            && model.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if request.model.as_deref().is_some_and(|model| !is_model(model)) {
        return Err(Error::invalid(
            "model",
            "it must be the name of a model of the provider",
        ));
    }
    if request
        .timeout_seconds
        .is_some_and(|seconds| !(1..=MAX_TIMEOUT_SECONDS).contains(&seconds))
    {
        return Err(Error::invalid(
            "timeoutSeconds",
            format!("it is a number from 1 to {MAX_TIMEOUT_SECONDS}"),
        ));
    }
    Ok(())
}

/// A task of the caller's project.
///
/// # Errors
/// Not found.
pub async fn show(core: &Core, caller: &Caller, project: &str, task: Uuid) -> Result<Task> {
    let project = projects::find::<Read>(&core.store, caller, project).await?;
    Ok(tasks::find(&core.store, project.id, task).await?.task)
}

/// The changes by the agent of a task.
///
/// # Errors
/// Not found.
pub async fn diff(core: &Core, caller: &Caller, project: &str, task: Uuid) -> Result<TaskDiff> {
    let project = projects::find::<Read>(&core.store, caller, project).await?;
    let row = tasks::find(&core.store, project.id, task).await?;
    let (diff, truncated) = tasks::diff(&core.store, task).await?;
    let reason = match (&diff, row.start_tree) {
        (Some(_), _) => None,
        (None, _) if !row.task.state.is_over() => Some("The task has not ended yet."),
        (None, None) => Some("The project's folder was not a git repository when the task began."),
        (None, Some(_)) => Some("The sandbox did not return the diff at the end of the task."),
    };
    Ok(TaskDiff {
        diff,
        truncated,
        reason: reason.map(ToOwned::to_owned),
    })
}

/// Requests that a task end. A task that has ended does not change.
///
/// # Errors
/// Not found.
pub async fn cancel(core: &Core, caller: &Caller, project: &str, task: Uuid) -> Result<Task> {
    let found = projects::find::<Write>(&core.store, caller, project).await?;
    tasks::find(&core.store, found.id, task).await?;
    let mut tx = core.store.begin().await?;
    let project = projects::lock(&mut tx, &found).await?;
    if tasks::cancel(&mut tx, task).await? {
        let event = NewEvent::new(
            &project,
            EventKind::TaskCancelled,
            "A task was cancelled.".to_owned(),
        )
        .with(serde_json::json!({"task": task, "by": caller.login()}));
        events::append(&mut tx, event).await?;
    }
    tx.commit().await?;
    Ok(tasks::find(&core.store, found.id, task).await?.task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_tasks_are_rejected_with_the_field() {
        let request = |change: fn(&mut CreateTask)| {
            let mut request = CreateTask {
                prompt: "do".into(),
                ..CreateTask::default()
            };
            change(&mut request);
            check(&request)
                .err()
                .map(|error| error.field().unwrap().name.clone())
        };
        assert_eq!(request(|_| {}), None);
        assert_eq!(
            request(|request| request.prompt = "  ".into()).as_deref(),
            Some("prompt")
        );
        assert_eq!(
            request(|request| request.model = Some("--x".into())).as_deref(),
            Some("model")
        );
        assert_eq!(
            request(|request| request.timeout_seconds = Some(0)).as_deref(),
            Some("timeoutSeconds")
        );
    }
}
