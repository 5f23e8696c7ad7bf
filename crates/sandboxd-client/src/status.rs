//! Status of a sandbox: what it is now, and each change.

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

/// Between two tries to reach a sandboxd that does not listen yet.
const PAUSE: Duration = Duration::from_millis(40);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The status now and at each change. It ends with the sandbox or with an error.
pub type StatusStream = Pin<Box<dyn Stream<Item = Result<Status>> + Send>>;

impl SandboxdClient<'_> {
    /// The status now.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn status(&self) -> Result<Status> {
        self.fetch(request(Method::GET, paths::STATUS, empty()), TIMEOUT)
            .await
    }

    /// The status now and at each change, until the sandbox ends or the stream is dropped.
    ///
    /// # Errors
    /// [`Error`]; a later one ends the stream.
    pub async fn watch(&self) -> Result<StatusStream> {
        let request = request(Method::GET, paths::WATCH, empty());
        let response = self.send(request, TIMEOUT).await?;
        Ok(Box::pin(json_lines(response.into_body())))
    }

    /// Waits until terminals can be opened. Returns the status that says so, and the stream that goes on after it.
    /// Where sandboxd may not listen yet ([`fsa_driver::Capabilities::listens_at_start`]), it is tried again until then.
    ///
    /// # Errors
    /// [`Error`]: also where the sandbox ends first or `timeout` runs out.
    pub async fn await_ready(&self, timeout: Duration) -> Result<(Status, StatusStream)> {
        let final_at_once = self.driver.capabilities().listens_at_start;
        let mut last = None;
        let wait = async {
            let mut pause = PAUSE;
            loop {
                match self.first_ready().await {
                    Err(error) if !final_at_once => last = Some(error),
                    outcome => return outcome,
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
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
