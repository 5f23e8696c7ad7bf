//! What Claude Code prints.

use fsa_model::{money::Micros, task::StepKind};
use serde_json::Value;

use super::{answer, call, result, said, started, text};
use crate::store::tasks::Heard;

/// `claude --output-format stream-json`: messages of the API, between `system` and `result`.
pub(super) fn line(event: &Value, heard: &mut Heard) {
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

#[cfg(test)]
mod tests {
    use fsa_model::task::{Agent, StepKind};

    use super::*;
    use crate::tasks::agents::tests::kinds;

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
}
