//! Steps of a plan: how to get from the observed to the desired state, and the order of the steps.

/// One step of a plan: `S` is the sandbox's spec, and `D` the database's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<S, D> {
    pub action: Action<S, D>,
    /// The reason for the step, for the log.
    pub reason: &'static str,
}

/// The action of a step. The steps that remove a project are not part of a plan ([`super::removal`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<S, D> {
    EnsureDatabase(D),
    EnsureNetwork(S),
    EnsureContainer(S),
    AwaitTerminal(S),
    StopContainer,
    Destroy,
}

/// The kind of a step: in events, metrics and the order of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Role and database.
    EnsureDatabase,
    /// Interface, address, routes, the way to the database; or Service, Ingress, NetworkPolicy.
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

impl<S, D> Step<S, D> {
    #[must_use]
    pub const fn new(action: Action<S, D>, reason: &'static str) -> Self {
        Self { action, reason }
    }

    #[must_use]
    pub const fn kind(&self) -> StepKind {
        match &self.action {
            Action::EnsureDatabase(_) => StepKind::EnsureDatabase,
            Action::EnsureNetwork(_) => StepKind::EnsureNetwork,
            Action::EnsureContainer(_) => StepKind::EnsureContainer,
            Action::AwaitTerminal(_) => StepKind::AwaitTerminal,
            Action::StopContainer => StepKind::StopContainer,
            Action::Destroy => StepKind::Destroy,
        }
    }
}

impl StepKind {
    /// The steps that, where the same plan has them, must be done before this one begins.
    #[must_use]
    pub const fn after(self, predictable_credentials: bool) -> &'static [Self] {
        match self {
            Self::EnsureDatabase | Self::EnsureNetwork | Self::StopContainer => &[],
            Self::EnsureContainer if predictable_credentials => &[Self::StopContainer, Self::EnsureNetwork],
            Self::EnsureContainer => &[Self::StopContainer, Self::EnsureNetwork, Self::EnsureDatabase],
            Self::AwaitTerminal => &[Self::EnsureContainer, Self::EnsureNetwork],
            Self::Destroy => &[Self::StopContainer],
            Self::DropDatabase => &[Self::Destroy],
            // A database may be on the volume.
            Self::RemoveVolume => &[Self::Destroy, Self::DropDatabase],
        }
    }
}
