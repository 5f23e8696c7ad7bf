//! Tasks: commands that run whether or not a client is connected.

use std::time::Duration;

use fsa_model::sandboxd::{ExecRequest, TaskOutput, paths};
use http::{Method, Uri};
use uuid::Uuid;

use crate::{
    Result, SandboxdClient,
    transport::{TIMEOUT, empty, json_request, request_to, uri},
};

impl SandboxdClient<'_> {
    /// Starts a task. A task that was started before continues.
    ///
    /// # Errors
    /// [`crate::Error`]: also if the command cannot be started.
    pub async fn start_task(&self, id: Uuid, command: &ExecRequest) -> Result<()> {
        let request = json_request(Method::PUT, task(id)?, command)?;
        self.send(request, TIMEOUT).await.map(drop)
    }

    /// Reads the output after the position `after`, and waits up to `wait_seconds` for some. Acknowledges the output
    /// before the position.
    ///
    /// # Errors
    /// [`crate::Error`]: 404 if there is no such task.
    pub async fn read_task(&self, id: Uuid, after: i64, wait_seconds: u64) -> Result<TaskOutput> {
        let uri = uri(format!("{}?after={after}&wait={wait_seconds}", task(id)?))?;
        let timeout = TIMEOUT + Duration::from_secs(wait_seconds);
        self.fetch(request_to(Method::GET, uri, empty()), timeout).await
    }

    /// Stops a running task, or deletes one that has ended.
    ///
    /// # Errors
    /// [`crate::Error`].
    pub async fn end_task(&self, id: Uuid) -> Result<()> {
        let request = request_to(Method::DELETE, task(id)?, empty());
        self.send(request, TIMEOUT).await.map(drop)
    }
}

fn task(id: Uuid) -> Result<Uri> {
    uri(paths::member(paths::TASKS, &id.to_string()))
}
