//! Parsed output of an agent: the steps, and the state of the run as a whole. Its size is bounded, whatever the agent
//! prints.

use fsa_model::{money::Micros, task::StepKind};
use serde_json::{Value, json};

/// Most characters of one text of a step.
pub(super) const MAX_TEXT: usize = 16 * 1024;

/// The meaning of some lines of output.
#[derive(Debug, Default)]
pub struct Output {
    pub steps: Vec<(StepKind, Value)>,
    /// The agent's id of the conversation, for continuing it later.
    pub session: Option<String>,
    pub result: Option<String>,
    /// The result continues in the next lines, because the agent prints it in pieces.
    pub unfinished: bool,
    /// The agent reports that it failed.
    pub failed: bool,
    pub cost: Option<Micros>,
}

impl Output {
    pub(super) fn step(&mut self, kind: StepKind, data: Value) {
        self.steps.push((kind, data));
    }

    /// Adds a text step, unless the text is blank.
    pub(super) fn text(&mut self, kind: StepKind, text: &str) {
        if !text.trim().is_empty() {
            self.step(kind, json!({"text": short(text)}));
        }
    }

    pub(super) fn started(&mut self, session: &str, model: &str) {
        let is_name =
            |text: &str| (1..=200).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        // The id becomes an argument when the conversation is continued.
        if is_name(session) && !session.starts_with('-') {
            self.session = Some(session.to_owned());
        }
        self.step(
            StepKind::Started,
            json!({"session": short(session), "model": short(model)}),
        );
    }

    pub(super) fn tool_call(&mut self, id: &str, name: &str, input: &Value) {
        self.step(
            StepKind::ToolCall,
            json!({"id": short(id), "name": short(name), "input": bounded(input)}),
        );
    }

    pub(super) fn tool_result(&mut self, id: &str, output: &Value, failed: bool) {
        let output = match output {
            Value::String(text) => short(text),
            Value::Null => String::new(),
            Value::Array(blocks) => {
                let texts: Vec<&str> = blocks.iter().map(|block| string(block, "text")).collect();
                short(&texts.join("\n"))
            }
            other => short(&other.to_string()),
        };
        self.step(
            StepKind::ToolResult,
            json!({"id": short(id), "output": output, "isError": failed}),
        );
    }

    pub(super) fn result(&mut self, text: &str, failed: bool) {
        self.result = Some(short(text));
        self.failed |= failed;
        let cost = self.cost.map(Micros::dollars);
        self.step(
            StepKind::Result,
            json!({"text": short(text), "isError": failed, "cost": cost}),
        );
    }
}

/// The string `name` of an object; empty where there is none.
pub(super) fn string<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// At most [`MAX_TEXT`] characters of a text, without those that JSON in the database or a terminal cannot take.
pub(super) fn short(text: &str) -> String {
    let plain = |c: &char| *c != '\0' && (!c.is_control() || matches!(*c, '\n' | '\t'));
    let mut kept: String = text.chars().filter(plain).take(MAX_TEXT).collect();
    if text.len() > kept.len() && kept.chars().count() == MAX_TEXT {
        kept.push_str(" … [cut]");
    }
    kept
}

/// The value, or its JSON as a short text where it is large.
fn bounded(value: &Value) -> Value {
    let written = value.to_string();
    if written.len() > 2 * MAX_TEXT || written.contains("\\u0000") {
        // PostgreSQL accepts NUL in no form (documentation, 8.14 JSON Types).
        return Value::String(short(&written.replace("\\u0000", "")));
    }
    value.clone()
}
