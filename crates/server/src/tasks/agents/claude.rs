//! Claude Code adapter.

use fsa_model::{
    money::Micros,
    task::{StepKind, Task},
};
use serde_json::Value;

use super::{AgentAdapter, Output, command_line, output::string};

/// Prints the Messages API's messages, between `system` and `result` (`--output-format stream-json`).
pub(super) struct ClaudeCode;

impl AgentAdapter for ClaudeCode {
    fn command(&self, task: &Task, session: Option<&str>) -> Vec<String> {
        let program = [
            "claude",
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--dangerously-skip-permissions",
        ];
        match session {
            Some(session) => command_line(&program, task, &["--resume", session]),
            None => command_line(&program, task, &[]),
        }
    }

    fn parse_event(&self, event: &Value, output: &mut Output) {
        match string(event, "type") {
            "system" if string(event, "subtype") == "init" => {
                output.started(string(event, "session_id"), string(event, "model"));
            }
            kind @ ("assistant" | "user") => {
                let blocks = event.pointer("/message/content").and_then(Value::as_array);
                for block in blocks.into_iter().flatten() {
                    match string(block, "type") {
                        "text" if kind == "assistant" => output.text(StepKind::Text, string(block, "text")),
                        "thinking" => output.text(StepKind::Thinking, string(block, "thinking")),
                        "tool_use" => {
                            output.tool_call(string(block, "id"), string(block, "name"), &block["input"]);
                        }
                        "tool_result" => {
                            let failed = block["is_error"] == true;
                            output.tool_result(string(block, "tool_use_id"), &block["content"], failed);
                        }
                        _ => {}
                    }
                }
            }
            "result" => {
                output.cost = event["total_cost_usd"].as_f64().and_then(Micros::from_dollars);
                let text = match string(event, "result") {
                    "" => string(event, "subtype"),
                    text => text,
                };
                output.result(text, event["is_error"] == true);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use fsa_model::{agent::Agent, task::StepKind};

    use super::*;
    use crate::tasks::agents::tests::kinds;

    #[test]
    fn claude_code_output_is_parsed() {
        use StepKind::{Notice, Result, Started, Text, ToolCall, ToolResult};
        let (kinds, output) = kinds(
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
        assert_eq!(output.session.as_deref(), Some("abc"));
        assert_eq!(output.result.as_deref(), Some("It is there."));
        assert_eq!((output.failed, output.cost), (false, Some(Micros(250_000))));
        assert_eq!(output.steps[3].1["output"], "done");
    }
}
