//! The port on the sandbox's loopback at which programs ask: the agents' models by provider, and
//! git's credentials. Whoever asks shows the sandbox's token, so that a page or a proxy that is
//! made to connect here gets nothing.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fsa_model::{
    callback::{self, TASK_HEADER},
    llm_provider::Provider,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};

use super::{Place, Unanswered, ask, broken};
use crate::{
    http::{self as server, Answer, Body, Refusal, full, stream::Listener},
    sandbox::Sandbox,
};

/// Where git's credentials are asked for ([`super::credential`]).
pub(super) const CREDENTIAL: &str = "/git-credential";
/// Where it is told that a server refused one.
pub(super) const CREDENTIAL_REFUSED: &str = "/git-credential/refused";

/// Fields that say how a message travels, and not what it is (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// Fields in which clients show who they are. What they show here is of no use further on.
const SHOWN: [HeaderName; 4] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    header::COOKIE,
];

/// Answers at this address for as long as sandboxd lives.
pub async fn serve(sandbox: Arc<Sandbox>, listener: Listener) {
    server::serve(listener, move |request| {
        let sandbox = Arc::clone(&sandbox);
        async move { answer(&sandbox, request).await }
    })
    .await;
}

/// The port as an address, for the processes of the sandbox.
#[must_use]
pub fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

async fn answer(sandbox: &Arc<Sandbox>, request: Request<Incoming>) -> Answer {
    let provider = Provider::of_path(request.uri().path()).map(|(provider, _)| provider);
    let for_git =
        request.method() == Method::POST && [CREDENTIAL, CREDENTIAL_REFUSED].contains(&request.uri().path());
    if provider.is_none() && !for_git {
        return Err(Refusal::not_found(
            "this port is for coding agents (/anthropic, /openai, /gemini) and for git",
        ));
    }
    let Some(task) = admitted(sandbox, &request) else {
        return Ok(error(
            provider,
            StatusCode::UNAUTHORIZED,
            "the token is not this sandbox's",
        ));
    };
    // Claude Code looks whether anybody is there before it has anything to ask.
    if request.method() == Method::HEAD && provider.is_some() {
        return Ok(server::status(StatusCode::OK));
    }
    let request = match prepared(request, task) {
        Ok(request) => request,
        Err(refusal) => return Ok(error(provider, refusal.status, &refusal.message)),
    };
    match ask(sandbox, request).await {
        Ok((response, place)) => Ok(passed_on(response, place)),
        Err(why) => {
            let status = match why {
                Unanswered::Crowded | Unanswered::Nobody => StatusCode::SERVICE_UNAVAILABLE,
                Unanswered::BrokenOff => StatusCode::BAD_GATEWAY,
            };
            Ok(error(provider, status, why.sentence()))
        }
    }
}

/// The task whose process asks, or an empty text for everybody else in the sandbox. `None` where
/// the token is another.
fn admitted<B>(sandbox: &Sandbox, request: &Request<B>) -> Option<String> {
    let headers = request.headers();
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
    let bearer = text("authorization").and_then(|value| {
        let (scheme, rest) = value.split_once(' ')?;
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(rest.trim().to_owned()),
            // git's and curl's way: the token as the password.
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
    sandbox.asks_token.is(token).then(|| task.to_owned())
}

/// The request as the control plane gets it: without what was shown, with whose task it is.
fn prepared(request: Request<Incoming>, task: String) -> Result<Request<Incoming>, Refusal> {
    let (mut parts, body) = request.into_parts();
    clean(&mut parts.headers);
    for name in SHOWN {
        parts.headers.remove(name);
    }
    parts.headers.remove(TASK_HEADER);
    if !task.is_empty() {
        let task = HeaderValue::try_from(task).map_err(|_| Refusal::bad("the token names no task"))?;
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
        .map_err(|_| Refusal::bad("the request's target makes no sense"))?;
    parts.version = http::Version::HTTP_2;
    Ok(Request::from_parts(parts, body))
}

/// Leaves out what concerns one connection.
fn clean(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.into_iter().chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn passed_on(response: Response<Incoming>, place: Place) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    clean(&mut parts.headers);
    parts.version = http::Version::HTTP_11;
    Response::from_parts(parts, Held { body, _place: place }.boxed_unsync())
}

/// An answer's body, which keeps its place until it was read.
struct Held {
    body: Incoming,
    _place: Place,
}

impl hyper::body::Body for Held {
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

/// A refusal that the client can read: in its provider's form, or as plain text for git.
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

/// What every process of the sandbox is told of the port.
#[must_use]
pub fn variables(url: &str, token: &str) -> [(&'static str, String); 2] {
    [
        (callback::URL_VARIABLE, url.to_owned()),
        (callback::TOKEN_VARIABLE, token.to_owned()),
    ]
}
