//! Local proxy of the callback: the port on the sandbox's loopback that takes programs' requests to
//! the model providers and for git credentials, and forwards them to the control plane.
//!
//! Each request must carry the sandbox's token, so that a page or a proxy that is made to connect
//! here gets nothing.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fsa_model::{
    callback::{self, TASK_HEADER},
    http_fields::remove_hop_by_hop,
    llm_provider::Provider,
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};

use super::{Callback, CallbackError, RequestPermit, broken, send};
use crate::{
    http::{self as server, ApiError, Body, RouteResult, full, stream::Listener},
    sandbox::Sandbox,
};

/// Path that returns a git credential ([`super::git_credential`]).
pub(super) const CREDENTIAL: &str = "/git-credential";
/// Path that reports a git credential that a server rejected.
pub(super) const CREDENTIAL_REJECTED: &str = "/git-credential/refused";

/// Header fields with credentials. They are valid here only, and are not forwarded.
const CREDENTIAL_FIELDS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    header::COOKIE,
];

/// Serves this address until sandboxd ends.
pub async fn serve(callback: Arc<Callback>, listener: Listener) {
    server::serve(listener, move |request| {
        let callback = Arc::clone(&callback);
        async move { handle(&callback, request).await }
    })
    .await;
}

/// URL of the port, for the processes of the sandbox.
#[must_use]
pub fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

async fn handle(callback: &Arc<Callback>, request: Request<Incoming>) -> RouteResult {
    let provider = Provider::of_path(request.uri().path()).map(|(provider, _)| provider);
    let for_git =
        request.method() == Method::POST && [CREDENTIAL, CREDENTIAL_REJECTED].contains(&request.uri().path());
    if provider.is_none() && !for_git {
        return Err(ApiError::not_found(
            "this port is for coding agents (/anthropic, /openai, /gemini) and for git",
        ));
    }
    let Some(task) = authenticate(&callback.sandbox, &request) else {
        return Ok(error(
            provider,
            StatusCode::UNAUTHORIZED,
            "the token is not this sandbox's",
        ));
    };
    // Claude Code checks that the provider is reachable before its first request.
    if request.method() == Method::HEAD && provider.is_some() {
        return Ok(server::status(StatusCode::OK));
    }
    let request = match forwarded(request, task) {
        Ok(request) => request,
        Err(invalid) => return Ok(error(provider, invalid.status, &invalid.message)),
    };
    match send(callback, request).await {
        Ok((response, permit)) => Ok(returned(response, permit)),
        Err(cause) => {
            let status = match cause {
                CallbackError::TooManyRequests | CallbackError::NotConnected => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                CallbackError::ConnectionLost => StatusCode::BAD_GATEWAY,
            };
            Ok(error(provider, status, cause.sentence()))
        }
    }
}

/// The task whose process sent the request, or an empty text for any other process of the sandbox.
/// `None` when the token is wrong.
fn authenticate<B>(sandbox: &Sandbox, request: &Request<B>) -> Option<String> {
    let headers = request.headers();
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
    let bearer = text("authorization").and_then(|value| {
        let (scheme, rest) = value.split_once(' ')?;
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(rest.trim().to_owned()),
            // git and curl send the token as the password.
            "basic" => {
                let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
                pair.split_once(':').map(|(_, password)| password.to_owned())
            }
            _ => None,
        }
    });
    let in_query = || {
        let pairs = request.uri().query()?.split('&');
        pairs
            .filter_map(|pair| pair.strip_prefix("key="))
            .next()
            .map(str::to_owned)
    };
    let given = bearer
        .or_else(|| text("x-api-key"))
        .or_else(|| text("x-goog-api-key"))
        .or_else(in_query)?;
    let (token, task) = given.split_once('.').unwrap_or((&given, ""));
    sandbox.callback_token.is(token).then(|| task.to_owned())
}

/// The request as the control plane gets it: without credentials, with the task's id.
fn forwarded(request: Request<Incoming>, task: String) -> Result<Request<Incoming>, ApiError> {
    let (mut parts, body) = request.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::HOST);
    for name in CREDENTIAL_FIELDS {
        parts.headers.remove(name);
    }
    parts.headers.remove(TASK_HEADER);
    if !task.is_empty() {
        let task =
            HeaderValue::try_from(task).map_err(|_| ApiError::bad_request("the token names no task"))?;
        parts.headers.insert(TASK_HEADER, task);
    }
    let query: String = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("key="))
        .collect::<Vec<_>>()
        .join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    parts.uri = format!("http://control{}{mark}{query}", parts.uri.path())
        .parse::<Uri>()
        .map_err(|_| ApiError::bad_request("the request's target is not a valid path"))?;
    parts.version = http::Version::HTTP_2;
    Ok(Request::from_parts(parts, body))
}

/// The response as the program gets it.
fn returned(response: Response<Incoming>, permit: RequestPermit) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    parts.version = http::Version::HTTP_11;
    let body = RetainBody {
        body,
        _permit: permit,
    };
    Response::from_parts(parts, body.boxed_unsync())
}

/// Response body that holds its request's permit until it is read.
struct RetainBody {
    body: Incoming,
    _permit: RequestPermit,
}

impl hyper::body::Body for RetainBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        std::pin::Pin::new(&mut self.body)
            .poll_frame(context)
            .map_err(broken)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Error response in the provider's format, or as plain text for git.
fn error(provider: Option<Provider>, status: StatusCode, message: &str) -> Response<Body> {
    let mut response = match provider {
        Some(provider) => server::json(&provider.error(status.as_u16(), message)),
        None => server::typed("text/plain; charset=utf-8", full(message.to_owned())),
    };
    *response.status_mut() = status;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Environment variables with the port's URL and token, for every process of the sandbox.
#[must_use]
pub fn variables(url: &str, token: &str) -> [(&'static str, String); 2] {
    [
        (callback::URL_VARIABLE, url.to_owned()),
        (callback::TOKEN_VARIABLE, token.to_owned()),
    ]
}
