//! The Responses API's stream, as far as a client needs it that takes whole items (response.created,
//! response.output_item.done, response.completed).

use serde_json::{Value, json};

use super::{ModelRequest, ScriptedTurn};

pub(super) fn parse(body: &Value) -> ModelRequest {
    let items = body["input"].as_array().into_iter().flatten();
    ModelRequest {
        model: body["model"].as_str().unwrap_or("scripted").to_owned(),
        has_tools: body["tools"].as_array().is_some_and(|tools| !tools.is_empty()),
        results: items
            .filter(|item| {
                item["type"]
                    .as_str()
                    .is_some_and(|kind| kind.ends_with("_output"))
            })
            .map(|item| item["output"].to_string())
            .collect(),
        conversation: body["input"].to_string(),
    }
}

pub(super) fn stream(request: &ModelRequest, turn: &ScriptedTurn) -> String {
    let index = request.results.len();
    let id = format!("resp_{index:04}");
    let item = match turn {
        ScriptedTurn::Tool { name, input } => json!({
            "type": "function_call", "id": format!("fc_{index:04}"), "call_id": format!("call_{index:04}"),
            "name": name, "arguments": input.to_string(),
        }),
        ScriptedTurn::Text(text) => json!({
            "type": "message", "id": format!("msg_{index:04}"), "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }),
    };
    let usage = json!({
        "input_tokens": 10, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 15,
    });
    let response = json!({"id": id, "model": request.model, "usage": usage, "output": [item]});
    [
        json!({"type": "response.created", "response": {"id": id}}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
        json!({"type": "response.completed", "response": response}),
    ]
    .iter()
    .map(|event| {
        format!(
            "event: {}\ndata: {event}\n\n",
            event["type"].as_str().unwrap_or_default()
        )
    })
    .collect()
}
