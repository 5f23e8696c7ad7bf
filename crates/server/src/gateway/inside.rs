//! The way from the API to sandboxd of a project's sandbox: relays of answers and of WebSockets.
//!
//! What sandboxd answers is not trusted (the sandbox's root could have replaced it): only the
//! fields of its head that a relay asks for are passed on, its refusals are put in our own form,
//! and it cannot speak for the main host's origin.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fsa_driver::{
    SharedDriver,
    control::{AnswerBody, Control, PATIENCE, read},
};
use fsa_model::{ContainerState, DesiredState, ErrorBody, Phase, SandboxRef, UserId, sandboxd::Usage};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use secrecy::SecretString;

use super::{
    headers::lists,
    tunnel::{Farewell, Speech, relay},
};
use crate::{
    App, Error, Result,
    auth::{
        Caller,
        permission::{Authorized, Permission},
    },
    store::{associated_data, projects::ProjectRow, sandboxes, sandboxes::SandboxRow},
};

/// sandboxd of one sandbox that runs.
pub(crate) struct Inside {
    driver: SharedDriver,
    sandbox: SandboxRef,
    token: SecretString,
}

impl Inside {
    /// sandboxd of the project's sandbox.
    ///
    /// # Errors
    /// 409 with the phase in words where the sandbox does not run.
    pub(crate) async fn of(app: &App, project: &ProjectRow) -> Result<Self> {
        match sandboxes::main_of(&app.store, project).await? {
            Some(sandbox) => Self::of_sandbox(app, &project.region, &sandbox).map_err(|e| e.of(project.id)),
            None => Err(not_running(None).of(project.id)),
        }
    }

    /// As [`Self::of`], where the row is at hand.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn of_sandbox(app: &App, region: &str, sandbox: &SandboxRow) -> Result<Self> {
        let phase = sandbox.phase();
        // A container that is about to be replaced would take along what is begun in it now.
        if sandbox.container != ContainerState::Running
            || sandbox.desired_state != DesiredState::Running
            || phase == Phase::Updating
        {
            return Err(not_running(Some(phase)));
        }
        let region = app.regions.get(region).ok_or_else(|| {
            Error::unavailable(format!("The region {region} is not configured on this server."))
        })?;
        let id = sandbox.id.to_string();
        Ok(Self {
            driver: Arc::clone(&region.driver),
            sandbox: sandbox.reference(),
            token: app
                .key_ring
                .decrypt(associated_data::control_token(&id), &sandbox.control_token)?,
        })
    }

    pub(crate) fn control(&self) -> Control<'_> {
        Control::new(&*self.driver, &self.sandbox, &self.token)
    }

    /// What it uses: measured from outside, or where nothing can be (a machine without control
    /// groups), what sandboxd sees of its processes.
    ///
    /// # Errors
    /// The driver's, and where sandboxd does not answer.
    pub(crate) async fn usage(&self) -> Result<Usage> {
        let outside = self.driver.usage(&self.sandbox).await?;
        if outside.pids > 0 {
            return Ok(outside);
        }
        let inside = self
            .control()
            .json(Method::GET, "/v1/usage", None::<&()>, PATIENCE)
            .await?;
        Ok(Usage {
            disk_bytes: outside.disk_bytes,
            ..inside
        })
    }

    /// Sends a request and returns sandboxd's answer where it is one of success. A refusal
    /// becomes an error of ours.
    ///
    /// # Errors
    /// Where sandboxd does not answer, or refuses.
    pub(crate) async fn answer(
        &self,
        request: Request<Body>,
        patience: Duration,
    ) -> Result<http::Response<AnswerBody>> {
        let request = request.map(|body| body.map_err(std::io::Error::other).boxed_unsync());
        let answer = self.control().send(request, patience).await?;
        if answer.status().is_success() || answer.status() == StatusCode::NOT_MODIFIED {
            Ok(answer)
        } else {
            let (parts, body) = answer.into_parts();
            Err(refusal(parts.status, body).await)
        }
    }

    /// As [`Self::answer`], passed on: its status, those of its fields that are in `fields`, and
    /// its body as it comes.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn pass_on(
        &self,
        request: Request<Body>,
        fields: &[HeaderName],
        patience: Duration,
    ) -> Result<Response> {
        let (parts, body) = self.answer(request, patience).await?.into_parts();
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = parts.status;
        for name in fields {
            if let Some(value) = parts.headers.get(name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        // The main host's origin is not lent to what comes out of a sandbox.
        response.headers_mut().insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("sandbox; default-src 'none'"),
        );
        response.headers_mut().insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        Ok(response)
    }

    /// Answers a WebSocket's handshake with sandboxd's own answer to the same key, and from then
    /// on passes the bytes of both sides to the other: frames are neither read nor written here,
    /// and their masks stay as they are, because each side goes on in its own role.
    ///
    /// # Errors
    /// 400 or 426 where the handshake is none; sandboxd's refusal.
    pub(crate) async fn websocket(
        &self,
        app: &App,
        mut request: Request<Body>,
        path: &str,
        protocol: Option<&'static str>,
        end: impl Future<Output = Farewell> + Send + 'static,
        place: impl Send + 'static,
    ) -> Result<Response> {
        let key = handshake(&request, protocol)?;
        let client = hyper::upgrade::on(&mut request);
        let mut inner = Request::get(path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key);
        if let Some(protocol) = protocol {
            inner = inner.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let inner = inner
            .body(fsa_driver::control::empty())
            .map_err(|error| Error::internal("A request cannot be made.").because(error))?;
        let (parts, server) = match self.control().upgrade(inner, PATIENCE).await? {
            Ok(upgraded) => upgraded,
            Err(answer) => {
                let (parts, body) = answer.into_parts();
                return Err(refusal(parts.status, body).await);
            }
        };
        let accept = accept_of(&key);
        if parts.headers.get(header::SEC_WEBSOCKET_ACCEPT) != Some(&accept) {
            return Err(Error::new(
                StatusCode::BAD_GATEWAY,
                "BrokenAnswer",
                "The sandbox answered a handshake with one of somebody else's.",
            ));
        }
        let tunnels = app.gateway.tunnels.clone();
        tunnels.spawn(async move {
            if let Ok(client) = client.await {
                let (client, server) = (TokioIo::new(client), TokioIo::new(server));
                relay(client, server, Bytes::new(), Speech::WebSocket, end).await;
            }
            drop(place);
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        Ok(response)
    }
}

/// When a stream in a project must end: the server drains, or the caller's credential or right no longer
/// holds.
pub(crate) async fn over<R: Permission>(app: App, authorized: Authorized<R>) -> Farewell {
    tokio::select! {
        () = app.shutdown.cancelled() => Farewell::Restarting,
        () = authorized.ended(&app) => Farewell::Refused,
    }
}

/// 409 with the phase in words.
fn not_running(phase: Option<Phase>) -> Error {
    let (sentence, advice) = match phase {
        None | Some(Phase::Terminating | Phase::Terminated) => (
            "This project has no sandbox at the moment.",
            "Start the project to get one.",
        ),
        Some(Phase::Updating) => ("The sandbox is restarting.", "Try again when it is RUNNING."),
        Some(Phase::Creating | Phase::Starting | Phase::Running) => {
            ("The sandbox is starting.", "Try again when it is RUNNING.")
        }
        Some(Phase::Stopping | Phase::Stopped) => (
            "The sandbox is stopped.",
            "Start the project, and then try again.",
        ),
        Some(Phase::Error) => (
            "The sandbox could not be started yet.",
            "The project's status says why, and when it is tried again.",
        ),
    };
    Error::conflict(sentence).saying(format!("{sentence} {advice}"))
}

/// An answer that is no success, in our own form. Its words are sandboxd's, so they are bounded
/// and plain.
async fn refusal(status: StatusCode, body: AnswerBody) -> Error {
    let said = match read(body, PATIENCE).await {
        Ok(bytes) => serde_json::from_slice::<ErrorBody>(&bytes).ok(),
        Err(error) => return error.into(),
    };
    let words = |text: &str| -> String { text.chars().filter(|c| !c.is_control()).take(500).collect() };
    let sentence = said.as_ref().map_or_else(
        || "The sandbox refused the request.".to_owned(),
        |said| words(&said.error),
    );
    // 401 and 403 would say something of the caller, whom sandboxd does not know.
    let (status, name) = match status {
        StatusCode::BAD_REQUEST => (StatusCode::UNPROCESSABLE_ENTITY, "Refused"),
        StatusCode::NOT_FOUND => (status, "NotFound"),
        StatusCode::FORBIDDEN | StatusCode::CONFLICT => (StatusCode::CONFLICT, "Conflict"),
        StatusCode::PRECONDITION_FAILED => (status, "PreconditionFailed"),
        StatusCode::PRECONDITION_REQUIRED => (status, "PreconditionRequired"),
        StatusCode::PAYLOAD_TOO_LARGE => (status, "TooLarge"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (status, "UnsupportedMediaType"),
        StatusCode::RANGE_NOT_SATISFIABLE => (status, "RangeNotSatisfiable"),
        StatusCode::UNPROCESSABLE_ENTITY => (status, "Refused"),
        StatusCode::TOO_MANY_REQUESTS => (status, "TooManyRequests"),
        StatusCode::INSUFFICIENT_STORAGE => (status, "DiskFull"),
        _ => (StatusCode::BAD_GATEWAY, "SandboxFailed"),
    };
    let field = said.and_then(|said| said.details.field);
    match field {
        Some(field) if status == StatusCode::UNPROCESSABLE_ENTITY => {
            Error::invalid(words(&field.name), words(&field.rule))
        }
        _ => Error::new(status, name, sentence),
    }
}

/// Checks that a request opens a WebSocket (RFC 6455 §4.2.1) and returns its key.
fn handshake(request: &Request<Body>, protocol: Option<&str>) -> Result<HeaderValue> {
    let headers = request.headers();
    let upgrades = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && lists(headers, header::CONNECTION, "upgrade")
        && lists(headers, header::UPGRADE, "websocket");
    if !upgrades {
        return Err(Error::new(
            StatusCode::UPGRADE_REQUIRED,
            "UpgradeRequired",
            "This path speaks WebSocket; connect with a client that does.",
        ));
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(Error::bad_request(
            "Only version 13 of the WebSocket protocol is spoken here.",
        ));
    }
    if let Some(protocol) = protocol
        && !lists(headers, header::SEC_WEBSOCKET_PROTOCOL, protocol)
    {
        return Err(Error::bad_request(format!(
            "The WebSocket must offer the subprotocol {protocol:?}."
        )));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    key.filter(|key| STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16))
        .cloned()
        .ok_or_else(|| Error::bad_request("The WebSocket's handshake has no valid Sec-WebSocket-Key."))
}

fn accept_of(key: &HeaderValue) -> HeaderValue {
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    HeaderValue::try_from(accept).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Counts the long streams of each user.
#[derive(Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<UserId, usize>>>);

/// One stream, for as long as it lives.
pub(crate) struct StreamPlace {
    user: UserId,
    counts: Arc<Mutex<HashMap<UserId, usize>>>,
}

impl Streams {
    /// A place for one more stream of `caller`.
    ///
    /// # Errors
    /// 429 where there are as many as [`crate::state::Limits::streams_per_user`].
    pub(crate) fn begin(&self, app: &App, caller: &Caller) -> Result<StreamPlace> {
        let user = caller.user();
        let most = app.settings.limits.streams_per_user;
        let mut counts = self.0.lock();
        let count = counts.entry(user).or_default();
        if *count >= most {
            return Err(Error::too_often(
                format!("You have {most} terminals and streams open already; close some first."),
                Duration::from_secs(5),
            ));
        }
        *count += 1;
        Ok(StreamPlace {
            user,
            counts: Arc::clone(&self.0),
        })
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.user);
            }
        }
    }
}
