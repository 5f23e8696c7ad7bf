//! Client of sandboxd in a branch's sandbox, for use cases and handlers: selects the sandbox, adds its token,
//! and translates sandboxd's responses.
//!
//! sandboxd's responses are not trusted (the sandbox's root could have replaced it): only the header fields
//! that a caller names are forwarded, its errors are converted to the API's form, and it cannot act under the
//! main host's origin.

mod byte_tunnel;
mod error_response;
mod pass_through;
mod streams;
mod websocket;

use std::sync::Arc;

use fsa_driver::{BoxConnection, Endpoint, SharedDriver};
use fsa_model::{
    ContainerState, DesiredState, Phase, SandboxRef,
    sandboxd::{ExecRequest, ExecResult, Usage},
};
use fsa_sandboxd_client::SandboxdClient;
use secrecy::SecretString;

pub(crate) use self::{
    pass_through::{as_items, pass_through},
    streams::Streams,
    websocket::Handshake,
};
use crate::{
    Error, Result,
    auth::permission::{Authorized, Permission},
    core::Core,
    store::{associated_data, branches::AuthorizedBranch, sandboxes, sandboxes::SandboxRow},
    tunnel::CloseReason,
};

/// A running sandbox, and the token of its sandboxd.
pub(crate) struct RunningSandbox {
    driver: SharedDriver,
    sandbox: SandboxRef,
    token: SecretString,
}

impl RunningSandbox {
    /// The branch's sandbox.
    ///
    /// # Errors
    /// 409 that names the phase, if the sandbox does not run.
    pub(crate) async fn of<R: Permission>(core: &Core, project: &AuthorizedBranch<R>) -> Result<Self> {
        match sandboxes::of_branch(&core.store, project.branch().volume).await? {
            Some(sandbox) => {
                Self::of_row(core, &project.region, &sandbox).map_err(|e| e.with_project(project.id))
            }
            None => Err(not_running(None).with_project(project.id)),
        }
    }

    /// Like [`Self::of`], for a row that was already read.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn of_row(core: &Core, region: &str, sandbox: &SandboxRow) -> Result<Self> {
        let phase = sandbox.phase();
        // A container that is about to be replaced would take new work with it.
        if sandbox.container != ContainerState::Running
            || sandbox.desired_state != DesiredState::Running
            || phase == Phase::Updating
        {
            return Err(not_running(Some(phase)));
        }
        let region = core.regions.get(region).ok_or_else(|| {
            Error::unavailable(format!("The region {region} is not configured on this server."))
        })?;
        let id = sandbox.id.to_string();
        Ok(Self {
            driver: Arc::clone(&region.driver),
            sandbox: sandbox.reference(),
            token: core
                .key_ring
                .decrypt(associated_data::control_token(&id), &sandbox.control_token)?,
        })
    }

    /// A client for its sandboxd.
    pub(crate) fn sandboxd(&self) -> SandboxdClient<'_> {
        SandboxdClient::new(&*self.driver, &self.sandbox, &self.token)
    }

    /// Its resource usage: measured from outside, or, if that is not possible (a machine without control
    /// groups), as sandboxd measures its processes.
    ///
    /// # Errors
    /// The driver's error, or sandboxd does not respond.
    pub(crate) async fn usage(&self) -> Result<Usage> {
        let outside = self.driver.usage(&self.sandbox).await?;
        if outside.pids > 0 {
            return Ok(outside);
        }
        let inside = self.sandboxd().usage().await?;
        Ok(Usage {
            disk_bytes: outside.disk_bytes,
            disk_limit_bytes: outside.disk_limit_bytes,
            ..inside
        })
    }

    /// Opens a connection to a port on its loopback.
    ///
    /// # Errors
    /// The driver's error: also if no process listens on the port.
    pub(crate) async fn connect(&self, port: u16) -> Result<BoxConnection> {
        Ok(self.driver.connect(&self.sandbox, Endpoint::Port(port)).await?)
    }

    /// Runs a command and returns when it has ended.
    ///
    /// # Errors
    /// The command could not be started, or the sandbox does not respond. The command's own failure is in the
    /// result.
    pub(crate) async fn exec(&self, command: &ExecRequest) -> Result<ExecResult> {
        Ok(self.sandboxd().exec(command).await?)
    }
}

/// When a stream in a project must end: the server drains, or the caller's credential or permission no longer
/// holds.
pub(crate) async fn stream_end<R: Permission>(core: Core, authorized: Authorized<R>) -> CloseReason {
    tokio::select! {
        () = core.shutdown.cancelled() => CloseReason::Restarting,
        () = authorized.ended(&core) => CloseReason::Refused,
    }
}

/// 409 that names the phase.
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
            "The project's status has the reason and the time of the next attempt.",
        ),
    };
    Error::conflict(sentence).with_message(format!("{sentence} {advice}"))
}
