//! Codex CLI adapter.

use fsa_model::task::{StepKind, Task};
use serde_json::{Value, json};

use super::{
    AgentAdapter, Output, command_line,
    output::{short, string},
};

/// Starts Codex. No variable sets its base URL, so where there is a key, a provider is configured that uses
/// `OPENAI_BASE_URL` with it, over HTTP requests alone: the LLM proxy does not relay its WebSocket. Exits with 127,
/// as a shell does, where the program is missing.
const START: &str = r#"
command -v codex >/dev/null || { echo 'codex: not found' >&2; exit 127; }
if [ -n "$OPENAI_API_KEY" ]; then
    base=${OPENAI_BASE_URL:-https://api.openai.com/v1}
    exec codex -c 'model_provider="fsa"' -c "model_providers.fsa={name=\"fsa\",base_url=\"$base\",env_key=\"OPENAI_API_KEY\",wire_api=\"responses\"}" "$@"
fi
exec codex "$@"
"#;

/// Prints a thread of turns of items (`codex exec --json`).
pub(super) struct CodexCli;

impl AgentAdapter for CodexCli {
    fn command(&self, task: &Task, session: Option<&str>) -> Vec<String> {
        let mut program = vec!["sh", "-c", START, "codex", "exec"];
        program.extend(session.map(|_| "resume"));
        program.extend([
            "--json",
            "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox",
        ]);
        // `-` reads the prompt from standard input.
        match session {
            Some(session) => command_line(&program, task, &[session, "-"]),
            None => command_line(&program, task, &["-"]),
        }
    }

    fn parse_event(&self, event: &Value, output: &mut Output) {
        let item = &event["item"];
        match (string(event, "type"), string(item, "type")) {
            ("thread.started", _) => output.started(string(event, "thread_id"), ""),
            ("item.completed", "agent_message") => {
                output.text(StepKind::Text, string(item, "text"));
                output.result = Some(short(string(item, "text")));
            }
            ("item.completed", "reasoning") => output.text(StepKind::Thinking, string(item, "text")),
            ("item.started", "command_execution") => {
                output.tool_call(
                    string(item, "id"),
                    "command",
                    &json!({"command": item["command"]}),
                );
            }
            ("item.completed", "command_execution") => {
                let failed = item["exit_code"].as_i64().is_some_and(|code| code != 0);
                output.tool_result(string(item, "id"), &item["aggregated_output"], failed);
            }
            ("item.completed", "file_change") => {
                output.tool_call(
                    string(item, "id"),
                    "file_change",
                    &json!({"changes": item["changes"]}),
                );
                let failed = string(item, "status") == "failed";
                output.tool_result(string(item, "id"), &item["status"], failed);
            }
            ("turn.failed", _) => {
                let message = event.pointer("/error/message").and_then(Value::as_str);
                output.result(message.unwrap_or("the turn failed"), true);
            }
            // Codex also prints this for a connection that it retries; the turn's end says whether the turn failed.
            ("error", _) => output.text(StepKind::Notice, string(event, "message")),
            ("item.completed", "error") => output.text(StepKind::Notice, string(item, "message")),
            _ => {}
        }
    }

    // The start script's own exit code, as a shell's.
    fn is_missing(&self, exit_code: i32) -> bool {
        exit_code == 127
    }
}

#[cfg(test)]
mod tests {
    use fsa_model::{agent::Agent, task::StepKind};

    use crate::tasks::agents::tests::kinds;

    #[test]
    fn codex_output_is_parsed() {
        use StepKind::{Notice, Started, Text};
        // The format of Codex 0.171.0.
        let (kinds, output) = kinds(
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
        assert_eq!(output.result.as_deref(), Some("It is forty-two."));
        assert!(output.session.is_some() && !output.failed);
    }
}
