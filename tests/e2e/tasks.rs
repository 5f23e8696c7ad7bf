//! Task tests: Claude Code, unmodified, on the runtime image, with a scripted model that is reached through
//! the relay.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fsa_model::{
    agent::Agent,
    api::{CreateProject, Page},
    money::Micros,
    task::{CreateTask, StepKind, Task, TaskState, TaskStep},
};
use fsa_tests::{
    Api, World, exported,
    public_host::{self, PublicHost},
    scripted_llm::{self, ReceivedRequests, ScriptedTurn},
};
use reqwest::Method;
use serde_json::json;

/// Timeout of every wait.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The operator's key, which no process in a sandbox may see.
const KEY: &str = "sk-of-the-operator";

/// A world whose operator has a key for the model at `base`.
fn world(base: &str) -> World {
    world_with(base, "relay")
}

/// The same, with this way of providing the key to the sandboxes.
fn world_with(base: &str, credentials: &str) -> World {
    World::start_with_agents(
        &[
            "--web-image",
            exported("FSA_WEB_IMAGE").to_str().expect("a path of UTF-8"),
            "--allow-networks",
            public_host::RANGE,
            "--agent-credentials",
            credentials,
        ],
        &format!("ANTHROPIC_BASE_URL={base}\nANTHROPIC_API_KEY={KEY}\n"),
    )
}

async fn create(api: &Api, name: &str, request: CreateTask) -> Task {
    api.send(Method::POST, &format!("/api/projects/{name}/tasks"), &request)
        .await
}

fn prompt(text: &str) -> CreateTask {
    CreateTask {
        prompt: text.into(),
        ..CreateTask::default()
    }
}

async fn steps(api: &Api, name: &str, task: &Task) -> Vec<TaskStep> {
    let path = format!("/api/projects/{name}/tasks/{}/steps?follow=false", task.id);
    api.get::<Page<TaskStep>>(&path).await.items
}

/// Polls until the task matches.
async fn until(api: &Api, name: &str, task: &Task, matches: impl AsyncFn(&Task) -> bool) -> Task {
    let path = format!("/api/projects/{name}/tasks/{}", task.id);
    let wait = async {
        loop {
            let task: Task = api.get(&path).await;
            if matches(&task).await {
                return task;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    match tokio::time::timeout(TIMEOUT, wait).await {
        Ok(task) => task,
        Err(_) => panic!(
            "the task does not match after {TIMEOUT:?}: {:#?} {:#?}",
            api.get::<Task>(&path).await,
            steps(api, name, task).await
        ),
    }
}

async fn over(api: &Api, name: &str, task: &Task) -> Task {
    until(api, name, task, async |task| task.state.is_over()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_continues_while_the_control_plane_is_killed_and_the_next_one_waits_for_it() {
    let received = Arc::new(Mutex::new(ReceivedRequests::default()));
    let kept = Arc::clone(&received);
    let script = vec![
        ScriptedTurn::Tool {
            name: "Write",
            input: json!({"file_path": "/home/dev/project/notes.txt", "content": "hello"}),
        },
        ScriptedTurn::Tool {
            name: "Bash",
            input: json!({"command": "until [ -e go ]; do sleep 0.1; done; env", "description": "Wait"}),
        },
        ScriptedTurn::Text("The notes are written."),
    ];
    let host = PublicHost::start(8000, move |listener| scripted_llm::serve(listener, script, kept));
    let mut world = world(&format!("http://{}:8000", host.address));
    let api = world.api();
    api.create_as(CreateProject {
        name: "notes".into(),
        ..CreateProject::default()
    })
    .await;
    api.until_running("notes").await;
    // Changes that were uncommitted before are not the agent's.
    api.shell(
        "notes",
        "git init --quiet && echo mine > draft && git add draft && echo more >> draft",
    )
    .await;
    let first = create(&api, "notes", prompt("Write notes, and wait")).await;
    let second = create(&api, "notes", prompt("Do nothing")).await;
    let third = create(&api, "notes", prompt("Do nothing either")).await;
    let waits = async |_: &Task| {
        let calls = steps(&api, "notes", &first).await;
        calls
            .iter()
            .filter(|step| step.kind == StepKind::ToolCall)
            .count()
            == 2
    };
    until(&api, "notes", &first, waits).await;
    let queued: Task = api.get(&format!("/api/projects/notes/tasks/{}", second.id)).await;
    assert_eq!(queued.state, TaskState::Queued);
    let cancelled: Task = api
        .send(
            Method::DELETE,
            &format!("/api/projects/notes/tasks/{}", third.id),
            &(),
        )
        .await;
    assert_eq!(cancelled.state, TaskState::Cancelled);

    world.crash();
    world.serve();
    let api = world.api();
    api.put("notes", "go", "").await;

    let ended = over(&api, "notes", &first).await;
    assert_eq!(
        (ended.state, ended.error.as_deref()),
        (TaskState::Succeeded, None)
    );
    assert_eq!(ended.result.as_deref(), Some("The notes are written."));
    assert_eq!(ended.changed_files, ["go", "notes.txt"]);
    let diff = world.fsa(&["task", "show", "notes", &first.id.to_string(), "--diff"]);
    let diff = String::from_utf8_lossy(&diff.stdout).into_owned();
    assert!(
        diff.contains("+++ b/notes.txt") && diff.contains("+hello"),
        "{diff}"
    );
    assert!(!diff.contains("draft"), "{diff}");
    let staged = api
        .shell("notes", "git diff --cached --name-only; git diff --name-only")
        .await;
    assert_eq!(staged, "draft\ndraft\n", "the index was not changed");
    assert!(ended.cost > Micros(0), "{ended:?}");
    let reported = steps(&api, "notes", &first).await;
    let sequences: Vec<i64> = reported.iter().map(|step| step.sequence).collect();
    assert_eq!(sequences, (1..=ended.steps).collect::<Vec<_>>());
    let count = |kind| reported.iter().filter(|step| step.kind == kind).count();
    assert_eq!(
        (
            count(StepKind::Started),
            count(StepKind::ToolCall),
            count(StepKind::Result)
        ),
        (1, 2, 1)
    );
    // The environment of the agent's own tool has no key in it.
    let results: String = reported
        .iter()
        .map(|step| serde_json::to_string(&step.data).unwrap())
        .collect();
    assert!(
        results.contains("ANTHROPIC_BASE_URL=http://127.0.0.1:7682/anthropic"),
        "{results}"
    );
    assert!(!results.contains(KEY));
    let keys = received.lock().expect("the received requests").keys.clone();
    assert!(!keys.is_empty() && keys.iter().all(|key| key == KEY), "{keys:?}");

    let next = over(&api, "notes", &second).await;
    assert_eq!(next.state, TaskState::Succeeded, "{next:?}");
    assert!(next.started_at > ended.ended_at, "one after the other");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_with_an_injected_key_is_cancelled_and_a_missing_agent_is_reported() {
    let received = Arc::new(Mutex::new(ReceivedRequests::default()));
    let kept = Arc::clone(&received);
    let script = vec![
        ScriptedTurn::Tool {
            name: "Bash",
            // Not one long sleep: Claude Code refuses that, and would end.
            input: json!({
                "command": "touch waits; until [ -e go ]; do sleep 0.1; done",
                "description": "Wait",
            }),
        },
        ScriptedTurn::Text("It cannot come to this."),
    ];
    let host = PublicHost::start(8000, move |listener| scripted_llm::serve(listener, script, kept));
    let base = format!("http://{}:8000", host.address);
    let world = world_with(&base, "inject");
    let api = world.api();
    api.create_as(CreateProject {
        name: "stuck".into(),
        ..CreateProject::default()
    })
    .await;
    let task = create(&api, "stuck", prompt("Wait for ever")).await;
    let absent = CreateTask {
        agent: Agent::Codex,
        ..prompt("Do something")
    };
    let absent = create(&api, "stuck", absent).await;
    let waits = async |task: &Task| {
        task.state == TaskState::Running && api.shell("stuck", "ls").await.contains("waits")
    };
    until(&api, "stuck", &task, waits).await;
    // The agent calls the model directly, with the key.
    let environment = api.shell("stuck", "env").await;
    assert!(
        environment.contains(&format!("ANTHROPIC_BASE_URL={base}\n")),
        "{environment}"
    );
    assert!(environment.contains(KEY), "{environment}");
    let keys = received.lock().expect("the received requests").keys.clone();
    assert!(!keys.is_empty() && keys.iter().all(|key| key == KEY), "{keys:?}");

    let reported = world.fsa(&["task", "cancel", "stuck", &task.id.to_string()]);

    assert!(
        reported.status.success(),
        "{}",
        String::from_utf8_lossy(&reported.stderr)
    );
    let ended = over(&api, "stuck", &task).await;
    assert_eq!(ended.state, TaskState::Cancelled);
    let processes = api
        .shell("stuck", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
        .await;
    assert!(!processes.contains("touch waits"), "{processes}");
    let absent = over(&api, "stuck", &absent).await;
    assert_eq!(absent.state, TaskState::Failed);
    assert!(
        absent
            .error
            .expect("why")
            .contains("Codex CLI is not in this project's image")
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_runs_a_task_and_sees_its_steps() {
    let received = Arc::new(Mutex::new(ReceivedRequests::default()));
    let kept = Arc::clone(&received);
    let script = vec![
        ScriptedTurn::Tool {
            name: "Bash",
            input: json!({"command": "echo forty-two", "description": "Count"}),
        },
        ScriptedTurn::Text("It is forty-two."),
    ];
    let host = PublicHost::start(8000, move |listener| scripted_llm::serve(listener, script, kept));
    let world = world(&format!("http://{}:8000", host.address));
    let api = world.api();
    api.create_as(CreateProject {
        name: "count".into(),
        ..CreateProject::default()
    })
    .await;

    let run = world.fsa(&["task", "run", "count", "What is it?"]);

    let shown = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{shown}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    assert!(shown.contains("> Bash") && shown.contains("forty-two"), "{shown}");
    assert!(shown.contains("succeeded  Claude Code"), "{shown}");
    let first: Page<Task> = api.get("/api/projects/count/tasks").await;
    let first = first.items[0].id.to_string();
    let none = world.fsa(&["task", "show", "count", &first, "--diff"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("not a git repository"));
    // The agent reports that the same conversation continues.
    let more = world.fsa(&["task", "run", "count", "--continue", &first, "And twice that?"]);
    assert!(more.status.success(), "{}", String::from_utf8_lossy(&more.stderr));
    let conversation = received
        .lock()
        .expect("the received requests")
        .conversation
        .clone();
    for expected in ["What is it?", "forty-two", "And twice that?"] {
        assert!(conversation.contains(expected), "{expected}: {conversation}");
    }
    let tight = world.fsa(&["task", "run", "count", "--budget", "0", "Again"]);
    let shown = String::from_utf8_lossy(&tight.stdout);
    assert!(!tight.status.success() && shown.contains("budget"), "{shown}");
    let spent = world.fsa(&["agent", "show", "count"]);
    assert!(String::from_utf8_lossy(&spent.stdout).contains("spent this month"));
    world.finish().await;
}
