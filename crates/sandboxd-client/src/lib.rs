//! Client for sandboxd, process 1 of every sandbox, over any driver's connection.
//!
//! [`SandboxdClient`] has a method for each route of sandboxd's API ([`fsa_model::sandboxd::paths`]); all requests of
//! the control plane to sandboxd go through it. Responses are not trusted, because the sandbox's root could have replaced
//! sandboxd: their sizes are bounded and their format is validated. The caller decides what to show to users.

#![forbid(unsafe_code)]

mod error;
mod files;
mod status;
mod tasks;
mod transport;
mod upgrades;

use std::time::Duration;

use fsa_driver::Driver;
use fsa_model::{
    SandboxRef,
    sandboxd::{ExecRequest, ExecResult, LogLine, TerminalSession, Usage, paths},
};
use futures_util::Stream;
use http::{Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::SecretString;

pub use error::{Error, ErrorResponse, Result};
pub use files::{FileQuery, FileScope};
pub use status::StatusStream;
pub use transport::{Body, ResponseBody, TIMEOUT, read_body};
pub use upgrades::{TerminalQuery, WebSocketRequest};

use transport::{empty, json_lines, json_request, request, request_to, uri};

/// Timeout of an exec without one: sandboxd's default.
const DEFAULT_EXEC_SECONDS: u32 = 60;
/// Time for the start, the end and the response of an exec, in addition to its timeout.
const EXEC_OVERHEAD: Duration = Duration::from_secs(30);
/// Maximum bytes of an exec's response: two outputs of 1 MiB each, with six bytes of JSON per byte (`\u0000`), and the rest.
const MAX_EXEC_BYTES: usize = 14 * 1024 * 1024;

/// Characters that are not percent-encoded in a path segment (RFC 3986 §2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Client for the sandboxd of one sandbox.
#[derive(Clone, Copy)]
pub struct SandboxdClient<'a> {
    driver: &'a dyn Driver,
    sandbox: &'a SandboxRef,
    token: &'a SecretString,
}

impl<'a> SandboxdClient<'a> {
    /// `token` is the sandbox's control token.
    #[must_use]
    pub fn new(driver: &'a dyn Driver, sandbox: &'a SandboxRef, token: &'a SecretString) -> Self {
        Self {
            driver,
            sandbox,
            token,
        }
    }

    /// The resource usage of the sandbox's processes.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn usage(&self) -> Result<Usage> {
        self.fetch(request(Method::GET, paths::USAGE, empty()), TIMEOUT)
            .await
    }

    /// Runs a command, and returns when it has ended. A command's failure is part of the result, not an error. Dropping
    /// the future ends the command.
    ///
    /// # Errors
    /// [`Error`]: also if the command could not be started.
    pub async fn exec(&self, command: &ExecRequest) -> Result<ExecResult> {
        let request = json_request(Method::POST, Uri::from_static(paths::EXEC), command)?;
        let seconds = command.timeout_seconds.unwrap_or(DEFAULT_EXEC_SECONDS);
        let timeout = Duration::from_secs(seconds.into()) + EXEC_OVERHEAD;
        self.fetch_bounded(request, timeout, MAX_EXEC_BYTES).await
    }

    /// The start command's log lines after the sequence number `after`, with `follow` also future ones.
    ///
    /// # Errors
    /// [`Error`]; a later one ends the stream.
    pub async fn logs(
        &self,
        after: u64,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<LogLine>> + Send + use<>> {
        let uri = uri(format!("{}?after={after}&follow={follow}", paths::LOGS))?;
        let response = self.send(request_to(Method::GET, uri, empty()), TIMEOUT).await?;
        Ok(json_lines(response.into_body()))
    }

    /// The terminal sessions. Names and titles come from programs and are not trusted.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn terminals(&self) -> Result<Vec<TerminalSession>> {
        self.fetch(request(Method::GET, paths::TERMINALS, empty()), TIMEOUT)
            .await
    }

    /// Ends a terminal session and what runs in it.
    ///
    /// # Errors
    /// [`Error`]: 404 if there is no session of this name.
    pub async fn close_terminal(&self, name: &str) -> Result<()> {
        let name = utf8_percent_encode(name, UNRESERVED).to_string();
        let uri = uri(paths::member(paths::TERMINALS, &name))?;
        self.send(request_to(Method::DELETE, uri, empty()), TIMEOUT)
            .await
            .map(drop)
    }

    /// Retries a failed clone of the repository.
    ///
    /// # Errors
    /// [`Error`]: 409 if there is nothing to clone.
    pub async fn clone_repository(&self) -> Result<()> {
        self.send(request(Method::POST, paths::CLONE, empty()), TIMEOUT)
            .await
            .map(drop)
    }
}
