//! How Codex CLI is started, and what it prints.

use fsa_model::task::StepKind;
use serde_json::{Value, json};

use super::{answer, call, result, said, short, started, text};
use crate::store::tasks::Heard;

/// Starts Codex, which takes an address of its own from no variable: where there is a key, it is told to speak to
/// `OPENAI_BASE_URL` with it, by requests alone, because nobody in between passes on its WebSocket. Ends
/// as a shell does where there is no such program.
pub(super) const START: &str = r#"
command -v codex >/dev/null || { echo 'codex: not found' >&2; exit 127; }
if [ -n "$OPENAI_API_KEY" ]; then
    base=${OPENAI_BASE_URL:-https://api.openai.com/v1}
    exec codex -c 'model_provider="fsa"' -c "model_providers.fsa={name=\"fsa\",base_url=\"$base\",env_key=\"OPENAI_API_KEY\",wire_api=\"responses\"}" "$@"
fi
exec codex "$@"
"#;

/// `codex exec --json`: a thread of turns of items.
pub(super) fn line(event: &Value, heard: &mut Heard) {
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
            let failed = text(item, "status") == "failed";
            answer(heard, text(item, "id"), &item["status"], failed);
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

#[cfg(test)]
mod tests {
    use fsa_model::task::{Agent, StepKind};

    use crate::tasks::agents::tests::kinds;

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
}
