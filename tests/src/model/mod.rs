//! A scripted model: answers with tool calls, one after another, in the form in which it is asked, so that the
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

/// Which API a request is for, and so how it is read and answered.
#[derive(Clone, Copy)]
enum Form {
    /// The Messages API, as Claude Code asks it.
    Anthropic,
    /// The Responses API, as Codex CLI asks it.
    Openai,
    /// `streamGenerateContent`, as Gemini CLI asks it.
    Gemini,
}

/// What a request says: the results of the tools so far, its messages, and whether there are tools at all.
struct Question {
    model: String,
    has_tools: bool,
    results: Vec<String>,
    conversation: String,
}

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
    let path = request.uri().path();
    let form = match path {
        _ if request.method() != hyper::Method::POST => None,
        "/v1/messages" => Some(Form::Anthropic),
        "/v1/responses" => Some(Form::Openai),
        path if path.ends_with(":streamGenerateContent") => Some(Form::Gemini),
        _ => None,
    };
    let Some(form) = form else {
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
    let question = match form {
        Form::Anthropic => anthropic::question(&body),
        Form::Openai => openai::question(&body),
        Form::Gemini => gemini::question(&body, of_path),
    };
    let turn = if question.has_tools {
        script
            .get(question.results.len())
            .cloned()
            .unwrap_or(Turn::Say("Done."))
    } else {
        // A side request, such as for a title.
        Turn::Say("ok")
    };
    let events = match form {
        Form::Anthropic => anthropic::stream(&question, &turn),
        Form::Openai => openai::stream(&question, &turn),
        Form::Gemini => gemini::stream(&question, &turn),
    };
    {
        let mut asked = asked.lock().expect("what was asked");
        asked.keys.push(key);
        if question.results.len() > asked.results.len() {
            asked.results = question.results;
        }
        if question.has_tools {
            asked.conversation = question.conversation;
        }
    }
    Ok(Response::builder()
        .header("content-type", "text/event-stream")
        .body(Full::from(events))
        .expect("a valid answer"))
}
