//! Gemini CLI adapter.

use fsa_model::task::{StepKind, Task};
use serde_json::{Value, json};

use super::{
    AgentAdapter, Output, command_line,
    output::{short, string},
};

/// Starts Gemini CLI. With a base URL other than Google's it assumes that a gateway signs it in, and then refuses that
/// as an auth method (0.61.0). So where there are no settings yet, the script writes settings that select sign-in with
/// a key. `--skip-trust`: no person can answer whether the folder is trusted, and without trust it requires approval of
/// each step. Exits with 127, as a shell does, where the program is missing.
const START: &str = r#"
command -v gemini >/dev/null || { echo 'gemini: not found' >&2; exit 127; }
if [ -n "$GEMINI_API_KEY" ] && [ ! -e "$HOME/.gemini/settings.json" ]; then
    mkdir -p "$HOME/.gemini"
    echo '{"security": {"auth": {"selectedType": "gemini-api-key"}}}' >"$HOME/.gemini/settings.json"
fi
exec gemini --skip-trust "$@"
"#;

/// Prints messages and tool calls (`--output-format stream-json`).
pub(super) struct GeminiCli;

impl AgentAdapter for GeminiCli {
    fn command(&self, task: &Task, session: Option<&str>) -> Vec<String> {
        let program = [
            "sh",
            "-c",
            START,
            "gemini",
            "--output-format",
            "stream-json",
            "--yolo",
        ];
        match session {
            Some(session) => command_line(&program, task, &["--resume", session]),
            None => command_line(&program, task, &[]),
        }
    }

    fn parse_event(&self, event: &Value, output: &mut Output) {
        match string(event, "type") {
            "init" => output.started(string(event, "session_id"), string(event, "model")),
            "message" if string(event, "role") == "assistant" && event["delta"] == true => {
                text_piece(output, string(event, "content"));
                return;
            }
            "message" if string(event, "role") == "assistant" => {
                output.text(StepKind::Text, string(event, "content"));
                output.result = Some(short(string(event, "content")));
            }
            "tool_use" => output.tool_call(
                string(event, "tool_id"),
                string(event, "tool_name"),
                &event["parameters"],
            ),
            "tool_result" => {
                let failed = string(event, "status") == "error";
                output.tool_result(string(event, "tool_id"), &event["output"], failed);
            }
            "error" => output.text(StepKind::Notice, string(event, "message")),
            "result" if string(event, "status") == "error" => {
                let message = event.pointer("/error/message").and_then(Value::as_str);
                output.result(message.unwrap_or("the agent failed"), true);
            }
            _ => {}
        }
        output.unfinished = false;
    }

    // The start script's own exit code, as a shell's.
    fn is_missing(&self, exit_code: i32) -> bool {
        exit_code == 127
    }
}

/// A piece of a text. Consecutive pieces within one read become one step.
fn text_piece(output: &mut Output, piece: &str) {
    let before = match output.unfinished {
        true => output.result.take().unwrap_or_default(),
        false => String::new(),
    };
    match output.steps.last_mut() {
        Some((StepKind::Text, data)) if output.unfinished => {
            data["text"] = short(&format!("{}{piece}", string(data, "text"))).into();
        }
        _ => output.step(StepKind::Text, json!({"text": short(piece)})),
    }
    output.result = Some(short(&(before + piece)));
    output.unfinished = true;
}

#[cfg(test)]
mod tests {
    use fsa_model::{agent::Agent, task::StepKind};

    use crate::tasks::agents::tests::kinds;

    #[test]
    fn gemini_text_pieces_become_one_step() {
        use StepKind::{Started, Text, ToolCall, ToolResult};
        let (kinds, output) = kinds(
            Agent::Gemini,
            &[
                r#"{"type":"init","session_id":"0c5e9b1e","model":"gemini-2.5-pro"}"#,
                r#"{"type":"message","role":"user","content":"What is it?"}"#,
                r#"{"type":"message","role":"assistant","content":"I look.","delta":true}"#,
                r#"{"type":"tool_use","tool_name":"run_shell_command","tool_id":"r1","parameters":{"command":"ls"}}"#,
                r#"{"type":"tool_result","tool_id":"r1","status":"success"}"#,
                r#"{"type":"message","role":"assistant","content":"It is ","delta":true}"#,
                r#"{"type":"message","role":"assistant","content":"forty-two.","delta":true}"#,
                r#"{"type":"result","status":"success","stats":{"total_tokens":15}}"#,
            ],
        );
        assert_eq!(kinds, [Started, Text, ToolCall, ToolResult, Text]);
        assert_eq!(output.steps[3].1["output"], "");
        assert_eq!(output.steps[4].1["text"], "It is forty-two.");
        assert_eq!(output.result.as_deref(), Some("It is forty-two."));
        assert!(!output.failed && !output.unfinished);
    }
}
