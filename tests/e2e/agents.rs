//! Agent adapter tests: Codex CLI and Gemini CLI, unmodified, on the runtime image, each with a scripted
//! stand-in for its provider that is reached through the LLM proxy.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fsa_model::{
    agent_api::{AgentAccount, AgentUsage},
    api::{CreateProject, Page},
    money::Micros,
    task::{StepKind, Task, TaskState, TaskStep},
};
use fsa_tests::{
    Api, World, exported,
    public_host::{self, PublicHost},
    scripted_llm::{self, ReceivedRequests, ScriptedTurn},
};
use serde_json::json;

/// Timeout of every wait.
const TIMEOUT: Duration = Duration::from_secs(240);

/// One agent, and the expected results of its work.
struct Story {
    agent: &'static str,
    model: &'static str,
    /// The key in the form in which the provider receives it.
    key: &'static str,
    script: Vec<ScriptedTurn>,
}

fn stories() -> [Story; 2] {
    [
        Story {
            agent: "codex",
            model: "gpt-5",
            key: "Bearer sk-ofOpenaiQ1",
            script: vec![
                ScriptedTurn::Tool {
                    name: "exec_command",
                    input: json!({"cmd": "echo written > codex.txt; env"}),
                },
                ScriptedTurn::Text("The file is written."),
            ],
        },
        Story {
            agent: "gemini",
            model: "gemini-2.5-pro",
            key: "sk-ofGeminiQ2",
            script: vec![
                ScriptedTurn::Tool {
                    name: "write_file",
                    input: json!({"file_path": "/home/dev/project/gemini.txt", "content": "written\n"}),
                },
                ScriptedTurn::Tool {
                    name: "run_shell_command",
                    input: json!({"command": "env", "description": "Look around"}),
                },
                ScriptedTurn::Text("The file is written."),
            ],
        },
    ]
}

/// The usage of a model once so many requests are counted. They are counted after their responses have ended.
async fn counted(api: &Api, model: &str, requests: i64) -> AgentUsage {
    let counted = async {
        loop {
            let account: AgentAccount = api.get("/api/projects/work/agent").await;
            let found = account.models.into_iter().find(|one| one.model == model);
            if let Some(found) = found.filter(|one| one.requests >= requests) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, counted)
        .await
        .unwrap_or_else(|_| panic!("{requests} requests of {model} are not counted"))
}

/// Runs the agent like a person does, and checks the results.
async fn works(world: &World, api: &Api, story: &Story, received: &Mutex<ReceivedRequests>) {
    let agent = story.agent;
    let run = world.fsa(&[
        "task",
        "run",
        "work",
        "--agent",
        agent,
        "--model",
        story.model,
        "Write a file",
    ]);
    let shown = String::from_utf8_lossy(&run.stdout).into_owned();
    let text = String::from_utf8_lossy(&run.stderr);
    let received = received.lock().expect("the received requests").clone();
    assert!(run.status.success(), "{agent}: {shown}{text}{received:?}");

    let tasks: Page<Task> = api.get("/api/projects/work/tasks").await;
    let task = &tasks.items[0];
    let path = format!("/api/projects/work/tasks/{}/steps?follow=false", task.id);
    let steps: Page<TaskStep> = api.get(&path).await;
    let of = |kind| steps.items.iter().filter(|step| step.kind == kind).count();
    assert_eq!(task.state, TaskState::Succeeded, "{agent}: {task:?}");
    assert_eq!(task.result.as_deref(), Some("The file is written."), "{agent}");
    assert_eq!(task.changed_files, [format!("{agent}.txt")], "{agent}");
    assert_eq!(of(StepKind::Started), 1, "{agent}: {steps:#?}");
    assert_eq!(
        of(StepKind::ToolCall),
        story.script.len() - 1,
        "{agent}: {steps:#?}"
    );
    assert_eq!(
        of(StepKind::ToolResult),
        of(StepKind::ToolCall),
        "{agent}: {steps:#?}"
    );
    assert!(of(StepKind::Text) > 0, "{agent}: {steps:#?}");

    // The provider got the key, and the usage that it reported counts for the project.
    assert!(!received.keys.is_empty(), "{agent}");
    assert!(
        received.keys.iter().all(|key| key == story.key),
        "{agent}: {:?}",
        received.keys
    );
    assert!(task.cost > Micros(0), "{agent}: {task:?}");
    let requests = i64::try_from(received.keys.len()).expect("a few");
    let counted = counted(api, story.model, requests).await;
    assert_eq!(counted.requests, requests, "{agent}: {counted:?}");
    assert_eq!(
        (counted.input_tokens, counted.output_tokens),
        (10 * requests, 5 * requests),
        "{agent}"
    );
    // The environment of the agent's own tool points to the relay.
    assert!(
        received.results.concat().contains("http://127.0.0.1:7682/"),
        "{agent}: {:?}",
        received.results
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_and_gemini_run_a_task_without_a_key_in_the_sandbox() {
    let stories = stories();
    let hosts = stories.each_ref().map(|story| {
        let received = Arc::new(Mutex::new(ReceivedRequests::default()));
        let (script, kept) = (story.script.clone(), Arc::clone(&received));
        let host = PublicHost::start(8000, move |listener| scripted_llm::serve(listener, script, kept));
        (host, received)
    });
    let [openai, gemini] = hosts
        .each_ref()
        .map(|(host, _)| format!("http://{}:8000", host.address));
    let image = exported("FSA_WEB_IMAGE");
    let options = [
        "--web-image",
        image.to_str().expect("a path"),
        "--allow-networks",
        public_host::RANGE,
    ];
    let world = World::start_with_agents(
        &options,
        &format!(
            "OPENAI_BASE_URL={openai}/v1\nOPENAI_API_KEY=sk-ofOpenaiQ1\n\
             GOOGLE_GEMINI_BASE_URL={gemini}\nGEMINI_API_KEY=sk-ofGeminiQ2\n"
        ),
    );
    let api = world.api();
    api.create_as(CreateProject {
        name: "work".into(),
        ..CreateProject::default()
    })
    .await;
    api.until_running("work").await;
    let packages = exported("FSA_TEST_APPS").join("agents");
    let copied = world.fsa(&["cp", packages.to_str().expect("a path"), "work:/home/dev/agents"]);
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    api.shell(
        "work",
        "mkdir -p ~/.local/bin && ln -s ~/agents/node_modules/.bin/codex ~/agents/node_modules/.bin/gemini ~/.local/bin",
    )
    .await;

    for (story, (_, received)) in stories.iter().zip(&hosts) {
        works(&world, &api, story, received).await;
    }

    let seen = api
        .shell(
            "work",
            "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; \
             grep -rs 'sk-o[f]' ~ /etc /tmp /run --exclude-dir=agents; true",
        )
        .await;
    assert!(
        seen.contains("OPENAI_BASE_URL=http://127.0.0.1:7682/openai"),
        "{seen}"
    );
    assert!(!seen.contains("sk-of"), "{seen}");
    world.finish().await;
}
