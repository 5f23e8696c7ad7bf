//! `fsa task`: runs agents in a project's sandbox without supervision.

use std::io::{IsTerminal as _, Read as _};

use fsa_model::{
    api::Page,
    money::Micros,
    task::{CreateTask, StepKind, Task, TaskDiff, TaskState, TaskStep},
};
use futures_util::TryStreamExt as _;
use reqwest::Method;

use crate::{
    args::{self, TaskRun},
    client::{Client, encode},
    failure::{Failure, Outcome},
    output,
};

/// Maximum number of characters of a tool's input or output in the output.
const MAX_CHARACTERS: usize = 100;

pub async fn run(client: &Client, command: args::Task, json: bool) -> Outcome {
    match command {
        args::Task::Run(run) => start(client, *run, json).await,
        args::Task::List { project } => {
            let page: Page<Task> = client.get(&path(&project)).await?;
            output::print(json, &page, |page| list(&page.items));
            Ok(0)
        }
        args::Task::Show {
            project,
            task,
            follow,
            diff,
        } => {
            if diff {
                let path = format!("{}/{}/diff", path(&project), encode(&task));
                let task: TaskDiff = client.get(&path).await?;
                output::print(json, &task, changes);
                return Ok(0);
            }
            if follow {
                return watch(client, &project, &task, json).await;
            }
            let task: Task = client
                .get(&format!("{}/{}", path(&project), encode(&task)))
                .await?;
            output::print(json, &task, show);
            Ok(0)
        }
        args::Task::Cancel { project, task } => {
            let path = format!("{}/{}", path(&project), encode(&task));
            let task: Task = client.send(Method::DELETE, &path, &()).await?;
            output::print(json, &task, |task| {
                output::line(&format!("{} {}", task.id, state_name(task.state)))
            });
            Ok(0)
        }
    }
}

fn path(project: &str) -> String {
    format!("/api/projects/{}/tasks", encode(project))
}

async fn start(client: &Client, run: TaskRun, json: bool) -> Outcome {
    let prompt = match run.prompt {
        Some(prompt) => prompt,
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::usage(
                "give the prompt as an argument or on standard input",
            ));
        }
        None => {
            let mut prompt = String::new();
            std::io::stdin().read_to_string(&mut prompt)?;
            prompt
        }
    };
    let request = CreateTask {
        agent: run.agent,
        prompt,
        model: run.model,
        budget: run
            .budget
            .map(|dollars| {
                Micros::from_dollars(dollars)
                    .ok_or_else(|| Failure::usage("--budget is a number of US dollars, such as 0.50"))
            })
            .transpose()?,
        timeout_seconds: run.timeout,
        continues: run
            .continues
            .map(|text| {
                text.parse()
                    .map_err(|_| Failure::usage("--continue takes the id of a task"))
            })
            .transpose()?,
    };
    let task: Task = client.send(Method::POST, &path(&run.project), &request).await?;
    if run.detach {
        output::print(json, &task, |task| output::line(&task.id.to_string()));
        return Ok(0);
    }
    if !json {
        output::notice(&format!("task {}", task.id));
    }
    watch(client, &run.project, &task.id.to_string(), json).await
}

/// Shows steps until the task has ended. The exit code is 0 if it succeeded.
async fn watch(client: &Client, project: &str, task: &str, json: bool) -> Outcome {
    let path = format!("{}/{}/steps", path(project), encode(task));
    let mut last: Option<String> = None;
    loop {
        let mut stream = client.events(&path, last.as_deref()).await?;
        let before = last.clone();
        while let Some(message) = stream.try_next().await? {
            if json {
                output::line(&message.data);
            }
            if message.event == "task" {
                let task: Task = read(&message.data)?;
                if !json {
                    show(&task);
                }
                return Ok(u8::from(task.state != TaskState::Succeeded));
            }
            if !json {
                step(&read(&message.data)?);
            }
            if !message.id.is_empty() {
                last = Some(message.id);
            }
        }
        // The server is draining: reconnect. Stop if a stream brings nothing new.
        if last == before {
            return Err(Failure::failed(
                "the stream ended before the task did; continue with `fsa task show --follow`",
            ));
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::failed(format!("the server sent a step that cannot be read: {error}")))
}

fn step(step: &TaskStep) {
    let text = |name: &str| match step.data.get(name) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let short = |text: String| -> String {
        let line = text.lines().next().unwrap_or_default();
        line.chars().take(MAX_CHARACTERS).collect()
    };
    match step.kind {
        StepKind::Text => output::line(&text("text")),
        StepKind::ToolCall => output::line(&format!("> {} {}", text("name"), short(text("input")))),
        StepKind::ToolResult => output::line(&format!("  {}", short(text("output")))),
        StepKind::Notice => output::notice(&text("text")),
        StepKind::Started | StepKind::Thinking | StepKind::Result => {}
    }
}

fn show(task: &Task) {
    output::line(&format!(
        "{}  {}  {}  {}",
        task.id,
        state_name(task.state),
        task.agent.title(),
        task.cost
    ));
    if let Some(error) = &task.error {
        output::line(&format!("error: {error}"));
    }
    if let Some(result) = &task.result {
        output::line(result);
    }
    for file in &task.changed_files {
        output::line(&format!("changed  {file}"));
    }
}

fn changes(task: &TaskDiff) {
    if let Some(diff) = &task.diff {
        output::line(diff.trim_end());
    }
    if task.truncated {
        output::notice("the diff is truncated");
    }
    if let Some(reason) = &task.reason {
        output::notice(reason);
    }
}

fn list(tasks: &[Task]) {
    let rows = tasks.iter().map(|task| {
        let prompt: String = task
            .prompt
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(50)
            .collect();
        vec![
            task.id.to_string(),
            state_name(task.state),
            task.agent.title().to_owned(),
            task.cost.to_string(),
            output::age(task.created_at),
            prompt,
        ]
    });
    output::table(&["TASK", "STATE", "AGENT", "COST", "AGE", "PROMPT"], rows);
}

fn state_name(state: TaskState) -> String {
    match state {
        TaskState::Queued => "queued",
        TaskState::Running => "running",
        TaskState::Succeeded => "succeeded",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "cancelled",
    }
    .to_owned()
}
