//! Sandbox callback: requests from programs in a sandbox to the control plane, over a connection to sandboxd on which
//! sandboxd is the client ([`fsa_model::callback`]), and their routing.
//!
//! The process that follows the sandbox opens it when sandboxd reports a pending request.
//! Only the identity of the sandbox that the connection leads to is trusted.

pub mod credential;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::body::Body;
use fsa_driver::Driver;
use fsa_model::{SandboxRef, llm_provider::Provider};
use fsa_sandboxd_client::SandboxdClient;
use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use secrecy::SecretString;

use crate::{
    core::Core,
    git_credentials::{self, GitCredentials},
    github,
    llm_proxy::{CallingSandbox, relay, upstream::Upstream},
};

/// Concurrent requests of one sandbox; sandboxd sends half as many.
const MAX_STREAMS: u32 = 64;
/// Flow-control window: unread bytes of one request, and of all requests of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Most bytes of one response that are buffered before the connection takes them.
const SEND_BUFFER: usize = 256 * 1024;
/// How often an idle sandbox is pinged.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Answers the requests of sandboxes. Cheap to clone.
#[derive(Clone)]
pub struct Callback {
    core: Core,
    pub git_credentials: GitCredentials,
    llm_upstream: Arc<Upstream>,
}

impl Callback {
    #[must_use]
    pub fn new(core: Core) -> Self {
        Self {
            git_credentials: GitCredentials::new(vec![
                Box::new(git_credentials::StoredCredential),
                Box::new(github::credential::LinkedAccount),
            ]),
            llm_upstream: Arc::new(Upstream::new(&core.settings.agents.allowed_networks)),
            core,
        }
    }
}

/// Opens a connection to the sandbox and answers requests on it until sandboxd closes it, it breaks off or
/// the server shuts down.
///
/// # Errors
/// The connection could not be opened; the text is for the log.
pub async fn open(
    callback: Callback,
    driver: &dyn Driver,
    sandbox: &SandboxRef,
    token: &SecretString,
) -> Result<(), String> {
    let io = SandboxdClient::new(driver, sandbox, token)
        .open_callback()
        .await
        .map_err(|error| error.to_string())?;
    let sandbox = CallingSandbox {
        id: sandbox.id,
        project: sandbox.project,
    };
    serve(callback, sandbox, io).await;
    Ok(())
}

/// Answers the requests over `io`.
pub async fn serve(
    callback: Callback,
    sandbox: CallingSandbox,
    io: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
) {
    let shutdown = callback.core.shutdown.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let callback = callback.clone();
        async move { Ok::<_, Infallible>(answer(&callback, &sandbox, request).await) }
    });
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(64 * 1024)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .serve_connection(io, service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, sandbox = %sandbox.id, "a callback connection ended with an error");
    }
}

async fn answer(callback: &Callback, sandbox: &CallingSandbox, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if let Some((provider, rest)) = Provider::of_path(&path) {
        return relay::answer(
            &callback.core,
            &callback.llm_upstream,
            sandbox,
            provider,
            rest,
            request,
        )
        .await;
    }
    if request.method() == Method::POST && [credential::REQUEST, credential::REFUSED].contains(&path.as_str())
    {
        return credential::answer(callback, sandbox, request).await;
    }
    let mut response = Response::new(Body::from("there is no such callback"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
