//! Agents as programs: how each is started, and what the lines that it prints mean.
//!
//! Pure: a command out of a task, steps out of a line. The prompt goes through standard input,
//! where no list of processes shows it.

use fsa_model::{
    money::Micros,
    task::{Agent, StepKind, Task},
};
use serde_json::{Value, json};

use crate::store::tasks::Heard;

/// Characters of one text of a step.
const LONGEST: usize = 16 * 1024;

/// Starts Codex, which takes an address of its own from no variable: where there is a key, it is told to speak to
/// `OPENAI_BASE_URL` with it, by requests alone, because nobody in between passes on its WebSocket. Ends
/// as a shell does where there is no such program.
const CODEX: &str = r#"
command -v codex >/dev/null || { echo 'codex: not found' >&2; exit 127; }
if [ -n "$OPENAI_API_KEY" ]; then
    base=${OPENAI_BASE_URL:-https://api.openai.com/v1}
    exec codex -c 'model_provider="fsa"' -c "model_providers.fsa={name=\"fsa\",base_url=\"$base\",env_key=\"OPENAI_API_KEY\",wire_api=\"responses\"}" "$@"
fi
exec codex "$@"
"#;

/// Whether the process ended because the agent's program is not there.
#[must_use]
pub const fn is_absent(agent: Agent, exit_code: i32) -> bool {
    matches!(agent, Agent::Codex) && exit_code == 127
}

/// The program and its arguments. `session` is the conversation that goes on, where one does.
#[must_use]
pub fn command(task: &Task, session: Option<&str>) -> Vec<String> {
    let mut words: Vec<&str> = match (task.agent, session) {
        (Agent::Claude, _) => vec![
            "claude",
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--dangerously-skip-permissions",
        ],
        (Agent::Codex, None) => vec!["sh", "-c", CODEX, "codex", "exec"],
        (Agent::Codex, Some(_)) => vec!["sh", "-c", CODEX, "codex", "exec", "resume"],
        (Agent::Gemini, _) => vec!["gemini", "--output-format", "stream-json", "--yolo"],
    };
    if task.agent == Agent::Codex {
        words.extend([
            "--json",
            "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox",
        ]);
    }
    if let Some(model) = &task.model {
        words.extend(["--model", model]);
    }
    match (task.agent, session) {
        (Agent::Claude | Agent::Gemini, Some(session)) => words.extend(["--resume", session]),
        (Agent::Codex, Some(session)) => words.extend([session, "-"]),
        // It reads its prompt from standard input where it is told so.
        (Agent::Codex, None) => words.push("-"),
        (Agent::Claude | Agent::Gemini, None) => {}
    }
    words.into_iter().map(ToOwned::to_owned).collect()
}

/// Takes one line of output.
pub fn line(agent: Agent, line: &str, heard: &mut Heard) {
    if line.trim().is_empty() {
        return;
    }
    let Ok(event) = serde_json::from_str::<Value>(line) else {
        step(heard, StepKind::Notice, json!({"text": short(line)}));
        return;
    };
    match agent {
        Agent::Claude => claude(&event, heard),
        Agent::Codex => codex(&event, heard),
        Agent::Gemini => gemini(&event, heard),
    }
}

/// `claude --output-format stream-json`: messages of the API, between `system` and `result`.
fn claude(event: &Value, heard: &mut Heard) {
    match text(event, "type") {
        "system" if text(event, "subtype") == "init" => {
            started(heard, text(event, "session_id"), text(event, "model"));
        }
        kind @ ("assistant" | "user") => {
            let blocks = event.pointer("/message/content").and_then(Value::as_array);
            for block in blocks.into_iter().flatten() {
                match text(block, "type") {
                    "text" if kind == "assistant" => said(heard, StepKind::Text, text(block, "text")),
                    "thinking" => said(heard, StepKind::Thinking, text(block, "thinking")),
                    "tool_use" => {
                        call(heard, text(block, "id"), text(block, "name"), &block["input"]);
                    }
                    "tool_result" => {
                        let failed = block["is_error"] == true;
                        answer(heard, text(block, "tool_use_id"), &block["content"], failed);
                    }
                    _ => {}
                }
            }
        }
        "result" => {
            heard.cost = event["total_cost_usd"].as_f64().and_then(Micros::from_dollars);
            let words = match text(event, "result") {
                "" => text(event, "subtype"),
                words => words,
            };
            result(heard, words, event["is_error"] == true);
        }
        _ => {}
    }
}

/// `codex exec --json`: a thread of turns of items.
fn codex(event: &Value, heard: &mut Heard) {
    let item = &event["item"];
    match (text(event, "type"), text(item, "type")) {
        ("thread.started", _) => started(heard, text(event, "thread_id"), ""),
        ("item.completed", "agent_message") => {
            said(heard, StepKind::Text, text(item, "text"));
            heard.result = Some(short(text(item, "text")));
        }
        ("item.completed", "reasoning") => said(heard, StepKind::Thinking, text(item, "text")),
        ("item.started", "command_execution") => {
            call(
                heard,
                text(item, "id"),
                "command",
                &json!({"command": item["command"]}),
            );
        }
        ("item.completed", "command_execution") => {
            let failed = item["exit_code"].as_i64().is_some_and(|code| code != 0);
            answer(heard, text(item, "id"), &item["aggregated_output"], failed);
        }
        ("item.completed", "file_change") => {
            call(
                heard,
                text(item, "id"),
                "file_change",
                &json!({"changes": item["changes"]}),
            );
        }
        ("turn.failed", _) => {
            let words = event.pointer("/error/message").and_then(Value::as_str);
            result(heard, words.unwrap_or("the turn failed"), true);
        }
        // It says so of a connection that it tries again, too; the turn's own end says how it ended.
        ("error", _) => said(heard, StepKind::Notice, text(event, "message")),
        ("item.completed", "error") => said(heard, StepKind::Notice, text(item, "message")),
        _ => {}
    }
}

/// `gemini --output-format stream-json`.
fn gemini(event: &Value, heard: &mut Heard) {
    match text(event, "type") {
        "init" => started(heard, text(event, "session_id"), text(event, "model")),
        "message" if text(event, "role") == "assistant" => {
            said(heard, StepKind::Text, text(event, "content"));
            heard.result = Some(short(text(event, "content")));
        }
        "tool_use" => call(
            heard,
            text(event, "tool_id"),
            text(event, "tool_name"),
            &event["parameters"],
        ),
        "tool_result" => {
            let failed = text(event, "status") == "error";
            answer(heard, text(event, "tool_id"), &event["output"], failed);
        }
        "error" => said(heard, StepKind::Notice, text(event, "message")),
        "result" if text(event, "status") == "error" => {
            let words = event.pointer("/error/message").and_then(Value::as_str);
            result(heard, words.unwrap_or("the agent failed"), true);
        }
        _ => {}
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// As much of a text as is kept, without what neither JSON in the database nor a terminal takes.
fn short(text: &str) -> String {
    let plain = |c: &char| *c != '\0' && (!c.is_control() || matches!(*c, '\n' | '\t'));
    let mut kept: String = text.chars().filter(plain).take(LONGEST).collect();
    if text.len() > kept.len() && kept.chars().count() == LONGEST {
        kept.push_str(" … [cut]");
    }
    kept
}

/// A value with every text in it short, or as a short text where it is large as a whole.
fn bounded(value: &Value) -> Value {
    let written = value.to_string();
    if written.len() > 2 * LONGEST || written.contains("\\u0000") {
        // The database takes a NUL in no form (PostgreSQL documentation, 8.14 JSON Types).
        return Value::String(short(&written.replace("\\u0000", "")));
    }
    value.clone()
}

fn step(heard: &mut Heard, kind: StepKind, data: Value) {
    heard.steps.push((kind, data));
}

fn said(heard: &mut Heard, kind: StepKind, words: &str) {
    if !words.trim().is_empty() {
        step(heard, kind, json!({"text": short(words)}));
    }
}

fn started(heard: &mut Heard, session: &str, model: &str) {
    let named = |text: &str| (1..=200).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    // It becomes an argument when the conversation goes on.
    if named(session) && !session.starts_with('-') {
        heard.session = Some(session.to_owned());
    }
    step(
        heard,
        StepKind::Started,
        json!({"session": short(session), "model": short(model)}),
    );
}

fn call(heard: &mut Heard, id: &str, name: &str, input: &Value) {
    step(
        heard,
        StepKind::ToolCall,
        json!({"id": short(id), "name": short(name), "input": bounded(input)}),
    );
}

fn answer(heard: &mut Heard, id: &str, output: &Value, failed: bool) {
    let words = match output {
        Value::String(words) => short(words),
        Value::Array(blocks) => {
            let texts: Vec<&str> = blocks.iter().map(|block| text(block, "text")).collect();
            short(&texts.join("\n"))
        }
        other => short(&other.to_string()),
    };
    step(
        heard,
        StepKind::ToolResult,
        json!({"id": short(id), "output": words, "isError": failed}),
    );
}

fn result(heard: &mut Heard, words: &str, failed: bool) {
    heard.result = Some(short(words));
    heard.failed |= failed;
    let cost = heard.cost.map(Micros::dollars);
    step(
        heard,
        StepKind::Result,
        json!({"text": short(words), "isError": failed, "cost": cost}),
    );
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use fsa_model::{ProjectId, task::TaskState};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn task(agent: Agent) -> Task {
        Task {
            id: Uuid::nil(),
            project_id: ProjectId::generate(),
            agent,
            prompt: "a secret plan".into(),
            model: Some("m".into()),
            budget: None,
            timeout_seconds: 60,
            continues: None,
            state: TaskState::Queued,
            error: None,
            exit_code: None,
            result: None,
            cost: Micros(0),
            changed_files: Vec::new(),
            steps: 0,
            created_at: Utc::now(),
            started_at: None,
            ended_at: None,
        }
    }

    fn kinds(agent: Agent, lines: &[&str]) -> (Vec<StepKind>, Heard) {
        let mut heard = Heard::default();
        for text in lines {
            line(agent, text, &mut heard);
        }
        (heard.steps.iter().map(|(kind, _)| *kind).collect(), heard)
    }

    #[test]
    fn the_prompt_is_never_an_argument() {
        for agent in Agent::ALL {
            for session in [None, Some("s-1")] {
                let words = command(&task(agent), session);
                let program = if agent == Agent::Codex { 3 } else { 0 };
                assert_eq!(words[program], agent.as_str());
                assert!(!words.iter().any(|word| word.contains("secret")), "{words:?}");
                assert_eq!(words.iter().any(|word| word == "s-1"), session.is_some());
                assert!(words.windows(2).any(|pair| pair == ["--model", "m"]));
            }
        }
    }

    #[test]
    fn what_claude_code_prints_becomes_steps() {
        use StepKind::{Notice, Result, Started, Text, ToolCall, ToolResult};
        let (kinds, heard) = kinds(
            Agent::Claude,
            &[
                r#"{"type":"system","subtype":"init","session_id":"abc","model":"claude-x","tools":[]}"#,
                r#"{"type":"assistant","message":{"content":[{"type":"text","text":"I write it."},{"type":"tool_use","id":"t1","name":"Write","input":{"file_path":"a"}}]}}"#,
                r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"done"}]}]}}"#,
                "npm warn something",
                r#"{"type":"result","subtype":"success","is_error":false,"result":"It is there.","total_cost_usd":0.25,"session_id":"abc"}"#,
            ],
        );
        assert_eq!(kinds, [Started, Text, ToolCall, ToolResult, Notice, Result]);
        assert_eq!(heard.session.as_deref(), Some("abc"));
        assert_eq!(heard.result.as_deref(), Some("It is there."));
        assert_eq!((heard.failed, heard.cost), (false, Some(Micros(250_000))));
        assert_eq!(heard.steps[3].1["output"], "done");
    }

    #[test]
    fn a_failure_that_an_agent_tells_is_a_failure() {
        for (agent, told) in [
            (
                Agent::Claude,
                r#"{"type":"result","subtype":"error_max_turns","is_error":true}"#,
            ),
            (Agent::Codex, r#"{"type":"turn.failed","error":{"message":"no"}}"#),
            (
                Agent::Gemini,
                r#"{"type":"result","status":"error","error":{"message":"no"}}"#,
            ),
        ] {
            assert!(kinds(agent, &[told]).1.failed, "{agent:?}");
        }
    }

    #[test]
    fn what_codex_prints_becomes_steps_and_a_connection_that_comes_back_is_no_failure() {
        use StepKind::{Notice, Started, Text};
        // As Codex 0.171.0 prints them.
        let (kinds, heard) = kinds(
            Agent::Codex,
            &[
                r#"{"type":"thread.started","thread_id":"01a21764-5573-77b3-9bdb-ee7ae349e776"}"#,
                r#"{"type":"turn.started"}"#,
                r#"{"type":"error","message":"Reconnecting... 2/5 (stream disconnected before completion)"}"#,
                r#"{"type":"item.completed","item":{"id":"item_0","type":"error","message":"Falling back"}}"#,
                r#"{"type":"item.completed","item":{"id":"item_1","type":"agent_message","text":"It is forty-two."}}"#,
                r#"{"type":"turn.completed","usage":{"input_tokens":20,"cached_input_tokens":0,"output_tokens":10}}"#,
            ],
        );
        assert_eq!(kinds, [Started, Notice, Notice, Text]);
        assert_eq!(heard.result.as_deref(), Some("It is forty-two."));
        assert!(heard.session.is_some() && !heard.failed);
    }

    #[test]
    fn a_session_that_would_be_an_option_is_not_kept() {
        for session in ["--help", "", "a b"] {
            let told = json!({"type": "system", "subtype": "init", "session_id": session}).to_string();
            assert_eq!(kinds(Agent::Claude, &[&told]).1.session, None);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_printed_is_bounded(text in ".{0,200}", repeat in 1usize..400) {
            let long = text.repeat(repeat);
            let wrapped = json!({"type": "assistant", "message": {"content": [
                {"type": "text", "text": long}, {"type": "tool_use", "id": long, "name": long, "input": {"x": long}}]}});
            for agent in Agent::ALL {
                for printed in [&long, &wrapped.to_string()] {
                    let (_, heard) = kinds(agent, &[printed]);
                    for (_, data) in &heard.steps {
                        prop_assert!(data.to_string().len() < 20 * LONGEST);
                        prop_assert!(!data.to_string().contains("\\u0000"));
                    }
                }
            }
        }
    }
}
