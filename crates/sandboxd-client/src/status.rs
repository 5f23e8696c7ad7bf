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
    ///
    /// # Errors
    /// [`Error`]: also where the sandbox ends first or `timeout` runs out.
    pub async fn await_ready(&self, timeout: Duration) -> Result<(Status, StatusStream)> {
        let wait = async {
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
        };
        tokio::time::timeout(timeout, wait)
            .await
            .map_err(|_| no_answer())?
    }
}
