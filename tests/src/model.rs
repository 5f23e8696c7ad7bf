//! A scripted model: answers the Messages API's stream with tool calls, one after another, so
//! that the real Claude Code does real work without a real model.
//!
//! The events of a stream are those of the Messages API's documentation on streaming
//! (message_start, content_block_start/delta/stop, message_delta, message_stop).

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the model does in one turn.
#[derive(Clone, Debug)]
pub enum Turn {
    /// Calls one of the agent's tools.
    Tool { name: &'static str, input: Value },
    /// Says something and ends.
    Say(&'static str),
}

/// What the model was asked, for assertions.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub keys: Vec<String>,
    /// The results of the tools, as the agent reported them.
    pub results: Vec<String>,
    /// The messages of the last request, as they came.
    pub conversation: String,
}

/// Serves the script on `listener` until it is dropped.
pub async fn serve(listener: TcpListener, script: Vec<Turn>, asked: Arc<std::sync::Mutex<Asked>>) {
    let script = Arc::new(script);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let script = Arc::clone(&script);
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&script), Arc::clone(&asked)));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    script: Arc<Vec<Turn>>,
    asked: Arc<std::sync::Mutex<Asked>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let messages = request.method() == hyper::Method::POST && request.uri().path() == "/v1/messages";
    if !messages {
        return Ok(Response::new(Full::default()));
    }
    let key = request
        .headers()
        .get("x-api-key")
        .or_else(|| request.headers().get("authorization"))
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let body = request
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let has_tools = body["tools"].as_array().is_some_and(|tools| !tools.is_empty());
    let blocks = body["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|message| message["content"].as_array())
        .flatten();
    let results: Vec<String> = blocks
        .filter(|block| block["type"] == "tool_result")
        .map(|block| block["content"].to_string())
        .collect();
    let turn = if has_tools {
        script.get(results.len()).cloned().unwrap_or(Turn::Say("Done."))
    } else {
        // A side request, such as for a title.
        Turn::Say("ok")
    };
    {
        let mut asked = asked.lock().expect("what was asked");
        asked.keys.push(key);
        if results.len() > asked.results.len() {
            asked.results = results.clone();
        }
        if has_tools {
            asked.conversation = body["messages"].to_string();
        }
    }
    let model = body["model"].as_str().unwrap_or("scripted").to_owned();
    let events = stream(&model, results.len(), &turn);
    Ok(Response::builder()
        .header("content-type", "text/event-stream")
        .body(Full::from(events))
        .expect("a valid answer"))
}

fn stream(model: &str, index: usize, turn: &Turn) -> String {
    let (block, delta, reason) = match turn {
        Turn::Tool { name, input } => (
            json!({"type": "tool_use", "id": format!("toolu_{index:04}"), "name": name, "input": {}}),
            json!({"type": "input_json_delta", "partial_json": input.to_string()}),
            "tool_use",
        ),
        Turn::Say(text) => (
            json!({"type": "text", "text": ""}),
            json!({"type": "text_delta", "text": text}),
            "end_turn",
        ),
    };
    let usage = json!({"input_tokens": 10, "output_tokens": 5});
    let message = json!({
        "id": format!("msg_{index:04}"), "type": "message", "role": "assistant", "model": model,
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
