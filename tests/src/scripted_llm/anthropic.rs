//! The Messages API's stream, with the events of its documentation on streaming (message_start,
//! content_block_start/delta/stop, message_delta, message_stop).

use serde_json::{Value, json};

use super::{ModelRequest, ScriptedTurn};

pub(super) fn parse(body: &Value) -> ModelRequest {
    let blocks = body["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|message| message["content"].as_array())
        .flatten();
    ModelRequest {
        model: body["model"].as_str().unwrap_or("scripted").to_owned(),
        has_tools: body["tools"].as_array().is_some_and(|tools| !tools.is_empty()),
        results: blocks
            .filter(|block| block["type"] == "tool_result")
            .map(|block| block["content"].to_string())
            .collect(),
        conversation: body["messages"].to_string(),
    }
}

pub(super) fn stream(request: &ModelRequest, turn: &ScriptedTurn) -> String {
    let index = request.results.len();
    let (block, delta, reason) = match turn {
        ScriptedTurn::Tool { name, input } => (
            json!({"type": "tool_use", "id": format!("toolu_{index:04}"), "name": name, "input": {}}),
            json!({"type": "input_json_delta", "partial_json": input.to_string()}),
            "tool_use",
        ),
        ScriptedTurn::Text(text) => (
            json!({"type": "text", "text": ""}),
            json!({"type": "text_delta", "text": text}),
            "end_turn",
        ),
    };
    let usage = json!({"input_tokens": 10, "output_tokens": 5});
    let message = json!({
        "id": format!("msg_{index:04}"), "type": "message", "role": "assistant", "model": request.model,
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    [
        ("message_start", json!({"type": "message_start", "message": message})),
        ("content_block_start", json!({"type": "content_block_start", "index": 0, "content_block": block})),
        ("content_block_delta", json!({"type": "content_block_delta", "index": 0, "delta": delta})),
        ("content_block_stop", json!({"type": "content_block_stop", "index": 0})),
        (
            "message_delta",
            json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": usage}),
        ),
        ("message_stop", json!({"type": "message_stop"})),
    ]
    .iter()
    .map(|(name, data)| format!("event: {name}\ndata: {data}\n\n"))
    .collect()
}
