//! The stream of `streamGenerateContent?alt=sse`: each event is a GenerateContentResponse.

use serde_json::{Value, json};

use super::{ModelRequest, ScriptedTurn};

pub(super) fn parse(body: &Value, model: String) -> ModelRequest {
    let parts = body["contents"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|content| content["parts"].as_array())
        .flatten();
    ModelRequest {
        model,
        has_tools: body["tools"].as_array().is_some_and(|tools| !tools.is_empty()),
        results: parts
            .filter_map(|part| part.get("functionResponse"))
            .map(|result| result["response"].to_string())
            .collect(),
        conversation: body["contents"].to_string(),
    }
}

pub(super) fn stream(request: &ModelRequest, turn: &ScriptedTurn) -> String {
    let part = match turn {
        ScriptedTurn::Tool { name, input } => json!({"functionCall": {"name": name, "args": input}}),
        ScriptedTurn::Text(text) => json!({"text": text}),
    };
    let event = json!({
        "candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [part]}}],
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15},
        "modelVersion": request.model,
    });
    format!("data: {event}\n\n")
}
