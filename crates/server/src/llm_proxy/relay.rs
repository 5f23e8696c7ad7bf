//! LLM relay: sends a request of a sandbox's agent with the real credential, and streams the response back, metered
//! as it passes. Nothing from the sandbox is trusted except its identity, which the connection of the request
//! determines.

use std::{
    error::Error as _,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use fsa_model::{
    ProjectId,
    environment::Environment,
    http_fields::{is_hop_by_hop, remove_hop_by_hop},
    llm_provider::{Credential, Key, Provider},
    money::Micros,
};
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, BodyStream, Limited};
use hyper::body::Incoming;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    metering::Meter,
    upstream::{RequestRefused, Upstream},
};
use crate::{
    core::Core,
    llm_proxy::CallingSandbox,
    pricing::TokenUsage,
    projects::environment,
    store::agents::{self, Account},
};

/// The longest request: the providers' maximum (Anthropic: 32 MB).
const MAX_REQUEST_BYTES: usize = 32 * 1024 * 1024;
/// Headers that are not forwarded, in either direction, beside the hop-by-hop ones: the body is forwarded without its
/// trailers, and a cookie is of another client.
const NOT_FORWARDED: [HeaderName; 4] = [header::HOST, header::TRAILER, header::COOKIE, header::SET_COOKIE];
/// Headers with a credential, and one that would make a response unreadable to the meter.
const REPLACED: [HeaderName; 6] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    header::ACCEPT_ENCODING,
    header::EXPECT,
    HeaderName::from_static(fsa_model::callback::TASK_HEADER),
];
/// The API requires this with the token of a subscription.
const SUBSCRIPTION_BETA: &str = "oauth-2025-04-20";

/// The response to a request that is not forwarded.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    message: String,
}

fn refused(status: StatusCode, message: impl Into<String>) -> Refused {
    Refused {
        status,
        message: message.into(),
    }
}

/// Answers a request for `rest` of `provider`.
pub async fn answer(
    core: &Core,
    upstream: &Upstream,
    sandbox: &CallingSandbox,
    provider: Provider,
    rest: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    match forward(core, upstream, sandbox, provider, rest, request).await {
        Ok(response) => response,
        Err(refused) => {
            let body = provider
                .error(refused.status.as_u16(), &refused.message)
                .to_string();
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = refused.status;
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
    }
}

async fn forward(
    core: &Core,
    upstream: &Upstream,
    sandbox: &CallingSandbox,
    provider: Provider,
    rest: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let unavailable = |error: crate::Error| {
        tracing::warn!(%error, causes = error.causes().join(": "), "an agent's request could not be checked");
        refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "the control plane cannot look up the credential; try again",
        )
    };
    let task = request.headers().get(fsa_model::callback::TASK_HEADER);
    let task = task.and_then(|task| task.to_str().ok()?.parse().ok());
    let account = agents::account(&core.store, sandbox.id, task)
        .await
        .map_err(unavailable)?
        .ok_or_else(|| {
            refused(
                StatusCode::FORBIDDEN,
                "this sandbox's desired state is no longer running",
            )
        })?;
    let credential = credential(core, sandbox, provider, &account).map_err(unavailable)?;
    let credential = credential.ok_or_else(|| {
        refused(
            StatusCode::UNAUTHORIZED,
            format!(
                "there is no credential for {}: its operator sets one for the server, or you set one for yourself or for this project",
                provider.as_str()
            ),
        )
    })?;
    check_budget(core, &account)?;

    let (parts, body) = request.into_parts();
    let (client, url) = upstream
        .target(provider, &credential, &parts.method, rest, parts.uri.query())
        .map_err(|error| {
            let status = match error {
                RequestRefused::Path(_) => StatusCode::NOT_FOUND,
                RequestRefused::Private(_) | RequestRefused::Base => StatusCode::FORBIDDEN,
            };
            refused(status, error.to_string())
        })?;
    let counted = parts.method == Method::POST;
    let mut headers = parts.headers;
    headers.remove(header::FORWARDED);
    remove_unforwarded(&mut headers);
    for name in &REPLACED {
        headers.remove(name);
    }
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > MAX_REQUEST_BYTES) {
        return Err(refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request has at most {MAX_REQUEST_BYTES} bytes"),
        ));
    }
    add_credential(&mut headers, &credential)?;
    let body = Limited::new(body, MAX_REQUEST_BYTES);
    let body = if provider == Provider::Openai && rest.ends_with("/chat/completions") {
        let whole = body.collect().await.map_err(|_| {
            refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a request has at most {MAX_REQUEST_BYTES} bytes"),
            )
        })?;
        headers.remove(header::CONTENT_LENGTH);
        reqwest::Body::from(with_usage(whole.to_bytes()))
    } else {
        let pieces = BodyStream::new(body).filter_map(async |frame| match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(error)),
        });
        reqwest::Body::wrap_stream(pieces)
    };
    let answer = client
        .request(parts.method, url)
        .headers(headers)
        .body(body)
        .send()
        .await
        .map_err(unreachable)?;
    Ok(metered_response(
        core,
        &account,
        provider,
        &credential,
        counted,
        answer,
    ))
}

fn remove_unforwarded(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    for name in &NOT_FORWARDED {
        headers.remove(name);
    }
}

/// Finds the credential for this sandbox's agents. It is in memory while the request is sent.
fn credential(
    core: &Core,
    sandbox: &CallingSandbox,
    provider: Provider,
    account: &Account,
) -> crate::Result<Option<Credential>> {
    let of_user = match &account.of_user {
        Some(encrypted) => environment::decrypt_user(&core.key_ring, account.owner, encrypted)?,
        None => Environment::new(),
    };
    let of_project = environment::decrypt_project(&core.key_ring, account.project, &account.of_project)?;
    let of_branch =
        environment::decrypt_branch(&core.key_ring, account.branch, account.of_branch.as_deref())?;
    let of_request = environment::decrypt_request(&core.key_ring, sandbox.id, &account.of_request)?;
    Ok(provider.credential(&[
        &core.settings.agent_environment,
        &of_user,
        &of_project,
        &of_branch,
        &of_request,
    ]))
}

/// Checks the budget before a request is sent. A request in flight may still exceed the budget by its own cost.
fn check_budget(core: &Core, account: &Account) -> Result<(), Refused> {
    if let Some(task) = &account.task
        && let Some(budget) = task.budget
        && task.spent >= budget
    {
        return Err(refused(
            StatusCode::PAYMENT_REQUIRED,
            format!("this task has spent {} of its budget of {budget}", task.spent),
        ));
    }
    let budget = account.budget.or(core.settings.agents.monthly_budget);
    match budget {
        Some(budget) if account.spent >= budget => Err(refused(
            StatusCode::PAYMENT_REQUIRED,
            format!(
                "this project's agents have spent {} of their monthly budget of {budget}; raise the budget or wait for the next month",
                account.spent
            ),
        )),
        _ => Ok(()),
    }
}

/// Adds the credential to the headers.
fn add_credential(headers: &mut HeaderMap, credential: &Credential) -> Result<(), Refused> {
    let unusable = || {
        refused(
            StatusCode::UNAUTHORIZED,
            "the credential has characters that no header can have",
        )
    };
    let value = |text: String| {
        let mut value = HeaderValue::try_from(text).map_err(|_| unusable())?;
        value.set_sensitive(true);
        Ok::<_, Refused>(value)
    };
    let bearer = |secret: &SecretString| value(format!("Bearer {}", secret.expose_secret()));
    for line in credential
        .headers
        .iter()
        .flat_map(|lines| lines.expose_secret().lines())
    {
        let Some((name, content)) = line.split_once(':') else {
            continue;
        };
        let name: HeaderName = name.trim().parse().map_err(|_| unusable())?;
        if !is_hop_by_hop(&name) && !NOT_FORWARDED.contains(&name) {
            headers.insert(name, value(content.trim().to_owned())?);
        }
    }
    match &credential.key {
        Key::Header(name, secret) => {
            headers.insert(*name, value(secret.expose_secret().to_owned())?);
        }
        Key::Bearer(secret) => {
            headers.insert(header::AUTHORIZATION, bearer(secret)?);
        }
        Key::Subscription(secret) => {
            headers.insert(header::AUTHORIZATION, bearer(secret)?);
            headers.append("anthropic-beta", HeaderValue::from_static(SUBSCRIPTION_BETA));
        }
    }
    Ok(())
}

/// Requests usage: a streamed chat reports it only on request.
fn with_usage(body: Bytes) -> Bytes {
    let Ok(mut request) = serde_json::from_slice::<serde_json::Value>(&body) else {
        return body;
    };
    if request.get("stream") != Some(&serde_json::Value::Bool(true)) {
        return body;
    }
    let Some(fields) = request.as_object_mut() else {
        return body;
    };
    let options = fields
        .entry("stream_options")
        .or_insert_with(|| serde_json::json!({}));
    if let Some(options) = options.as_object_mut() {
        options.insert("include_usage".into(), true.into());
    }
    serde_json::to_vec(&request).map_or(body, Into::into)
}

/// Why there is no response, without the URL, which may hold a secret.
fn unreachable(error: reqwest::Error) -> Refused {
    let error = error.without_url();
    let mut cause = error.source();
    let mut message = error.to_string();
    while let Some(inner) = cause {
        if let Some(why) = inner.downcast_ref::<RequestRefused>() {
            return refused(StatusCode::FORBIDDEN, why.to_string());
        }
        if inner.is::<http_body_util::LengthLimitError>() {
            return refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a request has at most {MAX_REQUEST_BYTES} bytes"),
            );
        }
        message = inner.to_string();
        cause = inner.source();
    }
    tracing::info!(error = message, "a model's server could not be reached");
    let status = if error.is_timeout() {
        StatusCode::GATEWAY_TIMEOUT
    } else {
        StatusCode::BAD_GATEWAY
    };
    refused(
        status,
        format!("the model's server could not be reached: {message}"),
    )
}

fn metered_response(
    core: &Core,
    account: &Account,
    provider: Provider,
    credential: &Credential,
    counted: bool,
    answer: reqwest::Response,
) -> Response<Body> {
    let status = answer.status();
    let mut headers = answer.headers().clone();
    remove_unforwarded(&mut headers);
    let meter = (counted && status.is_success()).then(|| Meter::new(provider, &headers));
    let body = Metered {
        pieces: Box::pin(answer.bytes_stream()),
        meter,
        record: UsageRecord {
            core: core.clone(),
            project: account.project,
            task: account.task.map(|task| task.id),
            provider,
            trusted: credential.trusted,
        },
    };
    let mut response = Response::new(Body::from_stream(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A response in progress. Its usage is written however it ends.
struct Metered {
    pieces: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    meter: Option<Meter>,
    record: UsageRecord,
}

struct UsageRecord {
    core: Core,
    project: ProjectId,
    task: Option<uuid::Uuid>,
    provider: Provider,
    trusted: bool,
}

impl Stream for Metered {
    type Item = reqwest::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.pieces.as_mut().poll_next(context);
        if let (Poll::Ready(Some(Ok(piece))), Some(meter)) = (&next, &mut self.meter) {
            meter.feed(piece);
        }
        next
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        if let Some(meter) = self.meter.take() {
            self.record.write(meter.finish());
        }
    }
}

impl UsageRecord {
    /// Writes the usage in a task that a drain waits for.
    fn write(&self, mut counted: TokenUsage) {
        let prices = &self.core.settings.agents.prices;
        let cost = prices.cost(self.provider, &counted);
        // A server that a person chose could name a new model in each response.
        let known = counted
            .model
            .as_deref()
            .is_some_and(|model| prices.knows(self.provider, model));
        if !known && !self.trusted {
            counted.model = None;
        }
        let (core, project, task, provider) = (self.core.clone(), self.project, self.task, self.provider);
        self.core.tasks.spawn(async move {
            if let Err(error) = agents::add_usage(&core.store, project, task, provider, &counted, cost).await
            {
                tracing::error!(%error, %project, cost = %Micros(cost.0), "an agent's usage was not stored");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streamed_chats_request_usage() {
        let request = with_usage(Bytes::from_static(
            br#"{"stream":true,"stream_options":{"x":1},"messages":[]}"#,
        ));
        let request: serde_json::Value = serde_json::from_slice(&request).unwrap();
        assert_eq!(
            request["stream_options"],
            serde_json::json!({"x": 1, "include_usage": true})
        );
        for unchanged in [&b"nonsense"[..], b"[1]", br#"{"stream":false}"#] {
            assert_eq!(with_usage(Bytes::from_static(unchanged)), unchanged);
        }
    }
}
