//! Scripted LLM provider: answers with tool calls, one after another, in the format of the request, so that the
//! real Claude Code, Codex CLI and Gemini CLI do real work without a real model.

mod anthropic;
mod gemini;
mod openai;

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

/// API of a request.
#[derive(Clone, Copy)]
enum ApiFormat {
    /// The Messages API, which Claude Code uses.
    Anthropic,
    /// The Responses API, which Codex CLI uses.
    Openai,
    /// `streamGenerateContent`, which Gemini CLI uses.
    Gemini,
}

/// Parsed request: the results of the tools so far, its messages, and whether there are tools.
struct ModelRequest {
    model: String,
    has_tools: bool,
    results: Vec<String>,
    conversation: String,
}

/// The model's action in one turn.
#[derive(Clone, Debug)]
pub enum ScriptedTurn {
    /// Calls one of the agent's tools.
    Tool { name: &'static str, input: Value },
    /// Sends a text and ends.
    Text(&'static str),
}

/// Requests that the model received, for assertions.
#[derive(Clone, Debug, Default)]
pub struct ReceivedRequests {
    pub keys: Vec<String>,
    /// The results of the tools, as the agent reported them.
    pub results: Vec<String>,
    /// The unchanged messages of the last request.
    pub conversation: String,
}

/// Serves the script on `listener` until it is dropped.
pub async fn serve(
    listener: TcpListener,
    script: Vec<ScriptedTurn>,
    received: Arc<std::sync::Mutex<ReceivedRequests>>,
) {
    let script = Arc::new(script);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let script = Arc::clone(&script);
        let received = Arc::clone(&received);
        tokio::spawn(async move {
            let service =
                service_fn(move |request| answer(request, Arc::clone(&script), Arc::clone(&received)));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    script: Arc<Vec<ScriptedTurn>>,
    received: Arc<std::sync::Mutex<ReceivedRequests>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let format = match path {
        _ if request.method() != hyper::Method::POST => None,
        "/v1/messages" => Some(ApiFormat::Anthropic),
        "/v1/responses" => Some(ApiFormat::Openai),
        path if path.ends_with(":streamGenerateContent") => Some(ApiFormat::Gemini),
        _ => None,
    };
    let Some(format) = format else {
        return Ok(Response::new(Full::default()));
    };
    let of_path = path.rsplit(['/', ':']).nth(1).unwrap_or_default().to_owned();
    let key = ["x-api-key", "x-goog-api-key", "authorization"]
        .into_iter()
        .find_map(|name| request.headers().get(name)?.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let body = request
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let parsed = match format {
        ApiFormat::Anthropic => anthropic::parse(&body),
        ApiFormat::Openai => openai::parse(&body),
        ApiFormat::Gemini => gemini::parse(&body, of_path),
    };
    let turn = if parsed.has_tools {
        script
            .get(parsed.results.len())
            .cloned()
            .unwrap_or(ScriptedTurn::Text("Done."))
    } else {
        // A side request, such as for a title.
        ScriptedTurn::Text("ok")
    };
    let events = match format {
        ApiFormat::Anthropic => anthropic::stream(&parsed, &turn),
        ApiFormat::Openai => openai::stream(&parsed, &turn),
        ApiFormat::Gemini => gemini::stream(&parsed, &turn),
    };
    {
        let mut received = received.lock().expect("the received requests");
        received.keys.push(key);
        if parsed.results.len() > received.results.len() {
            received.results = parsed.results;
        }
        if parsed.has_tools {
            received.conversation = parsed.conversation;
        }
    }
    Ok(Response::builder()
        .header("content-type", "text/event-stream")
        .body(Full::from(events))
        .expect("a valid answer"))
}
