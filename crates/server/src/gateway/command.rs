//! One command in a sandbox, from its start to its end, for whoever asks for one: a person by the API, and
//! the control plane itself.

use std::time::Duration;

use axum::body::Body;
use fsa_driver::control;
use fsa_model::sandboxd::{ExecRequest, ExecResult};
use http::{Request, header};

use super::inside::Inside;
use crate::error::{Error, Result};

/// Where a request names no limit, sandboxd's own.
const DEFAULT_SECONDS: u32 = 60;
/// What starting, ending and answering may take beside the command's own time.
const BESIDE: Duration = Duration::from_secs(30);
/// Two outputs of a mebibyte each, where every byte is written as six (`\u0000`), and a rest.
const ANSWER_LIMIT: usize = 14 * 1024 * 1024;

impl Inside {
    /// Runs a command, and returns when it has ended.
    ///
    /// # Errors
    /// It could not be started, or the sandbox does not answer. That it failed is in the result.
    pub(crate) async fn run(&self, wish: &ExecRequest) -> Result<ExecResult> {
        let request = Request::post("/v1/exec")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(serde_json::to_vec(wish)?))
            .map_err(|error| Error::internal("A request cannot be made.").because(error))?;
        let seconds = wish.timeout_seconds.unwrap_or(DEFAULT_SECONDS);
        let patience = Duration::from_secs(seconds.into()) + BESIDE;
        let answer = self.answer(request, patience).await?;
        let read = axum::body::to_bytes(Body::new(answer.into_body()), ANSWER_LIMIT);
        let bytes = tokio::time::timeout(control::PATIENCE, read)
            .await
            .map_err(|_| Error::unavailable("The sandbox did not finish its answer."))?
            .map_err(|error| {
                Error::unavailable("The sandbox's answer broke off or is too long.").because(error)
            })?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::unavailable("The sandbox gave an answer that makes no sense.").because(error)
        })
    }
}
