//! Agents as programs: how each is started, and what the lines that it prints mean.
//!
//! Pure: a command out of a task, steps out of a line. The prompt goes through standard input,
//! where no list of processes shows it.

mod claude;
mod codex;
mod gemini;

use fsa_model::{
    money::Micros,
    task::{Agent, StepKind, Task},
};
use serde_json::{Value, json};

use crate::store::tasks::Heard;

/// Characters of one text of a step.
const LONGEST: usize = 16 * 1024;

/// Whether the process ended because the agent's program is not there.
#[must_use]
pub const fn is_absent(agent: Agent, exit_code: i32) -> bool {
    matches!(agent, Agent::Codex | Agent::Gemini) && exit_code == 127
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
        (Agent::Codex, None) => vec!["sh", "-c", codex::START, "codex", "exec"],
        (Agent::Codex, Some(_)) => vec!["sh", "-c", codex::START, "codex", "exec", "resume"],
        (Agent::Gemini, _) => vec![
            "sh",
            "-c",
            gemini::START,
            "gemini",
            "--output-format",
            "stream-json",
            "--yolo",
        ],
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
        Agent::Claude => claude::line(&event, heard),
        Agent::Codex => codex::line(&event, heard),
        Agent::Gemini => gemini::line(&event, heard),
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
        Value::Null => String::new(),
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

    pub(super) fn kinds(agent: Agent, lines: &[&str]) -> (Vec<StepKind>, Heard) {
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
                let program = if agent == Agent::Claude { 0 } else { 3 };
                assert_eq!(words[program], agent.as_str());
                assert!(!words.iter().any(|word| word.contains("secret")), "{words:?}");
                assert_eq!(words.iter().any(|word| word == "s-1"), session.is_some());
                assert!(words.windows(2).any(|pair| pair == ["--model", "m"]));
            }
        }
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
    fn a_session_that_would_be_an_option_is_not_kept() {
        for session in ["--help", "", "a b"] {
            let told = json!({"type": "system", "subtype": "init", "session_id": session}).to_string();
            assert_eq!(kinds(Agent::Claude, &[&told]).1.session, None);
        }
    }

    proptest! {
        // Each is tried in every place of every agent, and some are megabytes.
        #![proptest_config(ProptestConfig::with_cases(24))]
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
