//! Status of a sandbox: the current one, and a stream of changes.

use std::{pin::Pin, time::Duration};

use fsa_driver::DriverError;
use fsa_model::{
    FailureKind,
    sandboxd::{Status, paths},
};
use futures_util::{Stream, StreamExt as _};
use http::Method;

use crate::{
    Error, Result, SandboxdClient,
    transport::{TIMEOUT, empty, json_lines, no_answer, request},
};

/// Delay between attempts to connect to a sandboxd that does not listen yet.
const RETRY_DELAY: Duration = Duration::from_millis(40);
const MAX_RETRY_DELAY: Duration = Duration::from_millis(500);

/// The current status and each change. Ends with the sandbox or with an error.
pub type StatusStream = Pin<Box<dyn Stream<Item = Result<Status>> + Send>>;

impl SandboxdClient<'_> {
    /// The current status.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn status(&self) -> Result<Status> {
        self.fetch(request(Method::GET, paths::STATUS, empty()), TIMEOUT)
            .await
    }

    /// The current status and each change, until the sandbox ends or the stream is dropped.
    ///
    /// # Errors
    /// [`Error`]; a later one ends the stream.
    pub async fn watch(&self) -> Result<StatusStream> {
        let request = request(Method::GET, paths::WATCH, empty());
        let response = self.send(request, TIMEOUT).await?;
        Ok(Box::pin(json_lines(response.into_body())))
    }

    /// Waits until terminals can be opened. Returns that status, and the stream of later ones. If sandboxd may not
    /// listen yet ([`fsa_driver::Capabilities::listens_at_start`]), connects again until it does.
    ///
    /// # Errors
    /// [`Error`]: also if the sandbox ends first, or at the timeout.
    pub async fn await_ready(&self, timeout: Duration) -> Result<(Status, StatusStream)> {
        let is_error_final = self.driver.capabilities().listens_at_start;
        let mut last = None;
        let wait = async {
            let mut pause = RETRY_DELAY;
            loop {
                match self.first_ready().await {
                    Err(error) if !is_error_final => last = Some(error),
                    outcome => return outcome,
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_RETRY_DELAY);
            }
        };
        let outcome = tokio::time::timeout(timeout, wait).await;
        outcome.unwrap_or_else(|_| Err(last.unwrap_or_else(no_answer)))
    }

    async fn first_ready(&self) -> Result<(Status, StatusStream)> {
        let mut statuses = self.watch().await?;
        while let Some(status) = statuses.next().await {
            let status = status?;
            if status.ready {
                return Ok((status, statuses));
            }
        }
        Err(Error::from(DriverError::new(
            FailureKind::Transient,
            "the sandbox ended before its terminal was ready",
        )))
    }
}
