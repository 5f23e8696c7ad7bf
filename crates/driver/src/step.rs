//! The steps from what is to what is wanted, and which of them must wait for which.

use serde::{Deserialize, Serialize};

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub kind: StepKind,
    /// Why it is needed, for the event log.
    pub reason: String,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StepKind {
    /// Role and database.
    EnsureDatabase,
    /// Interface, address, routes, the gate to the database; or Service, Ingress, NetworkPolicy.
    EnsureNetwork,
    /// Image, root file system, volume, process 1; replaces a container with another digest.
    EnsureContainer,
    /// Waits until sandboxd answers and terminals can be opened.
    AwaitTerminal,
    /// Ends the processes, keeps the files.
    StopContainer,
    /// Removes everything of the sandbox.
    Destroy,
    /// Removes the project's home volume.
    RemoveVolume,
    /// Removes role and database.
    DropDatabase,
}

impl StepKind {
    /// The steps that, where the same plan has them, must be done before this one begins.
    #[must_use]
    pub const fn after(self, database_known_ahead: bool) -> &'static [Self] {
        match self {
            Self::EnsureDatabase | Self::EnsureNetwork | Self::StopContainer => &[],
            Self::EnsureContainer if database_known_ahead => &[Self::StopContainer, Self::EnsureNetwork],
            Self::EnsureContainer => &[Self::StopContainer, Self::EnsureNetwork, Self::EnsureDatabase],
            Self::AwaitTerminal => &[Self::EnsureContainer, Self::EnsureNetwork],
            Self::Destroy => &[Self::StopContainer],
            Self::RemoveVolume | Self::DropDatabase => &[Self::Destroy],
        }
    }
}

impl Step {
    #[must_use]
    pub fn new(kind: StepKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
        }
    }
}
