//! How Gemini CLI is started, and what it prints.

use fsa_model::task::StepKind;
use serde_json::{Value, json};

use super::{answer, call, result, said, short, started, step, text};
use crate::store::tasks::Heard;

/// Starts Gemini CLI. Where it is told another address than Google's it takes itself for signed in by a gateway,
/// and then refuses that as no way to sign in (0.61.0). So where nobody has settled it, it is settled that
/// there is a key. Without its question whether the folder is trusted, which nobody could answer, it would
/// ask before each step. Ends as a shell does where there is no such program.
pub(super) const START: &str = r#"
command -v gemini >/dev/null || { echo 'gemini: not found' >&2; exit 127; }
if [ -n "$GEMINI_API_KEY" ] && [ ! -e "$HOME/.gemini/settings.json" ]; then
    mkdir -p "$HOME/.gemini"
    echo '{"security": {"auth": {"selectedType": "gemini-api-key"}}}' >"$HOME/.gemini/settings.json"
fi
exec gemini --skip-trust "$@"
"#;

/// `gemini --output-format stream-json`.
pub(super) fn line(event: &Value, heard: &mut Heard) {
    match text(event, "type") {
        "init" => started(heard, text(event, "session_id"), text(event, "model")),
        "message" if text(event, "role") == "assistant" && event["delta"] == true => {
            said_on(heard, text(event, "content"));
            return;
        }
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
    heard.unfinished = false;
}

/// A piece of what is said; pieces that come one after another are one step, as far as they come together.
fn said_on(heard: &mut Heard, words: &str) {
    let before = match heard.unfinished {
        true => heard.result.take().unwrap_or_default(),
        false => String::new(),
    };
    match heard.steps.last_mut() {
        Some((StepKind::Text, data)) if heard.unfinished => {
            data["text"] = short(&format!("{}{words}", text(data, "text"))).into();
        }
        _ => step(heard, StepKind::Text, json!({"text": short(words)})),
    }
    heard.result = Some(short(&(before + words)));
    heard.unfinished = true;
}

#[cfg(test)]
mod tests {
    use fsa_model::task::{Agent, StepKind};

    use crate::tasks::agents::tests::kinds;

    #[test]
    fn what_gemini_says_in_pieces_is_one_step_and_its_last_words_are_the_result() {
        use StepKind::{Started, Text, ToolCall, ToolResult};
        let (kinds, heard) = kinds(
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
        assert_eq!(heard.steps[3].1["output"], "");
        assert_eq!(heard.steps[4].1["text"], "It is forty-two.");
        assert_eq!(heard.result.as_deref(), Some("It is forty-two."));
        assert!(!heard.failed && !heard.unfinished);
    }
}
